"""Score a run's completions again, without a GPU: its samples, metrics and card are replaced.

python -m pipeline.rescore run=outputs/run=2026-11-21
"""

from __future__ import annotations

from rich.console import Console

from pipeline import manifest, rundir
from pipeline.cli import command
from pipeline.errors import ConfigError
from pipeline.lock import locked
from pipeline.publish.card import write_card
from pipeline.score.room import score
from pipeline.summary import counts, print_summary


def main(words: list[str]) -> None:
    """Score the run that `run=<directory>` names and print its summary.

    Raises:
        ConfigError: The words are not one `run=<directory>`, or the run's config.yaml is damaged.
        RunError: There is no run in the directory, it cannot be written, or another process writes it.
        DataError: The run has no prompts or completions.
    """
    if len(words) != 1 or not words[0].startswith("run=") or words[0] == "run=":
        raise ConfigError(f"{' '.join(words)!r}: give one run, for instance run=outputs/run=2026-11-21")
    run, config = rundir.open_finished(words[0].removeprefix("run="))
    with locked(run):
        content = manifest.read(run)
        is_complete = content is not None and content["status"] == "complete"
        if is_complete and content is not None:  # until both samples and metrics are new; `run` goes on from here too
            manifest.write(run, "running", content)
        score(run, config)
        if content is not None:
            write_card(run, config, content)
        if is_complete and content is not None:
            manifest.write(run, "complete", content | {"counts": counts(run), "rescored_at": manifest.now()})
    print_summary(run, config, Console())


if __name__ == "__main__":
    raise SystemExit(command(main))
