"""The prepare room: benchmark rows in, prompts/ out. CPU only."""
