"""Writes a complete run in formats of other programs: CSV, Excel, Hugging Face data sets, Inspect, Trackio."""
