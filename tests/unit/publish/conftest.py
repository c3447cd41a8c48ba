"""A scored run of the reference configuration, to make cards of."""

from __future__ import annotations

from pathlib import Path

import pytest
from carded import Carded

from pipeline.store import Folder


@pytest.fixture
def carded(tmp_path: Path, at_root: Path) -> Carded:
    assert at_root  # conf/ is found from the project's directory
    return Carded(Folder.open(str(tmp_path / "run=night")))
