"""Writes a configuration to keep: what the command line of a preview gave, and what the checks propose for the model.

In: the arguments of a preview and what its checks found. Out: a short YAML file with comments that `conf=<file>` loads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from pipeline.config.loading import find_conf, given
from pipeline.config.paths import HOME, expanded
from pipeline.config.schema import Config
from pipeline.errors import ConfigError
from pipeline.generate.engines.reasoning import parser_of
from pipeline.prepare.chat_template import Chat
from pipeline.prepare.checks.facts import Facts
from pipeline.prepare.checks.parser_facts import parser_facts
from pipeline.prepare.checks.thinking import parser_mismatch, proposed_parsers
from pipeline.terminal.text import escape_control

OF_ONE_RUN = ("run_id", "conf")
"""Keys that belong to one run and are not kept."""


def require_writable(file: Path) -> None:
    """Check, before anything is prepared, that a configuration can be written there.

    Raises:
        ConfigError: The file exists or cannot be reached, its name does not end in .yaml, or what should be its
            directory is a file.
    """
    if file.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"write={str(file)!r}: give a file that ends in .yaml, such as conf/mine.yaml")
    try:
        if file.exists() or file.is_symlink():
            raise ConfigError(f"write={str(file)!r}: the file exists and is never overwritten: choose another name")
        above = next((each for each in file.parents if each.exists() or each.is_symlink()), None)
    except OSError as error:
        raise ConfigError(f"write={str(file)!r} cannot be written: {error.strerror}") from error
    if above is not None and not above.is_dir():
        raise ConfigError(f"write={str(file)!r}: {str(above)!r} is no directory: choose another name")


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """What the checks propose: the reasoning parser and the switch of thinking, None where there is none to propose."""

    parser: str | None = None
    switch: str | None = None


def propose(facts: Facts, chat: Chat | None) -> Proposal:
    """Return what the checks propose for the keys that the configuration leaves out."""
    model, config = facts.model, facts.config
    if model is None or chat is None:
        return Proposal()
    switch = model.switches[0] if model.switches else None
    if config.reasoning_parser is not None:
        return Proposal(switch=switch)
    return Proposal(parser=_first_that_fits(facts, chat), switch=switch)


def _first_that_fits(facts: Facts, chat: Chat) -> str | None:
    """Return the likeliest parser that splits the model's outputs; without vllm here, the likeliest one."""
    for name in proposed_parsers(facts):
        tried = replace(facts, config=replace(facts.config, reasoning_parser=name))
        try:
            found = parser_facts(parser_of(tried.config, chat.tokenizer), chat.tokenizer)
        except ConfigError:  # this vLLM does not know it, or it refuses the tokenizer
            continue
        except (ImportError, OSError):
            return name
        if parser_mismatch(replace(tried, parser=found)) is None:
            return name
    return None


def write(file: Path, arguments: Sequence[str], config: Config, proposal: Proposal) -> None:
    """Write a configuration file.

    Args:
        file: Where to write; its directory is made if need be.
        arguments: `conf=` and the overrides of the command line.
        config: What they resolve to.
        proposal: What to add to them.

    Raises:
        ConfigError: The file exists or cannot be written.
    """
    text = _text(file, arguments, config, proposal)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as target:
            try:
                target.write(text)
                target.flush()
            except OSError:  # half a configuration is worse than none
                file.unlink()
                raise
    except OSError as error:
        require_writable(file)  # made by another process meanwhile
        raise ConfigError(f"write={str(file)!r} cannot be written: {error.strerror}") from error


def _text(file: Path, arguments: Sequence[str], config: Config, proposal: Proposal) -> str:
    base, values = given(arguments)
    values = {name: value for name, value in values.items() if name not in OF_ONE_RUN}
    _make_absolute(values, config)
    comments = {}
    if config.engine.kind == "vllm" and config.model.context_size is not None:
        comments["model"] = f"The context is {config.model.context_size} tokens; context_size sets another one."
    if proposal.switch is not None:
        prompt = values.setdefault("prompt", {})
        prompt["template_kwargs"] = {**prompt.get("template_kwargs", {}), proposal.switch: True}
        comments["prompt"] = f"{proposal.switch} is the chat template's switch of thinking; false: without thinking."
    if proposal.parser is not None:
        values["reasoning_parser"] = proposal.parser
        comments["reasoning_parser"] = "vLLM's parser for this chat template: it splits thinking from the answer."
    lines = [
        "# Written by python -m pipeline.preview. Run it:",
        f"#     python -m pipeline.run conf={escape_control(str(file))}",
        "# On a machine without GPUs add cluster/cpu to base.",
        f"base: [{json.dumps(_base(base), ensure_ascii=False)}]",
    ]
    first = [name for name in ("model", "prompt", "reasoning_parser") if name in values]
    for name in (*first, *(name for name in values if name not in first)):
        lines += [f"# {comments[name]}"] if name in comments else []
        lines += _yaml({name: values[name]})
    return "\n".join(lines) + "\n"


def _base(name: str) -> str:
    """Return what finds the base from anywhere: a name of the project's own conf/, else the path of the file."""
    file = find_conf(name).resolve()
    if file.is_relative_to(HOME / "conf"):
        return str(file.relative_to(HOME / "conf").with_suffix(""))
    return str(file)


def _make_absolute(values: dict[str, Any], config: Config) -> None:
    """Replace relative paths, which the command line takes from the working directory, by absolute ones."""
    _replace(values.get("model"), "path")
    _replace(values.get("prompt"), "chat_template")
    tasks = values.get("tasks", {})
    for name in config.tasks:
        _replace(tasks.get(name), "dataset")


def _replace(section: Any, name: str) -> None:
    text = section.get(name) if isinstance(section, dict) else None
    if isinstance(text, str) and expanded(text).exists():
        section[name] = str(expanded(text).absolute())


def _yaml(values: Mapping[str, Any]) -> list[str]:
    return str(yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True, width=100)).splitlines()
