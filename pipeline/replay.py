"""Compare sample logs of lm-evaluation-harness with our prompts, metrics and extraction; no engine is needed.

python -m pipeline.replay logs=<samples_*.jsonl, directory or zip> conf=mera
python -m pipeline.replay logs=samples_agro_2026-11-21T01-02-03.jsonl task=agro_bench conf=mera
python -m pipeline.replay logs=submission.zip conf=mera run=outputs/run=2026-11-21 out=replayed

In: the harness's own sample logs and a configuration. Out: `<out>/differences.parquet`, a row for each question and
field that differs, `<out>/extracted.parquet`, a row for each response that its extracted letters and exact match score
differently, and a table. With `run=` the responses of that run are compared as well. The exit code is 3 when anything
differs.
"""

# PYTHON_ARGCOMPLETE_OK

from __future__ import annotations

from pipeline.cli import command, parse
from pipeline.config.loading import compose


def main(arguments: list[str]) -> None:
    """Replay the logs that `logs=` names.

    Raises:
        Differs: The harness and this pipeline differ.
        UserError: An argument is wrong, or the logs, the data set or the run cannot be used.
    """
    own, overrides = parse("replay", arguments)
    config = compose(overrides)
    from pipeline.harness.replay import ReplayOptions, replay_logs
    from pipeline.terminal.console import plain

    replay_logs(config, ReplayOptions(**own), plain())


if __name__ == "__main__":
    raise SystemExit(command(main))
