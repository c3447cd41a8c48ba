"""List the runs in a directory: model, date, score with its interval, gate, status and duration; newest first.

python -m pipeline.list [output_dir=outputs] [model=<part of a name>] [last=30] [json=true] [sql='SELECT ... FROM runs']

In: the runs, which are only read, but that index entries which are missing are made. Out: a table on the terminal, or
JSON.
"""

from __future__ import annotations

from pipeline.cli import command, parse


def main(arguments: list[str]) -> None:
    """Print the runs, or with `sql=` the rows of a query over them.

    Raises:
        ConfigError: An argument is wrong, or the query is no SELECT or fails.
        RunError: There is no such directory, or it cannot be reached.
    """
    own, _ = parse("list", arguments)
    from pipeline.overview import commands
    from pipeline.terminal.console import plain

    if own["sql"] is not None:
        commands.show_query(own["output_dir"], own["sql"], plain(), as_json=own["as_json"])
    else:
        commands.show_list(own["output_dir"], own["model"], own["last"], plain(), as_json=own["as_json"])


if __name__ == "__main__":
    raise SystemExit(command(main))
