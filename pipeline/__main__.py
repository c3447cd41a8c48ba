"""`python -m pipeline` lists the commands; each is a module of its own: `python -m pipeline.<command>`."""

from __future__ import annotations

from difflib import get_close_matches

from pipeline.cli import COMMANDS, command
from pipeline.errors import ConfigError


def main(arguments: list[str]) -> None:
    """Reject any argument: `command` has already answered requests for help and for the version.

    Raises:
        ConfigError: Always; the message suggests the closest command.
    """
    (name,) = get_close_matches(arguments[0], COMMANDS, n=1, cutoff=0.5) or ["<command>"]
    raise ConfigError(f"{arguments[0]!r}: write python -m pipeline.{name}; the commands are {', '.join(COMMANDS)}")


if __name__ == "__main__":
    raise SystemExit(command(main))
