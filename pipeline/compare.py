"""Compare two complete runs of the same questions, question by question.

python -m pipeline.compare base=outputs/run=2026-11-20 new=outputs/run=2026-11-21 [out=<directory>]

In: the two runs, which are only read. Out: a table on the terminal, and compare.parquet, flips.parquet and compare.html
in `out`; by default in `compare=<base>..<new>` next to the new run. The exit code does not depend on the scores: the
gate of a run's configuration judges those.
"""

# PYTHON_ARGCOMPLETE_OK

from __future__ import annotations

from pipeline.cli import command, parse


def main(arguments: list[str]) -> None:
    """Compare the runs that `base=` and `new=` name.

    Raises:
        ConfigError: An argument is unknown, missing or repeated.
        RunError: There is no such run, one is not complete, or their questions differ.
        DataError: A file of one of them is damaged.
    """
    own, _ = parse("compare", arguments)
    from pipeline.comparison.compare_runs import compare_directories
    from pipeline.comparison.table import show
    from pipeline.terminal.console import plain

    show(*compare_directories(**own), plain())


if __name__ == "__main__":
    raise SystemExit(command(main))
