"""Check us against the harness: its logs are replayed through our prompts, metrics and extraction; no engine is needed.

    python -m pipeline.replay logs=<samples_*.jsonl, directory or zip> conf=mera
    python -m pipeline.replay logs=samples_agro_2026-11-21T01-02-03.jsonl task=agro_bench conf=mera
    python -m pipeline.replay logs=submission.zip conf=mera run=outputs/run=2026-11-21 out=replayed

In: lm-evaluation-harness's own sample logs and a configuration. Out: `<out>/differences.parquet`, a row a question and
field that differs, `<out>/extracted.parquet`, a row a response that our letters judge otherwise, and a table. With run=
the responses of that run are compared too. Exit code 3 when anything differs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.console import Console

from pipeline.cli import command
from pipeline.config.loading import compose
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.harness.replay import ReplayArguments

OWN = ("logs", "task", "run", "out")
"""Arguments of this command; all others are the configuration's."""


def main(arguments: list[str]) -> None:
    """Replay the logs that the words name.

    Raises:
        Differs: The harness and we do not agree.
        UserError: The logs, the data set or the run cannot be used; the message says how to mend it.
    """
    requested = read_arguments(arguments)
    from pipeline.harness.replay import replay_logs

    replay_logs(requested, Console(highlight=False, width=None if sys.stdout.isatty() else 120))


def read_arguments(arguments: Sequence[str]) -> ReplayArguments:
    """Return the command line with its configuration.

    Raises:
        ConfigError: A word is wrong, logs= is missing, or a key of the configuration is.
    """
    own = dict.fromkeys(OWN, "")
    rest: list[str] = []
    for argument in arguments:
        name, separator, value = argument.partition("=")
        if name not in OWN or not separator:
            rest.append(argument)
        elif not value or own[name]:
            raise ConfigError(f"{argument!r}: {name}= takes one value, once")
        else:
            own[name] = value
    if not own["logs"]:
        raise ConfigError(
            "logs= is missing: give a samples_*.jsonl, a directory of them, or the archive that holds them"
        )
    own["out"] = own["out"] or f"outputs/replay-{datetime.now(UTC):%Y-%m-%dT%H-%M-%S}"
    from pipeline.harness.replay import ReplayArguments

    return ReplayArguments(config=compose(rest), **own)


if __name__ == "__main__":
    raise SystemExit(command(main))
