"""Measures the report's size, and the time to write, open, filter and search it.

    .venv/bin/python tests/bench/report_size.py 10000
    .venv/bin/python tests/bench/report_size.py 100000

Samples of two tasks, with prompts of about 200 bytes and reasoning of 3,000 characters of random words of Cyrillic
letters, which compress worse than prose. Times are measured in Chromium: until all samples are listed, and until the
count is right after a filter or a search.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config.schema import Config, ModelConfig, TaskConfig
from pipeline.publish import report
from pipeline.records import METRIC_SCHEMA, SAMPLE_SCHEMA
from pipeline.runs.manifest import load
from pipeline.storage.artifacts import ArtifactStore

TASKS = ("agro", "med")
REASONING_CHARS, CHUNK = 3_000, 5_000


def main(num_samples: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        run = ArtifactStore.open(str(Path(place) / "run=bench"))
        run.create()
        write_samples(run, num_samples)
        tasks = {name: TaskConfig(dataset="x", domain=name) for name in TASKS}
        config = Config(run_id="bench", tasks=tasks, model=ModelConfig(path="m", context_size=32768))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began, began_cpu = time.perf_counter(), time.process_time()
        made = report.write(run, config, load({"status": "complete", "run_id": "bench"}))
        took, cpu = time.perf_counter() - began, time.process_time() - began_cpu
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        page = Path(run.path(made.file))
        chunk_bytes = sum(file.stat().st_size for file in Path(run.path(report.CHUNKS)).glob("*"))
        print(f"{num_samples:,} samples: made in {took:.1f} s, {cpu:.1f} s of CPU")
        print(f"peak memory {after / 1024:,.0f} MB, {before / 1024:,.0f} MB before")
        print(f"report.html {page.stat().st_size / 1e6:,.1f} MB, beside it {chunk_bytes / 1e6:,.1f} MB")
        look(page, num_samples)


def write_samples(run: ArtifactStore, num_samples: int) -> None:
    source = random.Random(1)
    letters = "оеаинтсрвлкмдпу"
    words = ["".join(source.choices(letters, k=source.randint(2, 10))) for _ in range(8_000)]
    with run.publish("samples", SAMPLE_SCHEMA) as directory:
        for task in TASKS:
            half = num_samples // len(TASKS)
            tables = (chunk(source, words, range(at, min(at + CHUNK, half))) for at in range(0, half, CHUNK))
            directory.write_parquet(f"task={task}/split=test/part-00000.parquet", SAMPLE_SCHEMA, tables)
    pq.write_table(pa.Table.from_pylist([], schema=METRIC_SCHEMA), run.path("metrics.parquet"))


def chunk(source: random.Random, words: list[str], ids: range) -> pa.Table:
    def text(chars: int) -> str:
        return " ".join(source.choices(words, k=chars // 6))[:chars]

    def rows() -> Iterator[dict]:
        for number in ids:
            right = float(source.random() < 0.7)
            yield dict.fromkeys(SAMPLE_SCHEMA.names) | {
                "id": number,
                "repeat": 0,
                "categories": [{"key": "topic", "value": f"тема {number % 20}"}],
                "messages": "[]",
                "prompt": text(110),
                "prompt_sha256": f"{number:064x}",
                "reasoning": text(REASONING_CHARS),
                "response": "B",
                "answer": "B",
                "gold": "B" if right else "C",
                "extraction": "bare_letters",
                "finish_reason": "stop",
                "num_output_tokens": 700,
                "em": right,
                "f1": right,
                "correct": right,
                "attempts": 1,
                "replica": "r0",
                "queued_s": 0.1,
                "generated_s": 9.5,
            }

    return pa.Table.from_pylist(list(rows()), schema=SAMPLE_SCHEMA)


def look(page: Path, num_samples: int) -> None:
    """Open the page and print how long opening, filtering and searching take."""
    from playwright.sync_api import expect, sync_playwright

    with sync_playwright() as driver:
        path = os.environ.get("CHROMIUM") or shutil.which("chromium")
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        view = browser.new_page()
        view.set_default_timeout(600_000)
        expect.set_options(timeout=600_000)
        began = time.perf_counter()
        view.goto(f"{page.as_uri()}#samples")
        view.wait_for_selector("html[data-ready]", state="attached")
        print(f"opened in {time.perf_counter() - began:.2f} s")
        seconds = view.evaluate(
            """async () => {
                const began = performance.now(), select = document.querySelector("[data-filter=result]");
                select.value = "=wrong";
                select.dispatchEvent(new Event("change"));
                await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
                return (performance.now() - began) / 1000;
            }"""
        )
        print(f"filtered in {seconds:.3f} s: {view.text_content('#count')}")
        view.click("#clear")
        expect(view.locator("#count")).to_have_text(f"{num_samples:,} samples")
        began = time.perf_counter()
        view.fill("#search", "нигде")
        expect(view.locator("#count")).to_have_text(f"0 of {num_samples:,} samples")
        print(f"searched through all texts in {time.perf_counter() - began:.1f} s")
        browser.close()


if __name__ == "__main__":
    main(int(sys.argv[1]))
