"""Finds reference answers that no answer, or only a wrong one, can match: prompts/ in, a line for each kind out."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pipeline.records import read_doc
from pipeline.terminal.text import counted, listed

if TYPE_CHECKING:
    import pyarrow.dataset as pads

NUM_LISTED = 5
ROWS_PER_BATCH = 512

HIDDEN = "hidden in train (null or empty): their rows have no score"
OTHER_LETTERS = "in letters of another alphabet, such as a Cyrillic А: no Latin answer matches them"
NO_OPTION = "with a letter that the row has no option for"

_SEPARATORS = re.compile(f"[{re.escape(string.punctuation)}\\s]+")


def odd_references(prompts: pads.Dataset) -> tuple[str, ...]:
    """Return a line for each task and kind of odd reference, with the first ids.

    Args:
        prompts: The prompts, with `PROMPT_SCHEMA`.
    """
    found: dict[tuple[str, str], list[int]] = {}
    nums: dict[tuple[str, str], int] = {}
    for row in _rows(prompts):
        kind = _kind(row["split"], row["gold"], row["doc"])
        if kind is not None:
            key = row["task"], kind
            nums[key] = nums.get(key, 0) + 1
            first = found.setdefault(key, [])
            if len(first) < NUM_LISTED:
                first.append(row["id"])
    return tuple(
        f"{task}: {counted(nums[task, kind], 'reference answer')} {kind} (id {listed(first, nums[task, kind])})"
        for (task, kind), first in found.items()
    )


def _rows(prompts: pads.Dataset) -> Iterator[Mapping[str, Any]]:
    columns = ["task", "split", "id", "gold", "doc"]
    for batch in prompts.scanner(
        columns=columns, batch_size=ROWS_PER_BATCH, batch_readahead=2, fragment_readahead=1, use_threads=False
    ).to_batches():
        yield from batch.to_pylist()


def _kind(split: str, gold: str | None, doc: str) -> str | None:
    if gold is None:
        return HIDDEN if split == "train" else None
    letters = [each for each in _SEPARATORS.split(gold) if each]
    if not letters or any(len(each) != 1 or not each.isalpha() for each in letters):
        return None
    if not all(each.isascii() for each in letters):
        is_other = any(unicodedata.name(each, "").startswith(("CYRILLIC", "GREEK", "FULLWIDTH")) for each in letters)
        return OTHER_LETTERS if is_other else None
    options = _options(doc)
    return NO_OPTION if options and not {each.upper() for each in letters} <= options else None


def _options(doc: str) -> set[str]:
    """Return the letters of a row's options that have text."""
    inputs = read_doc(doc)["inputs"]
    named = ((key.removeprefix("option_"), text) for key, text in inputs.items() if key.startswith("option_"))
    return {key.upper() for key, text in named if len(key) == 1 and text.strip()}
