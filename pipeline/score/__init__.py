"""The score stage: reads prompts/ and completions/, writes samples/ and metrics.parquet. CPU only."""
