"""The journal keeps whole lines; the reader stops at the first damaged line of a file."""

from __future__ import annotations

import asyncio
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from builders import completed

from pipeline.errors import DataError
from pipeline.generate import journal
from pipeline.generate.journal import Journal
from pipeline.records import Completion
from pipeline.runs.manifest import EngineInfo
from pipeline.storage.artifacts import ArtifactStore


def write(store: ArtifactStore, name: str, completions: list[Completion]) -> None:
    async def append_all() -> None:
        writer = Journal(store, name, flush_s=0.05)
        await asyncio.gather(*(writer.append(each) for each in completions))
        writer.close()

    asyncio.run(append_all())


def test_every_appended_completion_is_read_back(tmp_path: Path) -> None:
    store = ArtifactStore.open(str(tmp_path / "journal"))
    write(store, "one", [completed(number, 'ответ\u2028\n"{x}"') for number in range(100)])
    rows = list(journal.read(store))
    assert [row.id for row in rows] == list(range(100))
    assert {row.completion for row in rows} == {'ответ\u2028\n"{x}"'}


@pytest.mark.parametrize("num_bytes", [1, 40, 200])
def test_a_truncated_last_line_is_dropped(tmp_path: Path, num_bytes: int) -> None:
    store = ArtifactStore.open(str(tmp_path / "journal"))
    write(store, "one", [completed(number) for number in range(3)])
    file = tmp_path / "journal" / "one.jsonl"
    file.write_bytes(file.read_bytes()[:-num_bytes])
    assert [row.id for row in journal.read(store)] == [0, 1]


def test_a_damaged_line_ends_the_reading_of_its_file_only(tmp_path: Path) -> None:
    store = ArtifactStore.open(str(tmp_path / "journal"))
    write(store, "one", [completed(number) for number in range(3)])
    write(store, "two", [completed(9)])
    file = tmp_path / "journal" / "one.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b'"id":1', b'"id":7')
    file.write_bytes(b"".join(lines))
    assert [row.id for row in journal.read(store)] == [0, 9]


def test_append_raises_on_a_full_disk(tmp_path: Path) -> None:
    async def append() -> None:
        writer = Journal(ArtifactStore.open(str(tmp_path / "journal")), "one", flush_s=1.0)
        assert writer._file is not None
        writer._file.close()
        writer._file = open("/dev/full", "ab", buffering=0)  # noqa: SIM115
        with pytest.raises(OSError, match="No space left"):
            await writer.append(completed(1))
        writer.close()

    asyncio.run(append())


def test_errors_of_a_past_session_are_skipped_and_its_completions_are_kept(tmp_path: Path) -> None:
    store = ArtifactStore.open(str(tmp_path / "journal"))
    write(store, "one", [replace(completed(1), error="then"), completed(2)])
    write(store, "two", [replace(completed(3), error="now")])
    assert [row.id for row in journal.read(store, without_errors_of={"one.jsonl"})] == [2, 3]


def test_kept_completions_are_read_like_any_other(tmp_path: Path) -> None:
    store = ArtifactStore.open(str(tmp_path / "journal"))
    journal.keep(store, (completed(number, "\n\u2028") for number in range(3)))
    assert list(journal.read(store)) == [completed(number, "\n\u2028") for number in range(3)]
    assert len(store.files()) == 1


def test_truncated_engine_info_is_a_one_line_error(tmp_path: Path) -> None:
    store = ArtifactStore.open(str(tmp_path / "journal"))
    journal.write_engine_info(store, "one", EngineInfo(restarts=1))
    (tmp_path / "journal" / "one.facts.json").write_text('{"pid"')
    with pytest.raises(DataError, match=r"one\.facts\.json is damaged: delete it and run the same run_id again"):
        journal.read_engine_info(store)


def test_a_replica_that_reports_after_it_gave_up_has_not_given_up(tmp_path: Path) -> None:
    store = ArtifactStore.open(str(tmp_path / "journal"))
    journal.write_engine_info(store, "one", EngineInfo(restarts=1, gave_up="no memory"))
    assert journal.read_engine_info(store)["one"].gave_up == "no memory"
    journal.write_engine_info(store, "one", EngineInfo(tries_again=1))
    assert journal.read_engine_info(store)["one"] == EngineInfo(restarts=1, tries_again=1)


def test_a_line_of_another_version_is_an_error_of_one_line(tmp_path: Path) -> None:
    text = b'{"unknown": 1}'
    (tmp_path / "one.jsonl").write_bytes(b"%08x %s\n" % (zlib.crc32(text), text))
    with pytest.raises(DataError, match=r"one\.jsonl has lines of another version"):
        list(journal.read(ArtifactStore.open(str(tmp_path))))


@pytest.mark.parametrize(
    ("content", "words"), [(b"{", "is damaged: delete it"), (b"[]", "is damaged: delete it"), (None, "cannot be read")]
)
def test_engine_info_is_called_damaged_only_if_it_was_read(tmp_path: Path, content: bytes | None, words: str) -> None:
    store, file = ArtifactStore.open(str(tmp_path)), tmp_path / f"one{journal.INFO_SUFFIX}"
    file.mkdir() if content is None else file.write_bytes(content)
    for use in (lambda: journal.engine_info_of(store, "one"), lambda: journal.write_engine_info(store, "one", INFO)):
        with pytest.raises(DataError) as caught:
            use()
        assert words in str(caught.value)
        assert ("damaged" in str(caught.value)) == (content is not None)


INFO = EngineInfo(gave_up="no")
