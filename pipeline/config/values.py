"""Reads typed values from YAML and from the command line, by the schema's types.

In: YAML text or one `key=value`. Out: nested plain values of the types that the schema declares. A scalar is read by
its key's type, from its own characters and not from YAML's guess: `revision: 0123456`, `mera_version: 1.10` and
`team: no` stay text. One scalar is also a list of one. Keys of type Any, such as `engine.extra`, follow YAML.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import re
import types
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, Literal, cast, get_args, get_origin, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from pipeline.errors import ConfigError

MAX_NODES = 100_000
"""Maximum number of YAML nodes of a configuration, each counted as often as aliases repeat it."""
MAX_DEPTH = 50
MAX_LISTED = 10
"""Keys without a section that an error message lists."""
MAX_SHOWN = 200
"""Characters of a wrong value that an error message shows."""

TAGS = {f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map", "merge")}
WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    type(None): "null",
}
NULLS = ("null", "Null", "NULL", "~", "")


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as PyYAML reads it, with 1e3 a number, and dates text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if not tag.endswith((":float", ":timestamp"))]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+"
        r"|\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?|\.(?:inf|Inf|INF))$|\.(?:nan|NaN|NAN)$"
    ),
    list("-+0123456789."),
)


def read_yaml(text: str, schema: type[Any], where: str) -> dict[str, Any]:
    """Return the values of a YAML text: a mapping whose keys are those of the dataclass `schema`.

    Args:
        text: The YAML text.
        schema: The dataclass with the keys' types.
        where: Names the text in error messages.

    Raises:
        ConfigError: The text is not YAML, has a key twice or too many nodes, or a value does not have its key's type.
            The message begins with `where`.
    """
    node = _composed(text, where)
    if node is None or (isinstance(node, yaml.ScalarNode) and node.value in NULLS):
        return {}
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{where} must hold keys and values, not a list or a single value")
    try:
        return _section(node, schema, "")
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def read_override(name: str, text: str, schema: type[Any]) -> dict[str, Any]:
    """Return the value of one `name=text` of the command line, nested by the parts of its dotted name.

    A text key takes the text as it is. `null` is None.

    Raises:
        ConfigError: The key is unknown, or the text does not have its type.
    """
    if problem := _problem(text):
        raise ConfigError(f"{name}={text[:MAX_SHOWN]!r} {problem}")
    hint: Any = schema
    parts: list[str] = []
    rest = name
    while rest:
        # The key of a mapping of scalars is all that is left: the name of a label, ray.io/accelerator-type, has dots.
        holds_scalars = get_origin(hint) is dict and get_args(hint)[1] in WORDS
        part, _, rest = (rest, "", "") if holds_scalars else rest.partition(".")
        hint = _inner(hint, part, ".".join(parts))
        parts.append(part)
    node: yaml.Node = yaml.ScalarNode("tag:yaml.org,2002:str", text)
    if _is_yaml(hint, text):
        node = _composed(text, f"{name}={text}") or node
    value = _value(node, hint, name)
    for part in reversed(parts):
        value = {part: value}
    return dict(value)


def _is_yaml(hint: Any, text: str) -> bool:
    """Return whether the text of an override is YAML: that of a mapping, of a list in brackets, or of type Any."""
    if get_origin(hint) is tuple:
        return text.lstrip().startswith(("[", "{"))
    return hint is Any or is_dataclass(hint) or get_origin(hint) is dict


def _problem(text: str) -> str | None:
    """Return what is wrong with a scalar of any type, or None."""
    if "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
        return "is not Unicode text: give it in UTF-8, without NUL"
    return "has no value: ??? is a placeholder" if text == "???" else None


def _composed(text: str, where: str) -> yaml.Node | None:
    try:
        node = yaml.compose(text, Loader=_Loader)
        _check(node, 0, [0])
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{where} is not YAML: {_reason(error)}") from error
    return node


def _reason(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return "it is nested too deep" if isinstance(error, RecursionError) else " ".join(str(error).split())[:MAX_SHOWN]


def _check(node: yaml.Node | None, depth: int, num: list[int]) -> None:
    """Check a node and all below it, aliases followed.

    Raises:
        YAMLError: There are more than `MAX_NODES`, they are nested deeper than `MAX_DEPTH`, or one has a tag that is
            neither JSON's nor the merge key's, or is no Unicode text.
    """
    num[0] += 1
    if num[0] > MAX_NODES or depth > MAX_DEPTH:
        raise yaml.YAMLError(f"it has more than {MAX_NODES:,} values, or nests them deeper than {MAX_DEPTH}")
    if node is not None and node.tag not in TAGS:
        raise yaml.MarkedYAMLError(problem=f"the tag {node.tag} is not allowed", problem_mark=node.start_mark)
    if isinstance(node, yaml.ScalarNode) and (problem := _problem(node.value)):
        raise yaml.MarkedYAMLError(problem=f"a value {problem}", problem_mark=node.start_mark)
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value} is given twice", problem_mark=key.start_mark)
            seen.add(str(key.value))
    if isinstance(node, yaml.CollectionNode):
        for child in node.value:
            for each in child if isinstance(child, tuple) else (child,):
                _check(each, depth + 1, num)


def _items(node: yaml.MappingNode) -> Iterator[tuple[str, yaml.Node]]:
    """Yield the keys of a mapping, in the file's own characters, with their values."""
    _Loader("").flatten_mapping(node)  # the merge key <<
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise ConfigError(f"line {key.start_mark.line + 1}: a key must be text, not a list or a mapping")
        yield key.value, value


