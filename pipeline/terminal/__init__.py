"""What a person sees: console, progress, summary and preview; SIGINT and SIGTERM."""
