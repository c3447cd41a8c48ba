"""A file system that fails in any stage: one line, nothing lost, doubled or half-written; the same command resumes."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import stages
from faults.staged_run import DISK_FAULTS, STAGES

from pipeline.storage.artifacts import ArtifactStore

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(os.geteuid()) or not shutil.which("chattr"), reason="only root may break a file system"),
]

SCORED_LATER = ("score", "gate", "publish")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run that nothing happened to."""
    output = tmp_path_factory.mktemp("undisturbed")
    assert stages.run(output, {}, "run_id=one") == stages.Ended(0, [])
    return output / "run=one"


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed before it was scored."""
    output = tmp_path_factory.mktemp("generated")
    assert stages.run(output, {"stage": "score", "fault": "kill"}, "run_id=one").exit_code == -9
    return output / "run=one"


@pytest.fixture(scope="module")
def preload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that makes writes fail."""
    library = tmp_path_factory.mktemp("preload") / "eio.so"
    line = ["cc", "-shared", "-fPIC", "-o", str(library), str(Path(__file__).parent / "eio.c"), "-ldl"]
    subprocess.run(line, check=True)
    return library


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 32 MiB."""
    directory = tmp_path / "disk"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(directory)], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


def repair(fault: str, disk: Path, flag: Path) -> None:
    match fault:
        case "full":
            (disk / "filler").unlink()
        case "read-only":
            subprocess.run(["umount", str(disk)], check=True)
        case "vanished":
            shutil.rmtree(disk / "run=one", ignore_errors=True)
            (disk / "away").rename(disk / "run=one")
        case "denied":
            subprocess.run(["chattr", "-R", "-f", "-i", str(disk / "run=one")], check=False)
        case "input/output error":
            flag.unlink()


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("fault", DISK_FAULTS)
def test_a_fault_of_the_file_system_loses_doubles_and_half_writes_nothing(
    undisturbed: Path, generated: Path, preload: Path, disk: Path, tmp_path: Path, stage: str, fault: str
) -> None:
    flag, run = tmp_path / "flag", disk / "run=one"
    environment = {"LD_PRELOAD": str(preload), "EIO_FLAG": str(flag), "EIO_UNDER": str(disk)}
    if stage in SCORED_LATER:
        shutil.copytree(generated, run, symlinks=True)
    plan = {"stage": stage, "fault": fault, "directory": str(disk)}
    failed = stages.run(disk, plan, "run_id=one", environment=environment if "error" in fault else None)
    there = disk / "away" if fault == "vanished" else run
    broken = stages.half_written(there)
    before = stages.rows_of(ArtifactStore.open(str(there)), "completions")
    repair(fault, disk, flag)
    resumed = stages.run(disk, {}, "run_id=one")
    expected, found = (stages.rows_of(ArtifactStore.open(str(each))) for each in (undisturbed, run))
    lost, doubled = len(set(expected) - set(found)), len(found) - len(set(found))
    print(
        f"| {stage} | {fault} | {failed.exit_code} | {lost} | {doubled} | {len(broken)} | {' '.join(failed.errors)} |"
    )
    assert (lost, doubled, broken, resumed) == (0, 0, [], stages.Ended(0, []))
    assert found == expected
    assert stages.half_written(run) == []
    assert stages.products(run) == stages.products(undisturbed)
    assert stage not in SCORED_LATER or before, "the completions were lost"
    assert failed.exit_code or fault != "vanished", "a run that lost its directory reported success"
    if failed.exit_code:
        assert (failed.exit_code, len(failed.errors)) == (2, 1), failed.errors
        assert failed.errors[0].startswith("error: ")
