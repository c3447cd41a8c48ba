"""Score a run's completions again, without a GPU: its samples and metrics are replaced.

python -m pipeline.rescore run=outputs/run=2026-11-21
"""

from __future__ import annotations

from rich.console import Console

from pipeline import compose
from pipeline.cli import command
from pipeline.errors import ConfigError, RunError
from pipeline.score.room import score
from pipeline.store import Folder
from pipeline.summary import print_summary

CONFIG_FILE = "config.yaml"


def main(words: list[str]) -> None:
    """Score the run that `run=<directory>` names and print its summary.

    Raises:
        ConfigError: The words are not one `run=<directory>`, or the run's config.yaml is damaged.
        RunError: There is no run in the directory, or it cannot be written.
        DataError: The run has no prompts or completions.
    """
    if len(words) != 1 or not words[0].startswith("run=") or words[0] == "run=":
        raise ConfigError(f"{' '.join(words)!r}: give one run, for instance run=outputs/run=2026-11-21")
    run = Folder.open(words[0].removeprefix("run="))
    if not run.exists():
        raise RunError(f"{words[0]}: there is no such directory")
    if not run.exists(CONFIG_FILE):
        raise RunError(f"{words[0]}: the directory has no {CONFIG_FILE}, so it is not a run's")
    config = compose.load(run.read_text(CONFIG_FILE), run.path(CONFIG_FILE))
    score(run, config)
    print_summary(run, config, Console())


if __name__ == "__main__":
    raise SystemExit(command(main))
