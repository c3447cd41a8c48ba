"""Reads sample logs of lm-evaluation-harness and compares them with our own prompts and scores."""
