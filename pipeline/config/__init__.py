"""Every configuration key with its type, default, meaning and bounds; conf files and overrides become a `Config`."""
