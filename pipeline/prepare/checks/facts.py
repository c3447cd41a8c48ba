"""What is known before generation begins: the plain values that the checks of pipeline/prepare/checks evaluate.

`facts_of` collects `Facts` from a configuration, its data sets and the chat that renders them. It renders the chat
template on a fixed question and reads the model's small files, never its weights.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.config.paths import expanded
from pipeline.config.schema import Config
from pipeline.prepare.chat_template import Chat, Messages, TemplateFailed
from pipeline.prepare.checks.parser_facts import ParserFacts
from pipeline.prepare.dataset import Source
from pipeline.prepare.prompt_stats import RowFacts

SWITCHES = ("enable_thinking", "thinking")
"""Variables of chat templates that switch thinking on and off."""

QUESTION, ANSWER = "2 + 2 = ?", "It is 4"

ALLOW_LONG = "VLLM_ALLOW_LONG_MAX_MODEL_LEN"
"""Environment variable by which vLLM starts with a context beyond the model's."""

MODEL_CONFIG_ARGUMENTS = ("hf_overrides", "hf_config_path", "rope_scaling", "rope_parameters", "config_format")
"""Arguments in `engine.extra` that change the configuration in the model's config.json, or read another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """Properties of the tokenizer, the chat template and the model's files.

    Attributes:
        origin: The configuration key that the template comes from.
        template: The template's source.
        tail: What the template renders after the question, up to where the answer begins.
        has_generation_prompt: Whether add_generation_prompt changes the prompt.
        has_system: Whether the prompt contains prompt.system; True when prompt.system is not set.
        switches: The names of `SWITCHES` that are not in prompt.template_kwargs and would change the prompt.
        idle_kwargs: The names in prompt.template_kwargs that do not change the prompt.
        begin: The beginning-of-text token; None when the tokenizer has none.
        num_begins: How often a prompt repeats `begin`.
        adds_begin: Whether the tokenizer itself prepends `begin` to a plain text.
        turn_end: The first special token that the template writes after an answer; None when it writes none.
        ends: The tokens, by id, at which the engine ends a completion.
        special: All special tokens, by id.
        num_special: The number of special tokens in a prompt whose question contains none.
        config: The content of the model's config.json; empty when there is none.
        generation_config: The content of the model's generation_config.json; None when there is none.
        max_positions: The model's maximum context in tokens; None when it is unknown, extended by RoPE scaling, or may
            be changed by `engine.extra`.
    """

    origin: str
    template: str
    tail: str
    has_generation_prompt: bool
    has_system: bool
    has_date: bool
    idle_kwargs: tuple[str, ...]
    begin: str | None
    num_begins: int
    adds_begin: bool
    turn_end: str | None
    ends: Mapping[int, str]
    special: Mapping[int, str]
    num_special: int
    config: Mapping[str, Any]
    generation_config: Mapping[str, Any] | None
    max_positions: int | None
    switches: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """The input of the checks. None means unknown: checks that need such a value are skipped.

    `hub_commits` holds the commits of the data sets that come from the hub, by task; `model_commit` is the commit of a
    hub model. `allows_long_context` is whether vLLM may start with a context beyond the model's.
    """

    config: Config
    hub_commits: Mapping[str, str]
    model_commit: str | None = None
    model: ModelFacts | None = None
    parser: ParserFacts | None = None
    rows: RowFacts | None = None
    allows_long_context: bool = False


def facts_of(config: Config, sources: Sequence[Source], chat: Chat | None) -> Facts:
    """Return the facts about `config`, its data sets and its chat. The caller adds `rows` and `parser`."""
    commits = {source.task: source.revision for source in sources if not source.revision.startswith("sha256:")}
    if chat is None:
        return Facts(config=config, hub_commits=commits)
    try:
        model = _model_facts(config, chat)
    except TemplateFailed:  # prepare reports the failure on the first row
        model = None
    return Facts(
        config=config,
        hub_commits=commits,
        model_commit=chat.revision,
        model=model,
        allows_long_context=os.environ.get(ALLOW_LONG, "0").strip().lower() in ("1", "true"),
    )


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
    model_config = read_json(directory / "config.json") or {}
    return ModelFacts(
        origin=chat.origin,
        template=chat.template,
        tail=prompt.rpartition(QUESTION)[2],
        has_generation_prompt=_without_generation_prompt(chat, question) != prompt,
        has_system=not system or system[0]["content"].strip() in prompt,
        has_date=_reads_clock(chat, question, prompt),
        idle_kwargs=tuple(name for name in chat.template_kwargs if _is_idle(chat, name, question, prompt)),
        begin=None if begin is None else special.get(begin),
        num_begins=_num_leading(ids, begin),
        adds_begin=begin is not None and tokenizer("A")["input_ids"][:1] == [begin],
        turn_end=_turn_end(chat, question, special.values()),
        ends=_ends(tokenizer, generation_config if generation_config is not None else model_config),
        special=special,
        num_special=sum(each in special for each in ids),
        config=model_config,
        generation_config=generation_config,
        max_positions=_max_positions(config, model_config),
        switches=tuple(name for name in SWITCHES if _is_switch(chat, name, question)),
    )


def special_tokens(tokenizer: Any) -> dict[int, str]:
    """Return the tokens, by id, that a detokenizer drops when skip_special_tokens is set."""
    declared = zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True)
    return {**{i: t.content for i, t in added_tokens(tokenizer).items() if t.special}, **dict(declared)}


def added_tokens(tokenizer: Any) -> Mapping[int, Any]:
    """Return the tokens, by id, that the tokenizer matches as a whole before it tokenizes the rest of a text."""
    added: Mapping[int, Any] = getattr(tokenizer, "added_tokens_decoder", {})
    return added


def read_json(file: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file, or None when the file cannot be read or holds no JSON object."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _generation_config_file(config: Config, directory: Path) -> Path:
    """Return the generation_config.json that vLLM reads; `engine.extra` may name another directory than the model's."""
    named = config.engine.extra.get("generation_config", "auto")
    return (directory if named in ("auto", "vllm") else expanded(str(named))) / "generation_config.json"


