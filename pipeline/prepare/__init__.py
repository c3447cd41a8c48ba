"""The prepare room: benchmark rows in, prompts/ out. CPU only."""

from pipeline.prepare.stage import prepare

__all__ = ["prepare"]
