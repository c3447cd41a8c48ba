"""Run a benchmark: prepare prompts, generate completions, score them and publish the results.

python -m pipeline.run conf=mera [run_id=2026-11-21] [limit=20] key=value ...
python -m pipeline.run from=outputs/run=2026-11-21 key=value ...

In: a configuration, or with `from=` the complete run to reproduce. Out: one directory `outputs/run=<run_id>/`. The same
`run_id` resumes an interrupted or failed run, and prints the summary of a complete one again.
"""

# PYTHON_ARGCOMPLETE_OK

from __future__ import annotations

from pipeline.cli import command, resolve
from pipeline.config.loading import directory_of


def main(arguments: list[str]) -> None:
    """Run the benchmark that the arguments describe.

    Raises:
        PipelineError: See `pipeline.orchestrator.execute`.
    """
    config, reproduction = resolve(arguments)
    from pipeline.orchestrator import execute

    execute(config, reproduction=reproduction, directory_of=lambda name: directory_of(arguments, name))


if __name__ == "__main__":
    raise SystemExit(command(main))
