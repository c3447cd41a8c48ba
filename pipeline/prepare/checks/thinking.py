"""Checks of reasoning and of what ends a completion: the token budget is spent without an answer."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pipeline.prepare.checks.check import CheckResult
from pipeline.prepare.checks.facts import Facts

SHORT_THINKING = 1024
"""Tokens of output within which most reasoning models have not reached their answer."""

REASONING_TAGS = (
    ("<think>", "</think>"),
    ("<seed:think>", "</seed:think>"),
    ("<thought>", "</thought>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
)
"""Marks of reasoning in the chat templates of open models, used when no parser declares its own."""

PARSERS_BY_MODEL_TYPE = (
    ("deepseek", "deepseek_r1"),
    ("ernie4_5", "ernie45"),
    ("gemma4", "gemma4"),
    ("glm", "glm45"),
    ("gpt_oss", "openai_gptoss"),
    ("granite", "granite"),
    ("hunyuan", "hunyuan_a13b"),
    ("kimi", "kimi_k2"),
    ("mimo", "mimo"),
    ("minimax", "minimax_m2"),
    ("nemotron", "nemotron_v3"),
    ("olmo3", "olmo3"),
    ("qwen3", "qwen3"),
    ("seed_oss", "seed_oss"),
    ("step3", "step3"),
)
"""vLLM's reasoning parsers by the start of the `model_type` in config.json (vLLM 0.32, reasoning/__init__.py)."""

PARSERS_BY_TAG = {
    "<seed:think>": "seed_oss",
    "[THINK]": "mistral",
    "<|START_THINKING|>": "cohere_command3",
    "<think>": "deepseek_r1",
}
"""vLLM's reasoning parsers by the mark that starts reasoning, for models of other types."""

MARKUP = re.compile(r"<\|[^|]*\|>|</?s>")
"""Text that looks like a special token, used when only the server has the tokenizer."""


def thinks(facts: Facts) -> bool:
    """Return whether the model is expected to write reasoning before its answer."""
    if facts.model is None:
        kwargs = facts.config.prompt.template_kwargs
        switch = kwargs.get("enable_thinking", kwargs.get("thinking"))
        return switch is True or (switch is None and facts.config.reasoning_parser is not None)
    state = _state(facts)
    if state is not None:
        return state == "open"
    knows_tags = any(end in facts.model.template for _, end in _tags(facts))
    return knows_tags or facts.config.reasoning_parser is not None


def proposed_parsers(facts: Facts) -> list[str]:
    """Return vLLM's reasoning parsers that may be the model's, the likeliest first; empty for one that does not think.

    The type of the model is known only by its config.json, and the marks by its chat template. `parser_mismatch`
    checks whether a parser splits the model's outputs.
    """
    model = facts.model
    if model is None or not thinks(facts):
        return []
    model_type = str(model.config.get("model_type", ""))
    found = [parser for start, parser in PARSERS_BY_MODEL_TYPE if model_type.startswith(start)]
    for tag, parser in PARSERS_BY_TAG.items():
        if tag in model.template:
            # With a switch, an output without marks is an answer: qwen3 takes it for one, deepseek_r1 for reasoning.
            has_switch = bool(model.switches or facts.config.prompt.template_kwargs)
            found += ["qwen3"] if tag == "<think>" and has_switch else []
            found.append(parser)
    return list(dict.fromkeys(found))


def stop_in_reasoning(facts: Facts) -> CheckResult | None:
    """A stop string may end the completion during the reasoning."""
    special = set(facts.model.special.values()) if facts.model else None
    stops = [s for s in facts.config.generation.until if not (s in special if special else MARKUP.fullmatch(s))]
    if not stops or not thinks(facts):
        return None
    return CheckResult(
        "stop-in-reasoning",
        f"generation.until={stops!r} can occur while the model thinks: the completion ends there, without an answer",
        "take it out: the model's end of text ends a completion by itself",
    )


