"""How the files of a directory are named to the user, and directories that belong to one user."""

from __future__ import annotations

import os
import shlex
import stat
import tempfile
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from pipeline.errors import DataError, RunError
from pipeline.storage.filesystem import GCS_RETRY_S, Directory, private_directory

S3 = "s3://key:secret@runs/c?endpoint_override=127.0.0.1:9&scheme=http&region=x"


def test_a_path_is_shown_as_a_shell_takes_it(tmp_path: Path) -> None:
    plain, odd = (Directory.open(str(tmp_path / name)).child("run=1") for name in ("a", "b c's [x]"))
    assert plain.shown("report.html") == f"{tmp_path}/a/run=1/report.html"
    assert shlex.split(f"less {odd.shown('report.html')}") == ["less", f"{tmp_path}/b c's [x]/run=1/report.html"]


def test_a_path_is_brief_where_the_working_directory_is_above_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "-x").mkdir()
    directory = Directory.open(str(tmp_path)).child("-x")
    monkeypatch.chdir(tmp_path)
    assert directory.brief("report.html") == "./-x/report.html"
    assert directory.brief("samples/") == "./-x/samples/"
    monkeypatch.chdir("/")
    assert directory.brief("report.html") == directory.shown("report.html").removeprefix("/")
    other = Directory.open("/a/b")
    monkeypatch.chdir(tmp_path)
    assert other.brief("c") == "/a/b/c"
    (tmp_path / "-x").rmdir()


def test_an_object_is_shown_with_its_scheme_and_without_keys() -> None:
    directory = Directory.open(S3).child("run=1")
    assert directory.shown() == "s3://runs/c/run=1"
    assert directory.shown("report.html") == "s3://runs/c/run=1/report.html"


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_private_directory_is_this_users_alone_and_made_once(temporary: Path) -> None:
    made = private_directory("pipeline-1")
    assert made == temporary / "pipeline-1"
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    assert private_directory("pipeline-1") == made


@pytest.mark.parametrize("planted", ["link", "open to all", "file"])
def test_what_another_user_may_have_planted_is_refused(temporary: Path, planted: str) -> None:
    place = temporary / "pipeline-1"
    (temporary / "elsewhere").mkdir(mode=0o700)
    if planted == "link":
        place.symlink_to(temporary / "elsewhere")
    elif planted == "file":
        place.touch(0o600)
    else:
        place.mkdir()
        place.chmod(0o777)
    with pytest.raises(RunError, match="pipeline-1 is not a directory of this user alone: remove it, or set TMPDIR"):
        private_directory("pipeline-1")


@pytest.mark.parametrize("name", ["..", "a/../../b", "/etc/passwd", "a\0b"])
def test_a_name_that_leads_out_of_a_directory_is_refused(tmp_path: Path, name: str) -> None:
    directory = Directory.open(str(tmp_path))
    for way in (directory.path, directory.child, directory.exists, directory.remove):
        with pytest.raises(DataError, match="is no path inside of"):
            way(name)


def test_the_home_directory_is_written_as_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Directory.open("~/runs").root == f"{tmp_path}/runs"
    assert Directory.open("~nosuchuser/runs").root.endswith("/~nosuchuser/runs")


@pytest.mark.parametrize(
    ("variables", "fix"),
    [
        ({}, "and no keys are set: export AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"),
        ({"AWS_ACCESS_KEY_ID": "a"}, "check the keys in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        ({"AWS_PROFILE": "a"}, "check the credentials of AWS_PROFILE"),
    ],
)
def test_storage_that_denies_access_is_told_with_the_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], fix: str
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    place = Directory.open(str(tmp_path))
    for use in (place.reaching, place.writing):
        with pytest.raises(RunError) as caught, use():
            raise OSError("When listing objects: AWS Error ACCESS_DENIED during ListObjectsV2 operation")
        assert fix in str(caught.value)
        assert "ACCESS_DENIED" not in str(caught.value)


def test_half_a_character_in_a_text_does_not_prevent_its_writing(tmp_path: Path) -> None:
    Directory.open(str(tmp_path)).write_text("a.json", '{"model": "\ud83d"}')
    assert (tmp_path / "a.json").read_text() == '{"model": "?"}'


def test_storage_in_the_memory_of_the_process_is_refused() -> None:
    with pytest.raises(RunError, match="'mock://x' is no storage: give a path or s3://"):
        Directory.open("mock://x")


def test_a_path_that_is_not_utf_8_is_an_error_of_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Path(os.fsdecode(os.fsencode(tmp_path) + b"/d\xff"))
    place.mkdir()
    monkeypatch.chdir(place)
    with pytest.raises(RunError, match=r"d\\udcff/outputs' is not UTF-8: rename that directory"):
        Directory.open("outputs")


def test_googles_storage_is_not_asked_for_minutes() -> None:
    fs = Directory.open("gs://anonymous@bucket/runs").fs
    limited = [
        pafs.FileSystem.from_uri(f"gs://anonymous@bucket/runs?retry_limit_seconds={limit}")[0]
        for limit in (GCS_RETRY_S, 2 * GCS_RETRY_S)
    ]
    assert [fs == each for each in limited] == [True, False]
