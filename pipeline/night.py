"""Run several configurations on the same cluster, one after the other, and report how they ended.

python -m pipeline.night night=2026-11-28 runs=conf/night.yaml [strict=true] key=value ...

In: a file with the runs, and keys for all of them. Out: the runs `<output_dir>/run=<night>-<name>/`, and
`<output_dir>/night=<night>.json`. The same id does what is missing.
"""

from __future__ import annotations

from pipeline.cli import command, parse, resolve


def main(arguments: list[str]) -> None:
    """Run the night that the arguments describe.

    Raises:
        PipelineError: See `pipeline.nightly.night.execute`.
    """
    own, overrides = parse("night", arguments)
    from pipeline.nightly.night import NightOptions, execute
    from pipeline.overview.page import write_index

    execute(NightOptions(**own, overrides=overrides), resolve, write_index)


if __name__ == "__main__":
    raise SystemExit(command(main))
