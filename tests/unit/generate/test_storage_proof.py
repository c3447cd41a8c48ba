"""A host proves that it shares the storage with the driver, within a limited time; else the line names the host."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.generate import storage_proof
from pipeline.generate.storage_proof import StorageProof
from pipeline.storage.artifacts import ArtifactStore


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StorageProof:
    monkeypatch.setattr(storage_proof, "LONGEST_UNSEEN_S", 0.0)
    run = ArtifactStore.open(str(tmp_path / "run=one"))
    run.create()
    return StorageProof.begin(str(tmp_path), run.child(".proof-1"), "token")


def on_host(proof: StorageProof) -> StorageProof:
    """Return the proof as another host receives it."""
    copy: StorageProof = pickle.loads(pickle.dumps(proof))
    return copy


def test_a_host_that_reads_and_writes_the_drivers_directory_passes_and_nothing_is_left(
    begun: StorageProof, tmp_path: Path
) -> None:
    on_host(begun).require_shared("other", "node-1")
    begun.require_answer("other", "node-1", until=0.0)
    begun.end()
    assert list((tmp_path / "run=one").iterdir()) == []


@pytest.mark.parametrize(
    "content", [None, "", "another run's token"], ids=["no file", "an empty file", "another token"]
)
def test_a_host_that_sees_other_files_is_named(begun: StorageProof, tmp_path: Path, content: str | None) -> None:
    token = tmp_path / "run=one/.proof-1/driver"
    token.unlink() if content is None else token.write_text(content, encoding="utf-8")
    with pytest.raises(
        ConfigError, match=rf"^output_dir={tmp_path} is not shared with node other, which sees .*: set it"
    ):
        on_host(begun).require_shared("other", "node-1")
    assert not (tmp_path / "run=one/.proof-1/node-1").exists()


def test_a_host_whose_files_the_driver_does_not_see_is_named(begun: StorageProof) -> None:
    with pytest.raises(ConfigError, match=r"is not shared with node other"):
        begun.require_answer("other", "node-1", until=0.0)


def test_a_host_that_cannot_write_is_named_with_the_reason(begun: StorageProof, tmp_path: Path) -> None:
    (tmp_path / "run=one/.proof-1/node-1").mkdir()  # root may write into a directory without permissions
    refusal = rf"^output_dir={tmp_path} cannot be written on node other: Is a directory: give the user that runs Ray"
    with pytest.raises(ConfigError, match=refusal):
        on_host(begun).require_shared("other", "node-1")


def test_a_storage_that_does_not_answer_is_named_in_time(
    begun: StorageProof, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_proof, "LONGEST_S", 0.5)
    token = tmp_path / "run=one/.proof-1/driver"
    token.unlink()
    os.mkfifo(token)  # opening it waits for a writer
    try:
        with pytest.raises(ConfigError, match=r"cannot be read on node other: no answer within 0 s: give the user"):
            on_host(begun).require_shared("other", "node-1")
    finally:
        os.close(os.open(token, os.O_RDWR | os.O_NONBLOCK))


@pytest.mark.parametrize(("scheme", "start"), [("s3", "AWS_"), ("gs", "GOOGLE_"), ("abfs", "AZURE_")])
def test_in_object_storage_the_variables_that_a_host_lacks_are_named_and_never_their_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str, start: str
) -> None:
    directory = ArtifactStore.open(str(tmp_path)).child("proof")
    monkeypatch.setenv(f"{start}SOMETHING_SECRET", "hunter2")
    proof = StorageProof.begin(f"{scheme}://bucket/runs?x=hunter2", directory, "token")
    monkeypatch.delenv(f"{start}SOMETHING_SECRET")
    (tmp_path / "proof/node-1").mkdir()
    with pytest.raises(ConfigError) as raised:
        on_host(proof).require_shared("other", "node-1")
    assert str(raised.value) == (
        f"output_dir={scheme}://bucket/runs cannot be written on node other: Is a directory (it lacks "
        f"{start}SOMETHING_SECRET, which the driver has): export the credentials ({start}...) before `ray start` on "
        "that host, or put them into the job's runtime_env"
    )
    assert "hunter2" not in repr(proof.variables)
