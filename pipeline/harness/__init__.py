"""The logs of lm-evaluation-harness: found, read, and compared with our own prompts and scores."""
