"""The fixed texts of the report in two languages: an English text with values in, an element for the page out.

The page is in English; each fixed text is an element with the text's key, and report.js fills it in Russian from
russian.json. Recorded texts, such as warnings of other stages, are shown as they are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib import resources

from markupsafe import Markup, escape

_VALUE = re.compile(r"\{(\w+)\}")
_NUMBER = re.compile(r"[\d.,%+-]*")


@dataclass(frozen=True, slots=True)
class Text:
    """A fixed English text with the values of its {names}; as HTML an element that the page can translate."""

    key: str
    values: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return _VALUE.sub(lambda match: self.values[match[1]], self.key)

    def __html__(self) -> Markup:
        return Markup("<span{}>{}</span>").format(self.attributes, Markup("").join(self._parts()))

    @property
    def attributes(self) -> Markup:
        """The attributes of an element whose text this is."""
        values = json.dumps(self.values, ensure_ascii=False)
        return Markup(' data-t="{}"').format(self.key) + (
            Markup(' data-v="{}"').format(values) if self.values else Markup("")
        )

    def _parts(self) -> Iterator[Markup]:
        for place, part in enumerate(_VALUE.split(self.key)):  # texts and names alternate
            value = self.values[part] if place % 2 else part
            is_isolated = place % 2 and not _NUMBER.fullmatch(value)
            yield Markup("<bdi>{}</bdi>").format(value) if is_isolated else escape(value)


@dataclass(frozen=True, slots=True)
class Recorded:
    """A text that another stage, a data set or a model has written: never translated, isolated from its neighbors."""

    text: str

    def __str__(self) -> str:
        return self.text

    def __html__(self) -> Markup:
        return Markup("<bdi>{}</bdi>").format(self.text)


def t(key: str, **values: object) -> Text:
    """Return a fixed text; numbers have thousands separators."""
    return Text(key, {name: _shown(value) for name, value in values.items()})


def _shown(value: object) -> str:
    if isinstance(value, Markup):  # what a macro of the template returns is escaped
        return value.unescape()
    return f"{value:,}" if isinstance(value, int) else str(value)


def attribute(name: str, key: str) -> Markup:
    """Return an attribute with a fixed text, such as a title, that the page can translate."""
    return Markup('{0}="{1}" data-t-{0}="{1}"').format(Markup(name), key)  # noqa: S704  # a name of our own


@cache
def russian() -> dict[str, str]:
    """Return the Russian text of each English one."""
    found: dict[str, str] = json.loads(
        resources.files("pipeline.publish.report").joinpath("russian.json").read_text(encoding="utf-8")
    )
    return found
