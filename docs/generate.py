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

import pyarrow as pa
import yaml

from pipeline.config.schema import Config, TaskConfig
from pipeline.harness.diff import DIFFERENCE_SCHEMA, EXTRACTED_SCHEMA
from pipeline.records import (
    CHANGE_SCHEMA,
    COMPLETION_SCHEMA,
    FLIP_SCHEMA,
    METRIC_SCHEMA,
    PROMPT_SCHEMA,
    SAMPLE_SCHEMA,
)

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


COLUMNS_BEGIN = "<!-- The tables below are made from the schemas by `make docs`. Do not edit them. -->\n"
COLUMNS_END = "<!-- End of the tables. -->\n"

TABLES: Mapping[str, tuple[str, pa.Schema]] = {
    "prompts/": ("A row for each question.", PROMPT_SCHEMA),
    "completions/": ("A row for each question and repeat.", COMPLETION_SCHEMA),
    "samples/": (
        "A row for each question and repeat. `task` and `split` are the directories above the file.",
        SAMPLE_SCHEMA,
    ),
    "metrics.parquet": ("A row for each task (or domain, or `all`), split, group and metric.", METRIC_SCHEMA),
    "compare/compare.parquet": ("A row for each task (or domain, or `all`), split and metric.", CHANGE_SCHEMA),
    "compare/flips.parquet": ("A row for each question and metric that is right in only one run.", FLIP_SCHEMA),
    "replay-<time>/differences.parquet": (
        "A row for each field of a question that differs from a log of lm-evaluation-harness.",
        DIFFERENCE_SCHEMA,
    ),
    "replay-<time>/extracted.parquet": (
        "A row for each response that the letters and the exact match score differently.",
        EXTRACTED_SCHEMA,
    ),
}
"""The files whose columns docs/output-files.md describes, with what a row is."""


def output_files() -> str:
    """Return docs/output-files.md: its own text, with new tables of columns."""
    before, _, rest = (DOCS / "output-files.md").read_text(encoding="utf-8").partition(COLUMNS_BEGIN)
    after = rest.partition(COLUMNS_END)[2]
    tables = [
        "\n".join([f"### {file}", "", row, "", "| column | type | meaning |", "|---|---|---|", *_columns(schema)])
        for file, (row, schema) in TABLES.items()
    ]
    return "\n".join([before + COLUMNS_BEGIN, "\n\n".join(tables), "", COLUMNS_END + after])


def _columns(schema: pa.Schema) -> Iterator[str]:
    for each in schema:
        meaning = html.escape(each.metadata[b"description"].decode(), quote=False).replace("|", "\\|")
        kind = html.escape(str(each.type).replace("element: ", "").replace("item: ", ""), quote=False)
        yield f"| `{each.name}` | {kind}{' or null' if each.nullable else ''} | {meaning} |"


PAGES: Mapping[str, Callable[[], str]] = {"configuration.md": configuration, "output-files.md": output_files}
"""The functions that make pages, by file name."""


def main() -> None:
    """Write all pages."""
    for name, page in PAGES.items():
        (DOCS / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
