"""Batch evaluation of language models on MERA: rows flow through prepare, generate, score and publish."""

__version__ = "0.1.0"
