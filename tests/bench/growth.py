"""Measures the cost of a run by its size: all stages with a scripted engine, at 10,000, 100,000 and 1,000,000 rows.

    PYTHONPATH=tests .venv/bin/python -m bench.growth 10000 100000

The engine answers at once, so only the pipeline's own cost is measured. A run is a separate process (the driver). Its
memory is the high-water mark of its resident set; per stage it is the maximum of ten samples a second. The memory of
the prepare process and that of all Ray processes are reported separately, without shared pages. `--keep=DIR` keeps the
runs in DIR.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.results import Target

from pipeline.prepare import subprocess_stage

ROOT = Path(__file__).resolve().parents[2]
SIZES = (10_000, 100_000, 1_000_000)
LOOK_EVERY_S = 0.5
STAGES = ("prepare", "generate", "score", "publish")
BETWEEN = {"score": "gate"}
"""What runs between a stage and the next one."""
MANY = "Пояснение к ответу, которое модель пишет перед буквой. " * 8

CONF = """
base: [model/demo, cluster/cpu]
splits: [train]
tasks:
  growth: {{dataset: {data}, domain: growth}}
generation: {{do_sample: false, until: ["<|im_end|>"], max_gen_toks: 192}}
"""


def main(arguments: list[str]) -> None:
    keep = next((each.removeprefix("--keep=") for each in arguments if each.startswith("--keep=")), None)
    sizes = [int(each) for each in arguments if each.isdigit()] or SIZES
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(keep or temporary)
        results = [grow(num_rows, place) for num_rows in sizes]
    print_table(results)
    for target in targets(results):
        print(f"- {target}")
    print(json.dumps(results))


def grow(num_rows: int, place: Path) -> dict[str, Any]:
    """Run `num_rows` rows in a subprocess; return its seconds, MB and files, as `print_table` reads them."""
    data = place / f"data-{num_rows}"
    write_rows(data, num_rows)
    conf = place / f"growth-{num_rows}.yaml"
    conf.write_text(CONF.format(data=data), encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]), "GROWTH_DRIVER": "1"}
    line = [sys.executable, __file__, f"conf={conf}", f"run_id=growth-{num_rows}", f"output_dir={place}"]
    began = time.monotonic()
    process = subprocess.Popen(line, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    run = place / f"run=growth-{num_rows}"
    peaks = watch(process, run)
    if process.returncode:
        raise SystemExit(f"the run of {num_rows} rows ended with {process.returncode}")
    wall_s = time.monotonic() - began
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["counts"]["num_samples"] == num_rows
    count, size = on_disk(run)
    return {
        "rows": num_rows,
        "wall_s": round(wall_s, 1),
        "stages_s": {stage: round(manifest["timings_s"][stage], 1) for stage in STAGES},
        "driver_mb": json.loads((run / "memory.json").read_text()),
        "prepare_mb": round(peaks["prepare_mb"]),
        "ray_mb": round(peaks["ray_mb"]),
        "disk_mb": round(size, 1),
        "disk_peak_mb": round(max(peaks["disk_mb"], size), 1),
        "files": count,
        "files_peak": max(peaks["files"], count),
    }


def watch(process: subprocess.Popen[bytes], run: Path) -> dict[str, Any]:
    """Sample a run until its process ends; return the maxima of memory (MB), disk (MB) and number of files."""
    peaks: dict[str, Any] = {"prepare_mb": 0.0, "ray_mb": 0.0, "files": 0, "disk_mb": 0.0}
    while process.poll() is None:
        time.sleep(LOOK_EVERY_S)
        memory = {pid: resident_mb(pid) for pid in descendants(process.pid)}
        preparing = {pid for pid in memory if subprocess_stage.__name__ in command(pid)}
        files, disk_mb = on_disk(run)
        seen = {
            "prepare_mb": sum(memory[pid] for pid in preparing),
            "ray_mb": sum(memory[pid] for pid in memory.keys() - preparing),
            "files": files,
            "disk_mb": disk_mb,
        }
        peaks = {name: max(peaks[name], seen[name]) for name in peaks}
    return peaks


def targets(results: list[dict[str, Any]]) -> list[Target]:
    """Return the target for the driver's memory, if both sizes that it compares were run."""
    peaks = {each["rows"]: each["driver_mb"]["peak"] for each in results}
    if not {100_000, 1_000_000} <= peaks.keys():
        return []
    what = "driver's peak memory at 1,000,000 rows / at 100,000"
    return [Target(size="growth", what=what, value=peaks[1_000_000] / peaks[100_000], wanted=1.3, is_most=True)]


