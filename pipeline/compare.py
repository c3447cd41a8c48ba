"""Compare two complete runs over the same questions, question by question.

python -m pipeline.compare base=outputs/run=2026-11-20 new=outputs/run=2026-11-21 [out=<directory>]

In: the two runs, which are only read. Out: a table on the terminal, and compare.parquet, flips.parquet and compare.html
in `out`; by default in `compare=<base>..<new>` beside the new run. The exit code tells nothing of the scores: that is
the gate's part, in a run's configuration.
"""

from __future__ import annotations

from pipeline.cli import command
from pipeline.errors import ConfigError


def main(arguments: list[str]) -> None:
    """Compare the runs that `base=` and `new=` name.

    Raises:
        ConfigError: A word is unknown, missing or given twice.
        RunError: There is no such run, one is not complete, or their questions differ.
        DataError: A file of theirs is damaged.
    """
    named = _named(arguments)
    from pipeline.comparison.compare_runs import compare_directories
    from pipeline.comparison.table import show
    from pipeline.terminal.console import plain

    show(*compare_directories(named["base"], named["new"], named.get("out")), plain())


def _named(arguments: list[str]) -> dict[str, str]:
    named: dict[str, str] = {}
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name not in ("base", "new", "out") or not value or name in named:
            raise ConfigError(f"{argument!r}: the words are base=<run> new=<run> and out=<directory>, each once")
        named[name] = value
    for name in ("base", "new"):
        if name not in named:
            raise ConfigError(f"{name}= is missing: give the directory of a run, for instance {name}=outputs/run=one")
    return named


if __name__ == "__main__":
    raise SystemExit(command(main))