def _begin(tokenizer: Any, special: Mapping[int, str]) -> int | None:
    first: int | None = tokenizer("A")["input_ids"][0]
    bos: int | None = tokenizer.bos_token_id
    return first if first in special else bos


def _num_leading(ids: Sequence[int], token: int | None) -> int:
    return next((place for place, each in enumerate(ids) if each != token), len(ids)) if token is not None else 0


def _without_generation_prompt(chat: Chat, messages: Messages) -> str:
    return chat.apply(messages, add_generation_prompt=False, **chat.template_kwargs)


def _reads_clock(chat: Chat, messages: Messages, prompt: str) -> bool:
    """Return whether the prompt depends on `strftime_now`, by which transformers gives a template the date."""
    if "strftime_now" not in chat.template:
        return False
    fixed = replace(chat, template_kwargs={**chat.template_kwargs, "strftime_now": lambda _: "another day"})
    try:
        return fixed.render(messages) != prompt
    except TemplateFailed:
        return True


def _is_idle(chat: Chat, name: str, messages: Messages, prompt: str) -> bool:
    """Return whether an argument leaves the prompt unchanged.

    A boolean is idle when its negation renders the same prompt, another value when the template does not mention its
    name.
    """
    value = chat.template_kwargs[name]
    if not isinstance(value, bool):
        return re.search(rf"\b{re.escape(name)}\b", chat.template) is None
    try:
        return replace(chat, template_kwargs={**chat.template_kwargs, name: not value}).render(messages) == prompt
    except TemplateFailed:
        return False


def _is_switch(chat: Chat, name: str, messages: Messages) -> bool:
    """Return whether a variable that is not given would switch something in the prompt."""
    if name in chat.template_kwargs or not re.search(rf"\b{name}\b", chat.template):
        return False
    try:
        on, off = (
            replace(chat, template_kwargs={**chat.template_kwargs, name: value}).render(messages)
            for value in (True, False)
        )
    except TemplateFailed:
        return False
    return on != off


def _turn_end(chat: Chat, question: Messages, special: Sequence[str] | Any) -> str | None:
    try:
        text = _without_generation_prompt(chat, [*question, {"role": "assistant", "content": ANSWER}])
    except TemplateFailed:
        return None
    before, _, after = text.rpartition(ANSWER)
    found = {after.index(token): token for token in special if token in after} if before else {}
    return found[min(found)] if found else None


def _ends(tokenizer: Any, files: Mapping[str, Any]) -> dict[int, str]:
    """Return the tokens, by id, at which vLLM ends a completion.

    These are the tokenizer's end of text and eos_token_id of `files`: the content of generation_config.json or, when
    there is none, of config.json. See `update_from_generation_config` in vLLM's sampling_params.py.
    """
    named = files.get("eos_token_id")
    candidates = [tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])]
    ids = dict.fromkeys(each for each in candidates if isinstance(each, int) and 0 <= each < len(tokenizer))
    return {each: str(tokenizer.convert_ids_to_tokens(each)) for each in ids}


def text_config(model_config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of a config.json that describes the language model."""
    text = model_config.get("text_config")
    return text if isinstance(text, dict) else model_config


def _max_positions(config: Config, model_config: Mapping[str, Any]) -> int | None:
    """Return the longest context that vLLM accepts, or None where config.json alone does not have it.

    See `_get_and_verify_max_len` in vLLM's config/model.py: model_max_length raises the limit.
    """
    text = text_config(model_config)
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    if not isinstance(rope, dict) or any(name in config.engine.extra for name in MODEL_CONFIG_ARGUMENTS):
        return None
    by_layer_type = [each for each in rope.values() if isinstance(each, dict)]
    if any(each.get("rope_type", each.get("type", "default")) != "default" for each in by_layer_type or [rope]):
        return None
    most = text.get("max_position_embeddings")
    limits = [most, text.get("model_max_length"), model_config.get("model_max_length")]
    return max(each for each in limits if isinstance(each, int)) if isinstance(most, int) else None
