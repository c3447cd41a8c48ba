"""The score room: prompts/ and completions/ in, samples/ and metrics.parquet out. CPU only."""
