"""Measures how many responses the letters are read from rightly, by kind of response.

    PYTHONPATH=tests .venv/bin/python -m bench.extraction_quality [file ...]

A case is a line of JSON: `response`, `options` (their number), `answer` (the letters that its author meant, such as
`A, C`, or null if none or unclear) and `kind`. Without a file it measures those of tests/unit/score/cases/:
responses.jsonl was written by someone who did not know the rules, forms.jsonl has what the rules were made for.
Precision is right of what was read, recall is right of what was meant.
"""

from __future__ import annotations

import json
import string
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.score.extraction import Extraction, extract

CASES = Path(__file__).parents[1] / "unit" / "score" / "cases"


@dataclass
class Quality:
    """Counts of cases: of those with an answer, and by what was read."""

    num_cases: int = 0
    num_meant: int = 0
    num_right: int = 0
    num_wrong: int = 0
    num_missed: int = 0
    rules: Counter[str] = field(default_factory=Counter)

    def add(self, case: dict[str, Any], found: Extraction) -> None:
        self.num_cases += 1
        self.num_meant += case["answer"] is not None
        self.num_right += found.answer is not None and found.answer == case["answer"]
        self.num_wrong += found.answer is not None and found.answer != case["answer"]
        self.num_missed += found.answer is None and case["answer"] is not None
        self.rules[found.rule] += 1

    @property
    def precision(self) -> float:
        return self.num_right / max(1, self.num_right + self.num_wrong)

    @property
    def recall(self) -> float:
        return self.num_right / max(1, self.num_meant)


def read_cases(*files: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]


def measure(cases: Iterable[dict[str, Any]]) -> dict[str, Quality]:
    """Return the counts by kind, and of all cases as `all`."""
    kinds: dict[str, Quality] = {}
    for case in cases:
        found = extract(case["response"], string.ascii_uppercase[: case["options"]])
        for kind in (case["kind"], "all"):
            kinds.setdefault(kind, Quality()).add(case, found)
    kinds["all"] = kinds.pop("all")
    return kinds


def main(files: list[Path]) -> None:
    for file in files:
        print(f"{file.name}\n{'kind':20}{'cases':>7}{'meant':>7}{'right':>7}{'wrong':>7}{'missed':>7}")
        kinds = measure(read_cases(file))
        for kind, one in kinds.items():
            numbers = (one.num_cases, one.num_meant, one.num_right, one.num_wrong, one.num_missed)
            print(f"{kind:20}" + "".join(f"{number:7}" for number in numbers))
        every = kinds["all"]
        print(f"precision {every.precision:.3f}, recall {every.recall:.3f}; by rule or reason:")
        print(", ".join(f"{rule} {number}" for rule, number in every.rules.most_common()), end="\n\n")


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]] or sorted(CASES.glob("*.jsonl")))
