"""A night whose runs are another program: `python tests/night_of.py '{"program": ["python", "x.py"]}' night=n ...`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

from pipeline import cli
from pipeline.config.loading import compose
from pipeline.config.schema import Config
from pipeline.nightly.night import NightOptions, WriteIndex, execute


@cache
def demo() -> Config:
    return compose(["conf=demo"])


def quick(arguments: Sequence[str]) -> tuple[Config, None]:
    """Return the demo's configuration with the run_id and output_dir of the arguments: composing takes a while."""
    given = dict(argument.split("=", 1) for argument in arguments)
    return replace(demo(), run_id=given["run_id"], output_dir=given["output_dir"]), None


def run_night(
    program: Sequence[str], arguments: Sequence[str], write_index: WriteIndex | None = None, *, is_quick: bool = True
) -> None:
    own, overrides = cli.parse("night", arguments)
    execute(NightOptions(**own, overrides=overrides), quick if is_quick else cli.resolve, write_index, program)


def main(arguments: list[str]) -> None:
    run_night(arguments=arguments[1:], **json.loads(arguments[0]))


if __name__ == "__main__":
    sys.exit(cli.command(main))
