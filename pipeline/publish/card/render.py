"""card.md and card.json: the leaderboard's submission form, filled in.

In: a scored run with its configuration and its manifest. Out: two files in the run's directory. card.md is for the
person who fills in the web form: each field under its Russian and English name, its value in a code block to copy.
card.json has the same for programs: field -> value, source, origin. An unknown field has no value and the source
`todo`, and is in the list `todo`; it has the `key` that sets it, unless only the site can set it. Text from models,
servers and people appears only inside the code blocks and cannot end them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.config.schema import Config, SubmissionConfig, UnmeasuredConfig
from pipeline.publish.card.fields import BEYOND, CREATED, INFERENCE, SUBMISSION, Field, Value, results_of
from pipeline.publish.card.values import values
from pipeline.runs.manifest import Manifest
from pipeline.storage.artifacts import ArtifactStore
from pipeline.terminal.text import replace_surrogates

SOURCES = {"measured": "измерено · measured", "configured": "из конфигурации · configured", "todo": "TODO"}

NOT_TEXT = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""Control characters that a viewer may render as a line break or that reverse the text's direction.

These are fewer than `escape_control` replaces: a no-break space and an emoji's joiner belong to the copied value.
"""


def write_card(run: ArtifactStore, config: Config, manifest: Manifest) -> list[str]:
    """Write card.md and card.json; return the names of the fields that are left for people to fill in.

    Args:
        run: The directory of a scored run.
        config: Its configuration.
        manifest: Its manifest.

    Raises:
        DataError: The run's recorded chat template cannot be read.
        RunError: The directory cannot be written.
    """
    found = values(run, config, manifest)
    domains = dict.fromkeys(task.domain for task in config.active_tasks.values())
    sections = {
        "Информация о сабмите · The submission": SUBMISSION,
        "Параметры инференса · Inference parameters": INFERENCE,
        "На странице сабмита · On the submission's page": (CREATED, *(f for name in domains for f in results_of(name))),
    }
    beyond = tuple(field for field in BEYOND if field.name in found)
    form = [field for section in sections.values() for field in section]
    card = {
        "run_id": config.run_id,
        "todo": [field.name for field in form if found.get(field.name, Value()).source == "todo"],
        "fields": {field.name: _entry(field, found.get(field.name, Value())) for field in form},
        "beyond": {field.name: _entry(field, found[field.name]) for field in beyond},
    }
    sections["Вне формы · Beyond the form"] = beyond
    run.write_text("card.json", json.dumps(card, ensure_ascii=False, indent=2) + "\n")
    run.write_text("card.md", _markdown(config.run_id, sections, found))
    return [field.name for field in form if _is_fillable(field, found)]


def _entry(field: Field, value: Value) -> dict[str, Any]:
    text = replace_surrogates(value.text)
    entry: dict[str, Any] = {"ru": field.ru, "en": field.en, "value": text, "source": value.source}
    if value.ru is not None:
        entry["value_ru"] = replace_surrogates(value.ru)
    if value.text is not None:
        entry["origin"] = value.origin
    elif (key := _key(field.name)) is not None:
        entry["key"] = key
    if value.note is not None:
        entry["note"] = {"ru": value.note[1], "en": value.note[0]}
    return entry


def _markdown(run_id: str, sections: Mapping[str, Sequence[Field]], found: Mapping[str, Value]) -> str:
    form = [field for section in sections.values() for field in section]
    environment = Environment(  # noqa: S701  # Markdown: foreign text is inside code blocks only, where none is escaped
        loader=PackageLoader("pipeline.publish.card", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("card.md.jinja").render(
        run_id=run_id,
        sections=sections,
        todo=[field for field in form if _is_fillable(field, found)],
        found={field.name: found.get(field.name, Value()) for field in form},
        sources=SOURCES,
        key=_key,
        fence=_fence,
    )


def _is_fillable(field: Field, found: Mapping[str, Value]) -> bool:
    return found.get(field.name, Value()).source == "todo" and _key(field.name) is not None


def _key(name: str) -> str | None:
    """Return the configuration key that sets a field's value, or None if there is none."""
    if name in {item.name for item in fields(SubmissionConfig)}:
        return f"submission.{name}"
    return f"submission.unmeasured.{name}" if name in {item.name for item in fields(UnmeasuredConfig)} else None


def _fence(text: str) -> str:
    """Return the text as a fenced code block, with a fence longer than any run of backticks in the text.

    Source: CommonMark 0.31.2, section 4.5: a block ends only at a fence at least as long as its opening fence.
    """
    text = NOT_TEXT.sub("\ufffd", str(replace_surrogates(text)).replace("\r\n", "\n").replace("\r", "\n"))
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"
