"""A row that kills vLLM's engine process on every attempt: it is isolated and fails, and the run completes.

Takes minutes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from pipeline.config.loading import compose
from pipeline.errors import TooManyFailedRows
from pipeline.generate.engines.base import Engine, EngineStats, Output, Request
from pipeline.generate.engines.vllm_engine import VllmFactory
from pipeline.orchestrator import execute
from pipeline.records import SAMPLE_SCHEMA
from pipeline.runs.manifest import EngineInfo
from pipeline.storage.artifacts import ArtifactStore

pytestmark = [pytest.mark.usefixtures("at_root"), pytest.mark.slow]

POISON = "agro_bench/test/"
"""The first request of this task and split is the poison row; its key is stored in a file from then on."""


class Killed:
    """A real engine whose process is killed with SIGKILL when the poison row starts."""

    def __init__(self, engine: Engine, mark: Path) -> None:
        self._engine, self._mark = engine, mark

    @property
    def info(self) -> EngineInfo:
        return self._engine.info

    @property
    def stats(self) -> EngineStats:
        return self._engine.stats

    async def generate(self, request: Request) -> Output:
        key = request.request_id.rpartition("/")[0]
        if not self._mark.exists() and key.startswith(POISON):
            self._mark.write_text(key)
        if self._mark.exists() and self._mark.read_text() == key:
            (core,) = (p for p in psutil.Process().children(recursive=True) if "EngineCore" in " ".join(p.cmdline()))
            core.kill()
        return await self._engine.generate(request)

    def close(self) -> None:
        self._engine.close()


class KilledFactory:
    def __init__(self, factory: Callable[[], Engine], mark: Path) -> None:
        self._factory, self._mark = factory, mark

    def __call__(self) -> Killed:
        return Killed(self._factory(), self._mark)


def test_one_row_that_kills_vllm_is_the_only_error_of_the_run(tmp_path: Path) -> None:
    config = compose(["conf=demo", f"output_dir={tmp_path}", "run_id=poison"])
    mark = tmp_path / "mark"
    with pytest.raises(TooManyFailedRows, match="1 rows failed"):
        execute(config, KilledFactory(VllmFactory(config), mark))
    samples = (
        ArtifactStore.open(str(tmp_path / "run=poison")).require_artifact("samples", SAMPLE_SCHEMA).dataset().to_table()
    )
    rows = samples.select(["task", "split", "id", "error"]).to_pylist()
    failed = [row for row in rows if row["error"]]
    assert len(rows) == 214
    assert [f"{row['task']}/{row['split']}/{row['id']}/0" for row in failed] == [mark.read_text()]
    assert failed[0]["error"] == "the engine crashed 4 times with this row in it"
