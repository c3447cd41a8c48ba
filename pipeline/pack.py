"""Rebuild the leaderboard archive of a complete run, and everything else that a run publishes.

python -m pipeline.pack run=outputs/run=2026-11-21 [submission.mode=extracted] submission.key=value ...
"""

# PYTHON_ARGCOMPLETE_OK

from __future__ import annotations

from pipeline.cli import command, parse


def main(arguments: list[str]) -> None:
    """Pack the run that `run=<directory>` names; arguments `submission.<key>=<value>` override the recorded ones.

    They are recorded with the run, so that `rescore` and the next `pack` keep them.

    Raises:
        ConfigError: An argument is wrong, or a task has no submission_name.
        RunError: The archive would be incomplete, the run is not complete, or its directory cannot be written.
        DataError: The run's samples are damaged.
    """
    own, overrides = parse("pack", arguments)
    from pipeline.runs.directory import open_finished

    run, config = open_finished(own["run"], overrides, to_write=True)
    from pipeline.orchestrator import pack

    pack(run, config, overrides)


if __name__ == "__main__":
    raise SystemExit(command(main))
