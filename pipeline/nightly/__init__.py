"""Several runs in order: their processes, the record and the table of how they ended, and the notification."""
