"""docs/add-a-task.md as a reader follows it, and questions that are free-form or have fields of their own."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from builders import ROOT

from pipeline import preview
from pipeline.config.schema import TaskConfig
from pipeline.errors import DataError
from pipeline.prepare.question import read_question
from pipeline.score.row_scores import score_row

PAGE = (ROOT / "docs" / "add-a-task.md").read_text(encoding="utf-8")
ENDPOINT = ["engine.kind=endpoint", "engine.endpoint.base_url=http://127.0.0.1:8000/v1"]


def block(language: str) -> str:
    """Return the page's first block of a language."""
    found = re.search(rf"(?ms)^```{language}\n(.*?)^```$", PAGE)
    assert found is not None
    return found[1]


def test_the_example_of_the_page_becomes_a_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rivers.csv").write_text(block("csv"), encoding="utf-8")
    exec(block("python"), {})
    Path("rivers.yaml").write_text(block("yaml"), encoding="utf-8")
    (command,) = [line for line in block("bash").splitlines() if line]
    preview.main(command.split()[3:])
    out = capsys.readouterr().out
    assert "rivers train id=0, gold Ока\n" in out
    assert "Ответь одним или двумя словами.\n" in out
    assert "unfit: not known: the context is the server's own" in out
    assert not re.search(r"unfit .*\b0\b", out.partition("characters of the messages")[2].partition("unfit:")[0])


def free(content: str | None, gold: str | None, *, truncated: bool = False) -> tuple[str | None, str, float | None]:
    scores = score_row(content, gold, "ABCDEFGH", truncated=truncated, has_options=False)
    assert scores.correct is None
    return scores.answer, scores.extraction, scores.em


@pytest.mark.parametrize("gold", ["Ока", "Азовское море", None])
def test_the_answer_to_a_free_form_question_is_its_text(gold: str | None) -> None:
    assert free(" Азовское море\n", gold) == ("Азовское море", "free_text", gold and float(gold == "Азовское море"))
    assert free("<think>Дон</think>\n Ока ", gold)[:2] == ("Ока", "free_text")


@pytest.mark.parametrize(("content", "reason"), [(None, "empty"), ("  ", "empty"), ("<think>нет конца", "empty")])
def test_a_free_form_question_without_text_has_no_answer(content: str | None, reason: str) -> None:
    assert free(content, "Ока")[:2] == (None, reason)
    assert free("Ок", "Ока", truncated=True)[:2] == (None, "truncated")


def test_letters_in_free_text_are_not_its_answer() -> None:
    assert free("Ответ: B", "витамин B")[0] == "Ответ: B"


def test_questions_with_letters_are_read_as_before() -> None:
    without = score_row("не знаю", "B", "ABCDEFGH", truncated=False, has_options=False)
    assert (without.answer, without.extraction) == (None, "no_letter")
    assert score_row("Ответ: B", None, "ABCDEFGH", truncated=False, has_options=False).answer == "B"
    assert score_row("не знаю", "текст", "ABCD", truncated=False).extraction == "no_letter"


def test_a_row_with_fields_of_its_own_names_the_layout() -> None:
    row = {"question": "?", "answer": "!"} | {f"more{number}": 1 for number in range(20)}
    with pytest.raises(DataError) as caught:
        read_question("mine", TaskConfig(dataset="x", domain="d"), "train", 1, row)
    text = str(caught.value)
    assert text.startswith("mine train row 1 has the fields question, answer, more0, ")
    assert (
        " and 14 more, and none of the benchmark's layout: write instruction (a prompt with {placeholders}), " in text
    )
    assert text.endswith("docs/add-a-task.md converts a data set with other fields")


def test_a_row_with_a_part_of_the_layout_names_what_is_missing() -> None:
    row = {"instruction": "{q}", "inputs": {"q": "?"}, "outputs": ""}
    with pytest.raises(DataError, match="meta is missing: give an object with the row's id"):
        read_question("mine", TaskConfig(dataset="x", domain="d"), "train", 1, json.loads(json.dumps(row)))
