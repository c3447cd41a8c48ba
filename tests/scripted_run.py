"""The main job with a scripted engine, as a command: `python tests/scripted_run.py '{"seconds": 1}' conf=demo ...`."""

from __future__ import annotations

import json
import sys

from scripted import ScriptedFactory

from pipeline.cli import command
from pipeline.orchestrator import execute
from pipeline.run import resolve


def main(words: list[str]) -> None:
    script, *rest = words
    config, again = resolve(rest)
    execute(config, ScriptedFactory(**json.loads(script)), again)


if __name__ == "__main__":
    sys.exit(command(main))
