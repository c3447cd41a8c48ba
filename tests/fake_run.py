"""A stand-in for `pipeline.run` in a night: `python tests/fake_run.py <directory> conf=demo ... run_id=<night>-<name>`.

What it does is in `<directory>/<name>.json`: `seconds` to work, what to print on standard error, the exit code, the
number of a signal to end by, and whether the run becomes a copy of the complete run in `<directory>/template`. Each
start adds a line to `<directory>/starts` and to `arguments`, each signal a line to `signals`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from types import FrameType


def main(directory: Path, arguments: dict[str, str]) -> int:
    run_id = arguments["run_id"]
    name = run_id.rpartition("-")[2]
    script = json.loads((directory / f"{name}.json").read_text())
    run = Path(arguments["output_dir"], f"run={run_id}")
    note(directory / "starts", name)
    note(directory / "arguments", " ".join(f"{key}={value}" for key, value in arguments.items()))

    def on_signal(number: int, _: FrameType | None) -> None:
        note(directory / "signals", f"{name} {number}")
        print("error: interrupted: the same command goes on", file=sys.stderr, flush=True)
        os._exit(130)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    (directory / f"{name}.environ").write_bytes(b"\n".join(b"=".join(each) for each in os.environb.items()))
    if not run.exists():
        note(directory / "working", name)
        time.sleep(script.get("seconds", 0))
        if script.get("signal"):
            os.kill(os.getpid(), script["signal"])
        if script.get("complete", True):
            shutil.copytree(directory / "template", run)
            manifest = json.loads((run / "manifest.json").read_text()) | script.get("manifest", {})
            (run / "manifest.json").write_text(json.dumps(manifest))
    print(script.get("stderr", ""), end="", file=sys.stderr)
    return int(script.get("code", 0))


def note(file: Path, line: str) -> None:
    with file.open("a", encoding="utf-8") as lines:
        lines.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), dict(each.split("=", 1) for each in sys.argv[2:])))
