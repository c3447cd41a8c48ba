"""Show what a run would request, from which engine, and what is wrong with it, without an engine.

python -m pipeline.preview conf=mera [task=med_bench] [id=17] [n=3] key=value ...
python -m pipeline.preview conf=own model.path=/models/mine write=conf/mine.yaml
python -m pipeline.preview conf=mera plan=true [gpu=A100-SXM4-80GB] [gpus=8] key=value ...

In: a configuration. Out: lines on the terminal, with `plan=true` those of `python -m pipeline.plan`; with `write=` also
a configuration file to keep. Prompts are rendered as `run` renders them, in a temporary directory. Errors that `run`
raises before its engine starts are raised here as well.
"""

# PYTHON_ARGCOMPLETE_OK

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipeline.cli import command, parse
from pipeline.config.fields import require
from pipeline.config.loading import COMMAND_LINE, compose, directory_of, origins


def main(arguments: list[str]) -> None:
    """Print the preview that the arguments describe.

    Raises:
        PipelineError: `run` would fail with the same error, or there is no such task or question.
    """
    own, overrides = parse("preview", arguments)
    config = compose(overrides)
    file = Path(text).expanduser() if (text := own.pop("write", None)) else None
    if own.pop("plan"):
        from pipeline.planner.report import PlanOptions, show
        from pipeline.terminal.console import plain

        show(config, PlanOptions(**own), plain())
        return
    task, found = own.pop("task"), origins(overrides)
    if task is not None:
        require(task in config.tasks, "task", task, f"there are {', '.join(config.tasks)}")
        config, found = replace(config, only=(task,)), found | {"only": f"{COMMAND_LINE}, task="}
    from pipeline.orchestrator import preview
    from pipeline.preflight.preview import Keep, PreviewOptions
    from pipeline.terminal.console import plain

    keep = Keep(file=file, arguments=overrides) if file is not None else None
    options = PreviewOptions(**own, keep=keep)
    preview(config, found, options, plain(), lambda name: directory_of(overrides, name))


if __name__ == "__main__":
    raise SystemExit(command(main))
