"""Previews a run without an engine: its prompts, its requests, and what is wrong with its settings."""
