"""A night of `fake_run.py`: `python tests/fake_night.py <directory> night=<id> runs=<file> ...`."""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline.cli import command, parse, resolve
from pipeline.nightly.night import NightOptions, execute

FAKE_RUN = Path(__file__).with_name("fake_run.py")


def run_night(directory: Path, arguments: list[str]) -> None:
    own, overrides = parse("night", arguments)
    program = [sys.executable, "-S", str(FAKE_RUN), str(directory)]
    execute(NightOptions(**own, overrides=overrides), resolve, program=program)


def main(arguments: list[str]) -> None:
    run_night(Path(arguments[0]), arguments[1:])


if __name__ == "__main__":
    sys.exit(command(main))
