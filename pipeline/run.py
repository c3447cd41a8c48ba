"""The main job: `python -m pipeline.run conf=<name> key=value ...`, or `from=<run>` to make a run again.

In: a configuration. Out: one directory `outputs/run=<run_id>/`. The same run_id again goes on where the run stopped.
"""

from __future__ import annotations

from pipeline.cli import command
from pipeline.config.loading import compose


def main(arguments: list[str]) -> None:
    """Run the benchmark that the arguments describe."""
    if any(argument.startswith("from=") for argument in arguments):
        from pipeline.runs.reproduce import resolve

        config, reproduction = resolve(arguments)
    else:
        config, reproduction = compose(arguments), None
    from pipeline.orchestrator import execute

    execute(config, reproduction=reproduction)


if __name__ == "__main__":
    raise SystemExit(command(main))
