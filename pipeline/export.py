"""Write the samples and metrics of a run in the format of another program.

python -m pipeline.export run=<run> to=csv|xlsx|hf|inspect|trackio [out=<path>]

In: a complete run, which is only read. Out: by default files in the working directory, see docs/export.md.
"""

from __future__ import annotations

from pipeline.cli import command, parse


def main(arguments: list[str]) -> None:
    """Export the run.

    Raises:
        ConfigError: An argument is wrong, `out` exists, or the package of the format is not installed.
        RunError: The run does not exist or is not complete, or `out` cannot be written.
        DataError: The run is damaged.
    """
    own, _ = parse("export", arguments)
    from pipeline.formats.commands import export
    from pipeline.terminal.console import plain

    export(**own, console=plain())


if __name__ == "__main__":
    raise SystemExit(command(main))
