"""Two complete runs over the same questions in, what has changed between them out. CPU only."""
