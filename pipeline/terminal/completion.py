"""Shell completion of `name=value` arguments, by argcomplete where it is installed.

A shell requests completions by running the command with the variable `_ARGCOMPLETE`; without it nothing is imported.
Set it up with `pip install argcomplete` and `activate-global-python-argcomplete`, which bash and zsh read at their
start; then `python -m pipeline.run conf=<TAB>` completes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

VARIABLE = "_ARGCOMPLETE"


def complete(candidates: Callable[[str], Sequence[str]]) -> None:
    """If a shell requests completions, print them and exit; else return.

    Args:
        candidates: Returns the completions of the beginning of an argument.
    """
    if VARIABLE not in os.environ:
        return
    try:
        import argcomplete
    except ImportError:
        return
    import argparse

    parser = argparse.ArgumentParser(add_help=False)
    argument = parser.add_argument("pairs", nargs="*")
    argument.completer = lambda prefix, **_: candidates(prefix)  # type: ignore[attr-defined]
    argcomplete.autocomplete(parser)
