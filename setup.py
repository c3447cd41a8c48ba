"""Builds the wheel with the files that lie outside pipeline/, and with the commit that it is built from.

conf/, data/demo/ and notebooks/views.sql become pipeline/conf/ and so on, where pipeline/config/paths.py finds them.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))

from pipeline.runs import source  # noqa: E402

SHIPPED = ("conf", "data/demo")
VIEWS = "notebooks/views.sql"
LEFT_OUT = shutil.ignore_patterns("*.py", "*.png", "__pycache__")
"""Scripts that made the demo's data, and a figure of the README."""


class BuildPackage(build_py):
    """Adds the shipped directories and the commit to the package; an editable installation has them in the checkout."""

    def run(self) -> None:
        """Build the package."""
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib, "pipeline")
        for name in SHIPPED:
            shutil.rmtree(target / name, ignore_errors=True)  # of an earlier build
            shutil.copytree(ROOT / name, target / name, ignore=LEFT_OUT)
        (target / VIEWS).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / VIEWS, target / VIEWS)
        source.record(ROOT / "pipeline", target)


class SourceArchive(sdist):
    """Adds the commit to the source archive, which has no Git directory."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        """Make the tree that is archived."""
        super().make_release_tree(base_dir, files)
        source.record(ROOT / "pipeline", Path(base_dir, "pipeline"))


setup(cmdclass={"build_py": BuildPackage, "sdist": SourceArchive})
