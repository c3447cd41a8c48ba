"""Writes the pages of docs/ that are made from code: `make docs`. A test compares the files with what this makes.

A page of that kind is a function that returns its text, listed in `PAGES`.
"""

from __future__ import annotations

import html
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

import yaml

from pipeline.config.schema import Config, TaskConfig

DOCS = Path(__file__).resolve().parent

MADE = "<!-- Made from {source} by `make docs`. Do not edit. -->"

CONFIGURATION = f"""# Configuration

{MADE.format(source="pipeline/config/schema.py")}

`conf=` names a file in conf/ or is a path to a YAML file. The command line overrides the file:

```sh
python -m pipeline.run conf=mera limit=20 engine.max_num_seqs=128
```

- `base: [model/demo, cluster/cpu]` in a file lists files to build on. Later files override earlier ones, the file
  overrides its bases, and the command line overrides everything.
- ./conf takes precedence over the conf/ that the package contains.
- A relative `model.path`, `prompt.chat_template` or `tasks.<name>.dataset` in a file is relative to that file, or to
  the working directory if nothing is there.
- A value is read by the type of its key, so text needs no quotes. A single value is accepted where a list is expected.
- `null` unsets a key. An unknown key, a wrong type or a value out of bounds is an error of one line, with exit code 2.

`python -m pipeline.preview conf=<name>` shows each key with its value and where the value comes from;
`python -m pipeline.run --help` prints the keys below.
"""

NAMES: Mapping[Any, str] = {
    str: "text",
    bool: "true or false",
    int: "integer",
    float: "number",
    Any: "any value",
    types.NoneType: "null",
}
SIGNS: Mapping[str, str] = {"at_least": "≥ {}", "above": "> {}", "at_most": "≤ {}", "below": "< {}"}


class Key(NamedTuple):
    """A key of the configuration, as its row in the page."""

    name: str
    type: str
    default: str
    bounds: str
    meaning: str


def configuration() -> str:
    """Return docs/configuration.md: a table of keys for each section of the schema."""
    parts = [CONFIGURATION]
    for prefix, cls in _sections(Config, ""):
        rows = [_key(prefix, cls, item) for item in fields(cls) if not _is_section(cls, item)]
        title = f"`{prefix}*`" if prefix else "Top-level keys"
        first, _, rest = (cls.__doc__ or "").partition("\n\n")
        text = "\n\n".join(" ".join(each.split()) for each in (first, rest) if each)
        parts.append("\n".join([f"## {title}", "", text, "", *_table(rows)]) + "\n")
    return "\n".join(parts)


def _is_section(cls: type[Any], item: Field[Any]) -> bool:
    return is_dataclass(get_type_hints(cls)[item.name]) or (cls is Config and item.name == "tasks")


def _sections(cls: type[Any], prefix: str) -> Iterator[tuple[str, type[Any]]]:
    """Yield (prefix of the keys, dataclass) of a section and of those in it, in the schema's order."""
    yield prefix, cls
    for item in fields(cls):
        if _is_section(cls, item):
            is_task = cls is Config and item.name == "tasks"
            inner = TaskConfig if is_task else get_type_hints(cls)[item.name]
            yield from _sections(inner, f"{prefix}{item.name}.{'<name>.' if is_task else ''}")


def _key(prefix: str, cls: type[Any], item: Field[Any]) -> Key:
    default = item.default if item.default is not MISSING else {}
    plain = list(default) if isinstance(default, tuple) else default
    text = yaml.safe_dump(plain, default_flow_style=True, width=1000).removesuffix("\n...\n").strip()
    hint = get_type_hints(cls)[item.name]
    return Key(prefix + item.name, _type(hint), text, _bounds(item.metadata["bounds"]), item.metadata["meaning"])


def _type(hint: Any) -> str:
    """Return a type in words."""
    if get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(f"`{each}`" for each in get_args(hint))
    arguments = [_type(each) for each in get_args(hint) if each is not ...]
    match get_origin(hint):
        case types.UnionType | typing.Union:
            return " or ".join(arguments)
        case origin if origin is tuple:
            return f"list of {arguments[0]}"
        case origin if origin is dict:
            return f"mapping to {arguments[1]}"
        case _:
            return NAMES[hint]


def _bounds(bounds: Mapping[str, Any]) -> str:
    return ", ".join(sign.format(_number(bounds[name])) for name, sign in SIGNS.items() if name in bounds)


def _number(value: float) -> str:
    power = int(value).bit_length() - 1
    return f"2^{power}" if power >= 32 and value == 2**power else f"{value:,}"


def _table(rows: list[Key]) -> list[str]:
    lines = ["| key | type | default | bounds | meaning |", "|---|---|---|---|---|"]
    for each in rows:
        meaning = html.escape(each.meaning, quote=False).replace("|", "\\|")
        lines.append(f"| `{each.name}` | {each.type} | `{each.default}` | {each.bounds} | {meaning} |")
    return lines


PAGES: Mapping[str, Callable[[], str]] = {"configuration.md": configuration}
"""The functions that make pages, by file name."""


def main() -> None:
    """Write all pages."""
    for name, page in PAGES.items():
        (DOCS / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
