"""Terminal output (console, progress, run summary, text) and handling of SIGINT and SIGTERM."""
