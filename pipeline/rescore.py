"""Re-score the completions of a run without a GPU, and replace its samples, its metrics and what derives from them.

python -m pipeline.rescore run=outputs/run=2026-11-21
"""

# PYTHON_ARGCOMPLETE_OK

from __future__ import annotations

from pipeline.cli import command, parse


def main(arguments: list[str]) -> None:
    """Score the run that `run=<directory>` names and print its summary.

    Raises:
        ConfigError: An argument is wrong, or the run's config.yaml is damaged.
        RunError: There is no run in the directory, it cannot be written, or another process is writing it.
        DataError: The run has no prompts or completions.
        GateFailed: The run is scored, but fails a rule of its gate.
        TooManyFailedRows: The run is scored, but has more failed rows than its configuration allows.
    """
    own, _ = parse("rescore", arguments)
    from pipeline.runs.directory import open_finished

    run, config = open_finished(own["run"], to_write=True)
    from pipeline.orchestrator import rescore

    rescore(run, config)


if __name__ == "__main__":
    raise SystemExit(command(main))
