"""Score a run's completions again, without a GPU: its samples and metrics, and what was made of them, are replaced.

python -m pipeline.rescore run=outputs/run=2026-11-21
"""

from __future__ import annotations

import sys

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
    from pipeline.runs import directory as run_directory

    run, config = run_directory.open_finished(arguments[0].removeprefix("run="))

    # What is heavy comes after what the user may have got wrong.
    from rich.console import Console

    from pipeline.comparison import gate, noise
    from pipeline.publish import stage as publish_stage
    from pipeline.runs import manifest
    from pipeline.runs.lock import locked
    from pipeline.score.stage import score
    from pipeline.terminal.run_summary import counts, print_summary
    from pipeline.terminal.text import escape_control

    with locked(run):
        content = manifest.read(run)
        is_complete = content is not None and content["status"] == "complete"
        if is_complete and content is not None:  # until both samples and metrics are new; `run` goes on from here too
            manifest.write(run, "running", content)
        publish_stage.remove_products(run, config)
        score(run, config)
        lines: list[str] = []
        if is_complete and content is not None:
            content |= {"counts": counts(run), "gate": None, "compare": None}
            if content.get("noise"):
                score(run.child(noise.FOLDER), noise.second(config))
                content["noise"] = noise.measure(config, run)
            verdict = gate.judge(config, run, content)
            content |= gate.manifest_entries(verdict)
            products = publish_stage.publish(run, config, content)
            content |= {"published": publish_stage.record(products), "rescored_at": manifest.now()}
            lines = [product.line for product in products] + (verdict.lines if verdict else [])
            manifest.write(run, "complete", content)
    console = Console(width=None if sys.stdout.isatty() else 120)  # a log has no width of its own
    print_summary(run, config, console)
    for line in lines:
        console.print(escape_control(line), soft_wrap=True, markup=False, highlight=False)
    if is_complete and content is not None:
        run_directory.require_few_failed(run, config, content)
        gate.require_kept(content)


if __name__ == "__main__":
    raise SystemExit(command(main))
