"""The prepare stage: reads benchmark rows and writes prompts/. Needs only a CPU."""

from pipeline.prepare.stage import prepare

__all__ = ["prepare"]
