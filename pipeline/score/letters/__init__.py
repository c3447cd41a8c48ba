"""Reads the option letters that a response answers with; `pipeline/score/extraction.py` is its interface."""
