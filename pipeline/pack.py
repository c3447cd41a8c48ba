"""Make the leaderboard's archive of a complete run again, and with it all else that leaves the pipeline.

python -m pipeline.pack run=outputs/run=2026-11-21 submission.mode=extracted
"""

from __future__ import annotations

from pipeline.cli import command
from pipeline.errors import ConfigError


def main(arguments: list[str]) -> None:
    """Pack the run that `run=<directory>` names; words `submission.<key>=<value>` win over what it recorded.

    Raises:
        ConfigError: The words are not one `run=<directory>` and keys of `submission`, or a task has no submission_name.
        RunError: The archive would be incomplete, the run is not complete, or its directory cannot be written.
        DataError: The run's samples are damaged.
    """
    directories = [argument.removeprefix("run=") for argument in arguments if argument.startswith("run=")]
    changes = [argument for argument in arguments if not argument.startswith("run=")]
    if len(directories) != 1 or not directories[0]:
        raise ConfigError(f"{' '.join(arguments)!r}: give one run, for instance run=outputs/run=2026-11-21")
    for argument in changes:
        if not argument.startswith("submission."):
            raise ConfigError(f"{argument!r}: only keys of submission can be given, such as submission.mode=extracted")
    from pipeline.orchestrator import pack

    pack(directories[0], changes)


if __name__ == "__main__":
    raise SystemExit(command(main))
