"""Every key with its type, default, meaning and bounds; configuration files and arguments merged into one `Config`."""
