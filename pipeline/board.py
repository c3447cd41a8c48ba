"""Write one page over many runs and models: scores over time, domains, and which differences are significant.

python -m pipeline.board [output_dir=outputs | runs=<run>,<run>,...] [out=<file>]

In: complete runs, which are only read. Out: one HTML file that opens from disk without a network, by default
index.html in output_dir.
"""

from __future__ import annotations

from pipeline.cli import command, parse


def main(arguments: list[str]) -> None:
    """Write the page.

    Raises:
        ConfigError: An argument is wrong.
        RunError: A directory does not exist, cannot be reached or cannot be written.
        DataError: A run that is named cannot be read.
    """
    own, _ = parse("board", arguments)
    from pipeline.overview.commands import write_board
    from pipeline.terminal.console import plain

    write_board(**own, console=plain())


if __name__ == "__main__":
    raise SystemExit(command(main))
