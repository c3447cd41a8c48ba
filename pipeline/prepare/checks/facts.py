"""What is known before the first token is generated: plain values that pipeline/prepare/checks.py judges.

In: a configuration, where its data sets are, and the chat that renders them. Out: `Facts`. The chat template is tried
on a question of our own; the model's files are read, never its weights.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.config.schema import Config
from pipeline.prepare.chat_template import Chat, Messages, TemplateFailed
from pipeline.prepare.checks.parser_facts import ParserFacts
from pipeline.prepare.dataset import Source
from pipeline.prepare.prompt_stats import RowFacts

QUESTION, ANSWER = "2 + 2 = ?", "It is 4"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What the tokenizer, the chat template and the model's files say.

    `origin` names the key that the template comes from. `tail` is what it renders from the question's end to the
    answer's beginning; `idle_kwargs` are those of prompt.template_kwargs that change nothing. `begin` is the token
    that begins a text (None: there is none), `num_begins` how often a prompt begins with it, `adds_begin` whether the
    tokenizer by itself sets it before a plain text. `turn_end` is the special token that the template writes behind
    an answer; `ends` are the tokens, by id, at which the engine ends a completion. `num_special` counts the special
    tokens of a prompt whose question has none, `special` are all there are, by id. `generation_config` is the model's
    file of that name (None: there is none), `max_positions` its longest context (None: unknown, or it is stretched).
    """

    origin: str
    template: str
    tail: str
    has_generation_prompt: bool
    has_system: bool
    idle_kwargs: tuple[str, ...]
    begin: str | None
    num_begins: int
    adds_begin: bool
    turn_end: str | None
    ends: Mapping[int, str]
    special: Mapping[int, str]
    num_special: int
    generation_config: Mapping[str, Any] | None
    max_positions: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that the lints look at. What is None is not known, and no lint speaks of it.

    `hub_commits` are the commits of the data sets that come from the hub, by task; `model_commit` is the hub model's.
    """

    config: Config
    hub_commits: Mapping[str, str]
    model_commit: str | None = None
    model: ModelFacts | None = None
    parser: ParserFacts | None = None
    rows: RowFacts | None = None


def facts_of(config: Config, sources: Sequence[Source], chat: Chat | None) -> Facts:
    """Return what `config`, its data sets and its chat say; rows and reasoning parser are the caller's to add."""
    commits = {source.task: source.revision for source in sources if not source.revision.startswith("sha256:")}
    if chat is None:
        return Facts(config=config, hub_commits=commits)
    try:
        model = _model_facts(config, chat)
    except TemplateFailed:  # the first row will say so, in the words of prepare
        model = None
    return Facts(config=config, hub_commits=commits, model_commit=chat.revision, model=model)


def _model_facts(config: Config, chat: Chat) -> ModelFacts:
    tokenizer = chat.tokenizer
    system: Messages = [{"role": "system", "content": config.prompt.system}] if config.prompt.system else []
    question: Messages = [*system, {"role": "user", "content": QUESTION}]
    prompt = chat.render(question)
    ids = chat.encode([prompt])[0]
    special = special_tokens(tokenizer)
    begin = _begin(tokenizer, special)
    directory = Path(tokenizer.name_or_path)
    generation_config = read_json(_generation_config_file(config, directory))
    model_config = read_json(directory / "config.json")
    return ModelFacts(
        origin=chat.origin,
        template=chat.template,
        tail=prompt.rpartition(QUESTION)[2],
        has_generation_prompt=_without_generation_prompt(chat, question) != prompt,
        has_system=not system or system[0]["content"].strip() in prompt,
        idle_kwargs=tuple(name for name in chat.template_kwargs if _is_idle(chat, name, question, prompt)),
        begin=None if begin is None else special.get(begin),
        num_begins=_num_leading(ids, begin),
        adds_begin=begin is not None and tokenizer("A")["input_ids"][:1] == [begin],
        turn_end=_turn_end(chat, question, special.values()),
        ends=_ends(tokenizer, generation_config if generation_config is not None else model_config or {}),
        special=special,
        num_special=sum(each in special for each in ids),
        generation_config=generation_config,
        max_positions=_max_positions(model_config or {}),
    )


def special_tokens(tokenizer: Any) -> dict[int, str]:
    """Return the tokens, by id, that a detokenizer leaves out unless it is told to keep them."""
    declared = zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True)
    return {**{i: t.content for i, t in added_tokens(tokenizer).items() if t.special}, **dict(declared)}


def added_tokens(tokenizer: Any) -> Mapping[int, Any]:
    """Return the tokens, by id, that are cut out of a text whole before the rest of it is tokenized."""
    added: Mapping[int, Any] = getattr(tokenizer, "added_tokens_decoder", {})
    return added


def read_json(file: Path) -> dict[str, Any] | None:
    """Return a JSON object of the model's files, or None when it is not there or is not one."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _generation_config_file(config: Config, directory: Path) -> Path:
    """Return the file that vLLM reads the ends from: `engine.extra` may name another directory than the model's."""
    named = config.engine.extra.get("generation_config", "auto")
    return (directory if named in ("auto", "vllm") else Path(str(named)).expanduser()) / "generation_config.json"


def _begin(tokenizer: Any, special: Mapping[int, str]) -> int | None:
    first: int | None = tokenizer("A")["input_ids"][0]
    bos: int | None = tokenizer.bos_token_id
    return first if first in special else bos


def _num_leading(ids: Sequence[int], token: int | None) -> int:
    return next((place for place, each in enumerate(ids) if each != token), len(ids)) if token is not None else 0


def _without_generation_prompt(chat: Chat, messages: Messages) -> str:
    return chat.apply(messages, add_generation_prompt=False, **chat.template_kwargs)


def _is_idle(chat: Chat, name: str, messages: Messages, prompt: str) -> bool:
    """Return whether an argument of the template is idle: a switch by trying its other side, else by its name."""
    value = chat.template_kwargs[name]
    if not isinstance(value, bool):
        return re.search(rf"\b{re.escape(name)}\b", chat.template) is None
    try:
        return replace(chat, template_kwargs={**chat.template_kwargs, name: not value}).render(messages) == prompt
    except TemplateFailed:
        return False


def _turn_end(chat: Chat, question: Messages, special: Sequence[str] | Any) -> str | None:
    try:
        text = _without_generation_prompt(chat, [*question, {"role": "assistant", "content": ANSWER}])
    except TemplateFailed:
        return None
    before, _, behind = text.rpartition(ANSWER)
    found = {behind.index(token): token for token in special if token in behind} if before else {}
    return found[min(found)] if found else None


def _ends(tokenizer: Any, files: Mapping[str, Any]) -> dict[int, str]:
    """Return where vLLM ends a completion: the tokenizer's end of text and those of the model's generation config.

    vLLM takes them from config.json when there is no generation_config.json; see `update_from_generation_config` in
    its sampling_params.py.
    """
    named = files.get("eos_token_id")
    candidates = [tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])]
    ids = dict.fromkeys(each for each in candidates if isinstance(each, int) and 0 <= each < len(tokenizer))
    return {each: str(tokenizer.convert_ids_to_tokens(each)) for each in ids}


def _max_positions(model_config: Mapping[str, Any]) -> int | None:
    """Return the positions that the model was made for, unless its rotary embedding stretches them."""
    text = model_config.get("text_config", model_config)
    if not isinstance(text, dict):
        return None
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default")) if isinstance(rope, dict) else None
    most = text.get("max_position_embeddings")
    return most if kind == "default" and isinstance(most, int) else None