def drive(arguments: list[str]) -> None:
    """Run as the driver, and write this process's peak memory by stage into the run's directory."""
    from scripted import ScriptedFactory

    from pipeline.config.loading import compose
    from pipeline.orchestrator import execute

    samples: list[tuple[float, float]] = []
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(LOOK_EVERY_S / 5):
            samples.append((time.monotonic(), status_mb("VmRSS")))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    run = execute(compose(arguments), ScriptedFactory(answer=f"{MANY}</think>A"))
    ended.set()
    thread.join()
    timings = json.loads(run.read_text("manifest.json"))["timings_s"]
    peaks: dict[str, int] = {}
    until = samples[-1][0]  # only the manifest and a summary come after the last stage
    for stage in reversed(STAGES):
        until -= timings.get(BETWEEN.get(stage, ""), 0.0)
        since = until - timings[stage]
        peaks[stage] = round(max((mb for at, mb in samples if since <= at <= until), default=0))
        until = since
    run.write_text("memory.json", json.dumps({"peak": round(status_mb("VmHWM")), **dict(reversed(peaks.items()))}))


def write_rows(directory: Path, num_rows: int) -> None:
    """Write a data set in the benchmark's layout."""
    directory.mkdir(parents=True, exist_ok=True)
    instruction = "Задача по агрономии.\n{question}\nA. {option_a}\nB. {option_b}\nC. {option_c}\nD. {option_d}"
    with (directory / "train.jsonl").open("w", encoding="utf-8") as file:
        for number in range(num_rows):
            options = {f"option_{letter}": f"{number % 90 + step} ц" for step, letter in enumerate("abcd")}
            question = f"Площадь поля {number} — {number % 97} га. Сколько центнеров соберут? " + "Рожь. " * (
                number % 7
            )
            row = {
                "instruction": instruction,
                "inputs": {"question": question, **options},
                "outputs": "ABCD"[number % 4],
                "meta": {"id": number, "categories": {"topic": f"тема {number % 20}"}},
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def descendants(pid: int) -> Iterator[int]:
    """Yield the ids of a process's descendants."""
    with suppress(OSError):
        for file in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in file.read_text().split():
                yield int(child)
                yield from descendants(int(child))


def command(pid: int) -> str:
    """Return a process's command line, or "" if it has ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    return ""


def resident_mb(pid: int) -> float:
    """Return a process's resident memory in MB without shared pages; Ray's object store is not counted."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) / 1024
    return 0.0


def status_mb(name: str) -> float:
    """Return this process's resident set (`VmRSS`) or its high-water mark (`VmHWM`) in MB, with shared pages."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) / 1024


def on_disk(directory: Path) -> tuple[int, float]:
    """Return the number of files below a directory and their MB; files deleted meanwhile are not counted."""
    count, size = 0, 0
    for where, _, names in os.walk(directory):
        for name in names:
            with suppress(OSError):
                size += Path(where, name).stat().st_size
                count += 1
    return count, size / 1e6


def print_table(results: list[dict[str, Any]]) -> None:
    titles = [
        "rows",
        "wall s",
        "ms a row",
        f"{', '.join(STAGES)} s",
        "driver's peak MB (by stage)",
        "preparing MB",
        "Ray MB",
        "on disk MB (peak)",
        "files (peak)",
    ]
    print(f"| {' | '.join(titles)} |")
    print("|---" * len(titles) + "|")
    for each in results:
        seconds, memory = each["stages_s"], each["driver_mb"]
        print(
            f"| {each['rows']:,} | {each['wall_s']:,} | {1000 * each['wall_s'] / each['rows']:.2f} "
            f"| {', '.join(f'{seconds[stage]:,}' for stage in STAGES)} "
            f"| {memory['peak']:,} ({', '.join(f'{memory[stage]:,}' for stage in STAGES)}) | {each['prepare_mb']:,} "
            f"| {each['ray_mb']:,} "
            f"| {each['disk_mb']:,} ({each['disk_peak_mb']:,}) | {each['files']} ({each['files_peak']}) |"
        )


if __name__ == "__main__":
    (drive if os.environ.get("GROWTH_DRIVER") else main)(sys.argv[1:])
