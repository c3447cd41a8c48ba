"""The journal keeps whole lines and gives up at the first damaged one."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import DataError
from pipeline.generate import journal
from pipeline.generate.journal import Journal
from pipeline.records import Completion
from pipeline.runs.manifest import EngineInfo
from pipeline.storage.artifacts import ArtifactStore


def completion(number: int, text: str = "A") -> Completion:
    return Completion(
        task="agro_bench",
        split="test",
        id=number,
        repeat=0,
        prompt_sha256="00",
        completion=text,
        reasoning=None,
        content=text,
        finish_reason="stop",
        num_prompt_tokens=1,
        num_output_tokens=1,
        error=None,
        attempts=1,
        replica="r",
        queued_s=0.0,
        generated_s=0.0,
    )


def write(store: ArtifactStore, name: str, completions: list[Completion]) -> None:
    async def append_all() -> None:
        book = Journal(store, name, flush_s=0.05)
        await asyncio.gather(*(book.append(each) for each in completions))
        book.close()

    asyncio.run(append_all())


def test_every_appended_completion_is_read_back(tmp_path: Path) -> None:
    store = ArtifactStore.open(str(tmp_path / "journal"))
    write(store, "one", [completion(number, 'ответ\u2028\n"{x}"') for number in range(100)])
    rows = list(journal.read(store))
    assert [row.id for row in rows] == list(range(100))
    assert {row.completion for row in rows} == {'ответ\u2028\n"{x}"'}


@pytest.mark.parametrize("num_bytes", [1, 40, 200])
def test_a_torn_tail_is_dropped(tmp_path: Path, num_bytes: int) -> None:
    store = ArtifactStore.open(str(tmp_path / "journal"))
    write(store, "one", [completion(number) for number in range(3)])
    file = tmp_path / "journal" / "one.jsonl"
    file.write_bytes(file.read_bytes()[:-num_bytes])
    assert [row.id for row in journal.read(store)] == [0, 1]


def test_a_damaged_line_ends_its_file_and_no_other(tmp_path: Path) -> None:
    store = ArtifactStore.open(str(tmp_path / "journal"))
    write(store, "one", [completion(number) for number in range(3)])
    write(store, "two", [completion(9)])
    file = tmp_path / "journal" / "one.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b'"id":1', b'"id":7')
    file.write_bytes(b"".join(lines))
    assert [row.id for row in journal.read(store)] == [0, 9]


def test_a_full_disk_is_an_error_of_the_append(tmp_path: Path) -> None:
    async def append() -> None:
        book = Journal(ArtifactStore.open(str(tmp_path / "journal")), "one", flush_s=1.0)
        assert book._file is not None
        book._file.close()
        book._file = open("/dev/full", "ab", buffering=0)  # noqa: SIM115
        with pytest.raises(OSError, match="No space left"):
            await book.append(completion(1))
        book.close()

    asyncio.run(append())


def test_errors_of_an_earlier_session_are_left_out_and_its_answers_are_not(tmp_path: Path) -> None:
    store = ArtifactStore.open(str(tmp_path / "journal"))
    write(store, "one", [replace(completion(1), error="then"), completion(2)])
    write(store, "two", [replace(completion(3), error="now")])
    assert [row.id for row in journal.read(store, without_errors_of={"one.jsonl"})] == [2, 3]


def test_kept_completions_are_read_like_any_other(tmp_path: Path) -> None:
    store = ArtifactStore.open(str(tmp_path / "journal"))
    journal.keep(store, (completion(number, "\n\u2028") for number in range(3)))
    assert list(journal.read(store)) == [completion(number, "\n\u2028") for number in range(3)]
    assert len(store.files()) == 1


def test_facts_that_were_cut_are_one_line(tmp_path: Path) -> None:
    store = ArtifactStore.open(str(tmp_path / "journal"))
    journal.write_engine_info(store, "one", EngineInfo(restarts=1))
    (tmp_path / "journal" / "one.facts.json").write_text('{"pid"')
    with pytest.raises(DataError, match=r"one\.facts\.json is damaged: delete it and run the same run_id again"):
        journal.read_engine_info(store)
