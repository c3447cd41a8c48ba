"""Remove the large files of old runs, so that a year of nightly runs fits on a disk. It lists first.

python -m pipeline.prune output_dir=outputs [keep_days=90] [apply=true]

In: the runs of a directory. Out: a line for each run of which something is removed, and with apply=true exactly that is
removed. Manifests, configurations, metrics.parquet and the index stay.
"""

from __future__ import annotations

from pipeline.cli import command, parse


def main(arguments: list[str]) -> None:
    """List what is removed of old runs, and with `apply=true` remove it.

    Raises:
        ConfigError: An argument is wrong.
        RunError: There is no such directory, it cannot be reached, or some runs could not be pruned.
    """
    own, _ = parse("prune", arguments)
    from pipeline.overview.commands import show_prune
    from pipeline.terminal.console import plain

    show_prune(**own, console=plain())


if __name__ == "__main__":
    raise SystemExit(command(main))
