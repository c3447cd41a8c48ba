"""How the files of a directory are named to the user, and directories that belong to one user."""

from __future__ import annotations

import shlex
from pathlib import Path

from pipeline.storage.filesystem import Directory

S3 = "s3://key:secret@runs/c?endpoint_override=127.0.0.1:9&scheme=http&region=x"


def test_a_path_is_shown_as_a_shell_takes_it(tmp_path: Path) -> None:
    plain, odd = (Directory.open(str(tmp_path / name)).child("run=1") for name in ("a", "b c's [x]"))
    assert plain.shown("report.html") == f"{tmp_path}/a/run=1/report.html"
    assert shlex.split(f"less {odd.shown('report.html')}") == ["less", f"{tmp_path}/b c's [x]/run=1/report.html"]


def test_an_object_is_shown_with_its_scheme_and_without_keys() -> None:
    directory = Directory.open(S3).child("run=1")
    assert directory.shown() == "s3://runs/c/run=1"
    assert directory.shown("report.html") == "s3://runs/c/run=1/report.html"
