"""Score a run's completions again, without a GPU: its samples and metrics, and what was made of them, are replaced.

python -m pipeline.rescore run=outputs/run=2026-11-21
"""

from __future__ import annotations

from pipeline.cli import command
from pipeline.errors import ConfigError


def main(arguments: list[str]) -> None:
    """Score the run that `run=<directory>` names and print its summary.

    Raises:
        ConfigError: The words are not one `run=<directory>`, or the run's config.yaml is damaged.
        RunError: There is no run in the directory, it cannot be written, or another process writes it.
        DataError: The run has no prompts or completions.
        GateFailed: It is scored, and breaks a rule of its gate.
    """
    if len(arguments) != 1 or not arguments[0].startswith("run=") or arguments[0] == "run=":
        raise ConfigError(f"{' '.join(arguments)!r}: give one run, for instance run=outputs/run=2026-11-21")
    from pipeline.orchestrator import rescore

    rescore(arguments[0].removeprefix("run="))


if __name__ == "__main__":
    raise SystemExit(command(main))
