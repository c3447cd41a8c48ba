"""An artifact is published atomically, and damage to it is reported."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import DataError, RunError
from pipeline.records import column
from pipeline.storage.artifacts import ArtifactStore

SCHEMA = pa.schema([pa.field("id", pa.int64(), nullable=False)])


def batch(*numbers: int) -> pa.Table:
    return pa.table({"id": list(numbers)}, schema=SCHEMA)


def publish(run: ArtifactStore, *numbers: int) -> None:
    with run.publish("stage", SCHEMA, {"a": 1}) as store:
        store.write_parts("part", SCHEMA, [batch(number) for number in numbers], rows_per_file=2)


@pytest.fixture
def run(tmp_path: Path) -> ArtifactStore:
    store = ArtifactStore.open(str(tmp_path / "run"))
    store.create()
    return store


def ids(run: ArtifactStore) -> list[int]:
    artifact = run.artifact("stage", SCHEMA)
    assert artifact is not None
    return [int(value) for value in artifact.dataset().to_table().column("id").to_pylist()]


def test_what_is_published_is_read_back_in_order(run: ArtifactStore) -> None:
    publish(run, 1, 2, 3, 4, 5)
    artifact = run.artifact("stage", SCHEMA)
    assert artifact is not None
    assert (list(artifact.files.values()), artifact.num_rows, artifact.metadata) == ([2, 2, 1], 5, {"a": 1})
    assert ids(run) == [1, 2, 3, 4, 5]


def test_a_failed_publication_leaves_the_old_artifact(run: ArtifactStore) -> None:
    publish(run, 1)
    with pytest.raises(ZeroDivisionError), run.publish("stage", SCHEMA) as store:  # noqa: PT012
        store.write_parts("part", SCHEMA, [batch(2)], 10)
        raise ZeroDivisionError
    assert ids(run) == [1]
    assert run.files() == ["stage/_stage.json", "stage/part/part-00000.parquet"]


def test_republishing_replaces_the_artifact(run: ArtifactStore) -> None:
    publish(run, 1, 2, 3)
    publish(run, 9)
    assert ids(run) == [9]


def test_an_artifact_that_was_never_published_is_none(run: ArtifactStore) -> None:
    assert run.artifact("stage", SCHEMA) is None


@pytest.mark.parametrize("damage", ["delete", "cut", "fewer"])
def test_a_damaged_file_is_named(run: ArtifactStore, damage: str) -> None:
    publish(run, 1, 2, 3)
    file = Path(run.path("stage/part/part-00000.parquet"))
    if damage == "delete":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:-10])
    else:
        run.write_parquet("stage/part/part-00000.parquet", SCHEMA, [batch(1)])
    with pytest.raises(DataError, match=r"part-00000\.parquet .*delete .* and run again"):
        run.artifact("stage", SCHEMA)


def test_a_damaged_list_of_files_is_named(run: ArtifactStore) -> None:
    publish(run, 1)
    file = Path(run.path("stage/_stage.json"))
    file.write_text(file.read_text()[:20])
    with pytest.raises(DataError, match=r"_stage\.json is damaged"):
        run.artifact("stage", SCHEMA)


def test_a_column_that_a_later_version_added_at_the_end_is_null(run: ArtifactStore) -> None:
    publish(run, 1)
    artifact = run.artifact("stage", SCHEMA.append(column("seen", pa.string(), "Letters.", added_later=True)))
    assert artifact is not None
    assert artifact.dataset().to_table(["id", "seen"]).to_pylist() == [{"id": 1, "seen": None}]


def test_other_columns_are_refused(run: ArtifactStore) -> None:
    publish(run, 1)
    with pytest.raises(DataError, match="has not the columns of this version"):
        run.artifact("stage", pa.schema([("id", pa.int64()), ("more", pa.int64())]))


def test_a_directory_that_cannot_be_written_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        ArtifactStore.open(str(tmp_path / "file" / "run")).create()


def test_an_unknown_scheme_is_an_error_of_one_line() -> None:
    with pytest.raises(RunError, match="'foo://bar' cannot be opened"):
        ArtifactStore.open("foo://bar")


def test_a_file_is_replaced_atomically_without_leftovers(run: ArtifactStore) -> None:
    for content in (b"one", b"two"):
        with run.replacing("a.bin") as path:
            path.write_bytes(content)
            path.with_name("helper").write_text("helper")
    assert Path(run.path("a.bin")).read_bytes() == b"two"
    assert [path.name for path in Path(run.root).iterdir()] == ["a.bin"]


def test_a_failed_write_leaves_the_old_file(run: ArtifactStore) -> None:
    run.write_text("a.bin", "old")
    with pytest.raises(ZeroDivisionError), run.replacing("a.bin") as path:  # noqa: PT012
        path.write_bytes(b"half")
        raise ZeroDivisionError
    assert run.read_text("a.bin") == "old"
    assert [path.name for path in Path(run.root).iterdir()] == ["a.bin"]


def test_text_is_replaced_atomically(run: ArtifactStore) -> None:
    run.write_text("a.txt", "один")
    run.write_text("a.txt", "два")
    assert run.read_text("a.txt") == "два"
    assert run.files() == ["a.txt"]


def test_a_uri_that_cannot_be_opened_is_reported_without_its_keys() -> None:
    with pytest.raises(RunError, match="'s4://bucket/x' cannot be opened") as raised:
        ArtifactStore.open("s4://me:secret@bucket/x?access_key=AAA")
    assert "secret" not in str(raised.value)
    assert "AAA" not in str(raised.value)


def names_in(run: ArtifactStore) -> list[str]:
    return sorted(path.name for path in Path(run.root).rglob("*") if path.is_file())


def test_several_files_are_replaced_when_all_of_them_are_written(run: ArtifactStore) -> None:
    for content in ("one", "two"):
        with run.partial_files("a.txt", "sub/b.txt") as partials:
            for partial in partials:
                run.write_text(partial, content)
            assert run.files() != ["a.txt", "sub/b.txt"]
    assert [run.read_text(name) for name in ("a.txt", "sub/b.txt")] == ["two", "two"]
    assert names_in(run) == ["a.txt", "b.txt"]


def test_of_several_files_the_old_ones_stay_when_one_fails(run: ArtifactStore) -> None:
    run.write_text("a.txt", "old")
    with pytest.raises(ZeroDivisionError), run.partial_files("a.txt", "b.txt") as (first, _):  # noqa: PT012
        run.write_text(first, "new")
        raise ZeroDivisionError
    assert run.read_text("a.txt") == "old"
    assert names_in(run) == ["a.txt"]


def test_a_stream_that_fails_leaves_the_old_file(run: ArtifactStore) -> None:
    run.write_text("a.txt", "old")
    with pytest.raises(RunError, match="cannot be written: disk full"), run.replacing_stream("a.txt") as stream:  # noqa: PT012
        stream.write(b"half")
        raise OSError(28, "disk full")
    assert run.read_text("a.txt") == "old"
    assert names_in(run) == ["a.txt"]


def test_rows_become_a_file_when_the_block_succeeds(run: ArtifactStore) -> None:
    schema = pa.schema([("id", pa.int64()), ("text", pa.string())])
    rows = [{"id": number, "text": "x" * number} for number in range(600)]
    with run.row_writer("rows.parquet", schema) as writer:
        for row in rows:
            writer.add(row)
    assert pq.read_table(run.path("rows.parquet"), schema=schema).to_pylist() == rows
    with pytest.raises(ZeroDivisionError), run.row_writer("rows.parquet", schema) as writer:  # noqa: PT012
        writer.add({"id": 1, "text": "new"})
        raise ZeroDivisionError
    assert pq.read_table(run.path("rows.parquet"), schema=schema).num_rows == 600
    assert names_in(run) == ["rows.parquet"]
