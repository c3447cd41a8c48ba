"""Show how to spread a model over GPUs, from its config.json alone.

python -m pipeline.plan conf=mera [gpu=A100-SXM4-80GB] [gpus=8] [output_tokens=2000] key=value ...

In: a configuration, and the GPUs and the workload to plan for. Out: a table on the terminal, a row for each tensor
parallel size, the fastest first.
"""

# PYTHON_ARGCOMPLETE_OK

from __future__ import annotations

from pipeline.cli import command, parse
from pipeline.config.loading import compose


def main(arguments: list[str]) -> None:
    """Print the plans for the configuration's model.

    Raises:
        ConfigError: An argument is wrong, or the model fits on no group of the GPUs.
        ModelError: The model cannot be found or downloaded, or its config.json does not give its shape.
    """
    own, overrides = parse("plan", arguments)
    config = compose(overrides)
    from pipeline.planner.report import PlanOptions, show
    from pipeline.terminal.console import plain

    show(config, PlanOptions(**own), plain())


if __name__ == "__main__":
    raise SystemExit(command(main))
