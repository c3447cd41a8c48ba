"""Run a benchmark: prepare prompts, generate completions, score them and publish the results.

python -m pipeline.run conf=mera [run_id=2026-11-21] [limit=20] key=value ...
python -m pipeline.run from=outputs/run=2026-11-21 key=value ...

In: a configuration, or with `from=` the complete run to reproduce. Out: one directory `outputs/run=<run_id>/`. The same
`run_id` resumes an interrupted or failed run, and prints the summary of a complete one again.
"""

# PYTHON_ARGCOMPLETE_OK

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.cli import command, parse
from pipeline.config.loading import compose, directory_of

if TYPE_CHECKING:
    from pipeline.config.schema import Config
    from pipeline.runs.reproduce import Reproduction


def main(arguments: list[str]) -> None:
    """Run the benchmark that the arguments describe.

    Raises:
        PipelineError: See `pipeline.orchestrator.execute`.
    """
    config, reproduction = resolve(arguments)
    from pipeline.orchestrator import execute

    execute(config, reproduction=reproduction, directory_of=lambda name: directory_of(arguments, name))


def resolve(arguments: Sequence[str]) -> tuple[Config, Reproduction | None]:
    """Return the configuration that the arguments describe, and with `from=` the run that it reproduces.

    Raises:
        PipelineError: An argument is wrong, or the named run cannot be reproduced: see `pipeline.runs.reproduce`.
    """
    own, overrides = parse("run", arguments)
    if own["source"] is None:
        return compose(overrides), None
    from pipeline.runs import reproduce

    return reproduce.resolve(own["source"], overrides)


if __name__ == "__main__":
    raise SystemExit(command(main))
