"""The prepare room: benchmark rows in, prompts/ out. CPU only."""

from pipeline.prepare.room import prepare

__all__ = ["prepare"]