def _section(node: yaml.MappingNode, schema: type[Any], prefix: str) -> dict[str, Any]:
    outer = prefix.removesuffix(".")
    return {key: _value(value, _inner(schema, key, outer), f"{prefix}{key}") for key, value in _items(node)}


def _inner(hint: Any, key: str, name: str) -> Any:
    """Return the type of `key` inside a section, or of an entry of a mapping key; `name` is the outer full name."""
    full = f"{name}.{key}" if name else key
    if hint is Any:
        return Any
    if is_dataclass(hint):
        schema: Any = hint
        hints = _hints(schema)
        if key in hints:
            return hints[key]
        near = difflib.get_close_matches(key, hints, n=1, cutoff=0.5)
        is_short = name or len(hints) <= MAX_LISTED
        known = (
            f"{name or 'the file'} has {', '.join(hints)}" if is_short else "python -m pipeline.run --help lists all"
        )
        raise ConfigError(f"{full}: there is no such key. {f'Did you mean: {near[0]!r}?' if near else known}")
    if get_origin(hint) is dict:
        return get_args(hint)[1]
    raise ConfigError(f"{full}: {name} is no section: give {name}= {_wording(hint)}")


@functools.cache
def _hints(schema: type[Any]) -> dict[str, Any]:
    return get_type_hints(schema)


def _value(node: yaml.Node, hint: Any, name: str) -> Any:
    """Return the value of a node by its key's type."""
    if hint is Any:
        return _any(node, name)
    if is_dataclass(hint) or get_origin(hint) is dict:
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"{name}={_shown(node)}: must be {_wording(hint)}{_example(hint, name)}")
        if is_dataclass(hint):
            return _section(node, cast("type[Any]", hint), f"{name}.")
        return {key: _value(each, get_args(hint)[1], f"{name}.{key}") for key, each in _items(node)}
    if get_origin(hint) is tuple:
        if isinstance(node, yaml.MappingNode):
            raise ConfigError(f"{name}={_shown(node)}: must be {_wording(hint)}")
        items = node.value if isinstance(node, yaml.SequenceNode) else [node]
        return [_scalar(each, get_args(hint)[0], name) for each in items]
    return _scalar(node, hint, name)


def _scalar(node: yaml.Node, hint: Any, name: str) -> Any:
    """Return a scalar by its key's type, from its own characters."""
    kinds = get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if isinstance(node, yaml.ScalarNode):
        if node.style is None and node.value in NULLS:
            kinds = tuple(kind for kind in kinds if kind is type(None))
            if kinds:
                return None
        for kind in sorted(kinds, key=lambda each: each is str):  # text last, since every scalar is text
            if kind is str:
                return node.value
            with contextlib.suppress(ValidationError):
                return _adapter(kind).validate_python(node.value.strip())
    raise ConfigError(f"{name}={_shown(node)}: must be {_wording(hint)}")


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _any(node: yaml.Node, name: str) -> Any:
    try:
        return _Loader("").construct_document(node)
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise ConfigError(f"{name} cannot be read: {_reason(error)}") from error


def _shown(node: yaml.Node) -> str:
    text = repr(node.value) if isinstance(node, yaml.ScalarNode) else yaml.serialize(node, width=10**6).strip()
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def _wording(hint: Any) -> str:
    """Return the words for a type in an error message."""
    if isinstance(hint, types.UnionType):
        return " or ".join(_wording(kind) for kind in get_args(hint))
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(get_args(hint))
    if is_dataclass(hint) or get_origin(hint) is dict:
        return "a mapping"
    if get_origin(hint) is tuple:
        return "a list, such as [a, b]"
    return WORDS[hint]


def _example(hint: Any, name: str) -> str:
    return f", such as {name}.{fields(hint)[0].name}=..." if is_dataclass(hint) else f", such as {name}={{a: 1}}"
