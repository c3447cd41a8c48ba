"""Apply the leaderboard server's checks to an archive, before it costs one of the ten submissions of a day.

python -m pipeline.validate archive=outputs/run=2026-11-21/2026-11-21_submission.zip conf=mera
python -m pipeline.validate archive=x_submission.zip run=outputs/run=2026-11-21

The archive may come from this pipeline, from the harness's packer, or be packed by hand. Its ids are compared with the
data sets of `conf=`, or with the questions of `run=`.
"""

# PYTHON_ARGCOMPLETE_OK

from __future__ import annotations

from pipeline.cli import command, parse
from pipeline.config.loading import compose
from pipeline.errors import ConfigError


def main(arguments: list[str]) -> None:
    """Print the findings about the archive that `archive=<zip>` names.

    Raises:
        ConfigError: An argument is wrong or missing, or the archive cannot be read.
        InvalidArchive: The server would reject it.
        RunError, DataError: `run=` names no run, or one that is damaged.
    """
    own, overrides = parse("validate", arguments)
    config, run = compose(overrides) if overrides else None, None
    if own["run"] is not None:
        from pipeline.runs.directory import open_finished

        run, recorded = open_finished(own["run"])
        config = config or recorded
    if config is None:
        raise ConfigError(f"archive={own['archive']!r}: name its tasks with conf=<name> or run=<directory>")
    from pipeline.orchestrator import validate
    from pipeline.terminal.console import plain

    validate(own["archive"], run, config, plain())


if __name__ == "__main__":
    raise SystemExit(command(main))
