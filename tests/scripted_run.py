"""`pipeline.run` with a scripted engine: `python tests/scripted_run.py '{"seconds": 1}' conf=demo ...`."""

from __future__ import annotations

import json
import sys

from scripted import ScriptedFactory

from pipeline.cli import command, resolve
from pipeline.orchestrator import execute


def main(arguments: list[str]) -> None:
    script, *overrides = arguments
    config, reproduction = resolve(overrides)
    execute(config, ScriptedFactory(**json.loads(script)), reproduction)
    heavy = {"torch", "transformers", "vllm"} & set(sys.modules)
    assert not heavy, f"the driver has imported {heavy}, which takes seconds"


if __name__ == "__main__":
    sys.exit(command(main))
