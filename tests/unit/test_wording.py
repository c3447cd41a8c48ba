"""The check of words finds them in text for people, and only there."""

from __future__ import annotations

from pathlib import Path

import pytest
from wording import found_in, texts_of

MODULE = '''"""Tells what a run asked."""
night = 1  # go on
raise ValueError(f"{night}: mend " "the file beside it")
PATTERN = r"num_(total|failed|doubtful)"
'''


def words(file: Path) -> list[str]:
    return sorted(word.lower() for _, text in texts_of(file) for _, word, _ in found_in(text))


def test_words_are_found_in_docstrings_comments_and_messages_but_not_in_names(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text(MODULE, encoding="utf-8")
    assert words(file) == ["asked", "beside", "go on", "mend", "tells"]


def test_only_the_comments_of_a_configuration_are_read(tmp_path: Path) -> None:
    file = tmp_path / "conf.yaml"
    file.write_text("prompt: {system: Tell me}  # what is asked\n", encoding="utf-8")
    assert words(file) == ["asked"]


@pytest.mark.parametrize(
    "text",
    [
        "python -m pipeline.night",
        "import-linter and lint-imports",
        "the column num_doubtful",
        "restless, blend, a stand for",
    ],
)
def test_names_and_other_words_are_left_alone(text: str) -> None:
    assert list(found_in(text)) == []
