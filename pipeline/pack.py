"""Make the leaderboard's archive of a complete run again, and with it all else that leaves the pipeline.

python -m pipeline.pack run=outputs/run=2026-11-21 submission.mode=extracted
"""

from __future__ import annotations

from pipeline.cli import command
from pipeline.errors import ConfigError, RunError


def main(arguments: list[str]) -> None:
    """Pack the run that `run=<directory>` names; words `submission.<key>=<value>` win over what it recorded.

    Raises:
        ConfigError: The words are not one `run=<directory>` and keys of `submission`, or a task has no submission_name.
        RunError: The archive would be incomplete, the run is not complete, or its directory cannot be written.
        DataError: The run's samples are damaged.
    """
    directories = [argument.removeprefix("run=") for argument in arguments if argument.startswith("run=")]
    changes = [argument for argument in arguments if not argument.startswith("run=")]
    if len(directories) != 1 or not directories[0]:
        raise ConfigError(f"{' '.join(arguments)!r}: give one run, for instance run=outputs/run=2026-11-21")
    for argument in changes:
        if not argument.startswith("submission."):
            raise ConfigError(f"{argument!r}: only keys of submission can be given, such as submission.mode=extracted")
    from pipeline.runs import directory as run_directory

    run, config = run_directory.open_finished(directories[0], changes)

    # What is heavy comes after what the user may have got wrong.
    from rich.console import Console

    from pipeline.publish import stage as publish_stage
    from pipeline.publish.leaderboard import archive as leaderboard_archive
    from pipeline.runs import manifest
    from pipeline.runs.lock import locked

    with locked(run):
        content = manifest.read(run)
        if content is None or content["status"] != "complete":
            status = "has no manifest" if content is None else f"is {content['status']}"
            raise RunError(f"run={directories[0]} {status}: only a complete run is packed; run it again to its end")
        reason = leaderboard_archive.reason_not_packable(run, config)
        if reason is not None:
            raise reason
        products = publish_stage.publish(run, config, content)
        manifest.write(run, "complete", content | {"published": publish_stage.record(products)})
    for product in products:
        Console().print(product.line, soft_wrap=True, highlight=False, markup=False)


if __name__ == "__main__":
    raise SystemExit(command(main))
