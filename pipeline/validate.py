"""Check an archive as the leaderboard's server would, before one of the day's ten submissions is spent on it.

python -m pipeline.validate archive=outputs/run=2026-11-21/2026-11-21_submission.zip conf=mera

The archive may be anybody's: this pipeline's, the harness's packer's, or one written by hand. The ids are compared
with the data sets of `conf=`, or with those that a run was asked when `run=<directory>` is given.
"""

from __future__ import annotations

from rich.console import Console

from pipeline.cli import command
from pipeline.config.loading import compose
from pipeline.errors import ConfigError

OWN_ARGUMENTS = ("archive", "run")


def main(arguments: list[str]) -> None:
    """Print what there is to say of the archive that `archive=<zip>` names.

    Raises:
        ConfigError: The words do not name one archive and a configuration or a run.
        InvalidArchive: The server would refuse it.
        RunError, DataError: `run=` names no run, or one that is damaged.
    """
    named = {
        name: [argument.partition("=")[2] for argument in arguments if argument.startswith(f"{name}=")]
        for name in OWN_ARGUMENTS
    }
    rest = [argument for argument in arguments if not argument.startswith(tuple(f"{name}=" for name in OWN_ARGUMENTS))]
    if len(named["archive"]) != 1 or not named["archive"][0]:
        raise ConfigError(f"{' '.join(arguments)!r}: give one archive, for instance archive=x_submission.zip conf=mera")
    if len(named["run"]) > 1 or "" in named["run"] or not (named["run"] or rest):
        raise ConfigError(f"{' '.join(arguments)!r}: say which tasks it is for, with conf=<name> or run=<directory>")
    config = compose(rest) if rest else None
    from pipeline.orchestrator import validate

    console = Console(highlight=False, markup=False)
    validate(named["archive"][0], named["run"][0] if named["run"] else None, config, console)


if __name__ == "__main__":
    raise SystemExit(command(main))