def stop_never_matches(facts: Facts) -> CheckResult | None:
    """A stop string is a special token, which is dropped from the text that is searched for stop strings."""
    model = facts.model
    if model is None or sees_special_tokens(facts) is not False:
        return None
    ends = set(model.ends.values())
    inside = {stop: {t for t in model.special.values() if t in stop} for stop in facts.config.generation.until}
    stops = [stop for stop, tokens in inside.items() if tokens and not tokens & ends]
    if not stops:
        return None
    return CheckResult(
        "stop-never-matches",
        f"generation.until={stops!r} is a special token: it is left out of the text in which stop strings are "
        "searched, and ends nothing",
        "add its id to eos_token_id in the model's generation_config.json, or give the text that follows it",
    )


def thinking_without_parser(facts: Facts) -> CheckResult | None:
    """The model writes reasoning, but no parser separates it from the answer."""
    if facts.config.reasoning_parser is not None or facts.model is None or not thinks(facts):
        return None
    proposed, switches = proposed_parsers(facts), facts.model.switches
    return CheckResult(
        "thinking-without-parser",
        f"{facts.model.origin} is of a model that thinks, and reasoning_parser=None: its reasoning is scored as its "
        "answer",
        (f"set reasoning_parser={proposed[0]}" if proposed else "set reasoning_parser to the model's")
        + ", or switch thinking off"
        + (f": prompt.template_kwargs.{switches[0]}=false" if switches else " in prompt.template_kwargs"),
    )


def parser_mismatch(facts: Facts) -> CheckResult | None:
    """The reasoning parser expects marks that this model does not write."""
    parser, model, name = facts.parser, facts.model, facts.config.reasoning_parser
    if parser is None or model is None:
        return None
    marks = [mark for mark in (parser.start, parser.end) if mark]
    finds = parser.takes_opened or (_state(facts) != "open" and parser.takes_whole)
    if parser.refusal is not None:
        reason = f"it cannot split a whole output ({parser.refusal})"
    elif parser.missing:
        reason = f"its marks {', '.join(parser.missing)} are no tokens of the model"
    elif marks and not any(mark in model.template for mark in marks):
        reason = f"{model.origin} knows neither {' nor '.join(marks)}"
    elif marks and thinks(facts) and not finds:
        reason = f"it finds no answer behind {marks[-1]}"
    else:
        return None
    return CheckResult(
        "parser-mismatch",
        f"reasoning_parser={name!r} does not match the model: {reason}",
        "set it to the parser that vLLM's documentation names for this model",
    )


def parser_takes_answers(facts: Facts) -> CheckResult | None:
    """Thinking is switched off, and the parser classifies the answer as reasoning."""
    parser = facts.parser
    if parser is None or parser.refusal is not None or parser.takes_plain or _state(facts) != "closed":
        return None
    return CheckResult(
        "parser-takes-answers",
        f"thinking is switched off, and reasoning_parser={facts.config.reasoning_parser!r} takes an output without "
        "marks for unfinished reasoning: every response would be empty",
        "set reasoning_parser=null, or switch thinking on",
    )


def short_thinking(facts: Facts) -> CheckResult | None:
    """The token budget is too small for reasoning and an answer."""
    max_tokens = facts.config.generation.max_gen_toks
    if max_tokens >= SHORT_THINKING or not thinks(facts):
        return None
    return CheckResult(
        "short-thinking",
        f"generation.max_gen_toks={max_tokens} is little for a model that thinks: what is cut off has no answer",
        f"give at least {SHORT_THINKING}, better 10000, or switch thinking off",
    )


def sees_special_tokens(facts: Facts) -> bool | None:
    """Return whether stop strings are matched against text that includes special tokens.

    None when this depends on vLLM's reasoning parser, which is not available.
    """
    if facts.parser is not None:
        return not facts.parser.drops_special_tokens
    return False if facts.config.reasoning_parser is None else None


def _tags(facts: Facts) -> Sequence[tuple[str, str]]:
    parser = facts.parser
    own = ((parser.start, parser.end),) if parser and parser.start and parser.end else ()
    return (*own, *REASONING_TAGS)


def _state(facts: Facts) -> str | None:
    """Return `open` or `closed`: how the template leaves the reasoning before the answer; None when it has no marks."""
    tail = facts.model.tail if facts.model else ""
    for start, end in _tags(facts):
        if start in tail or end in tail:
            return "open" if tail.rfind(start) > tail.rfind(end) else "closed"
    return None
