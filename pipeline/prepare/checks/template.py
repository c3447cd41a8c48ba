"""Checks of the chat template and the tokenizer: the model receives prompts unlike those it was trained on."""

from __future__ import annotations

from pipeline.prepare.checks.check import CheckResult
from pipeline.prepare.checks.facts import Facts
from pipeline.prepare.checks.thinking import sees_special_tokens


def doubled_begin_of_text(facts: Facts) -> CheckResult | None:
    """The prompt begins with the beginning-of-text token more than once."""
    model = facts.model
    if model is None or model.num_begins < 2:
        return None
    return CheckResult(
        "doubled-begin-of-text",
        f"{model.origin}: a prompt begins with {model.begin} {model.num_begins} times, which the model has never seen",
        "write it once in the chat template, and not in prompt.system",
    )


def missing_begin_of_text(facts: Facts) -> CheckResult | None:
    """The template omits the token with which the tokenizer begins every text."""
    model = facts.model
    if model is None or not model.adds_begin or model.num_begins:
        return None
    return CheckResult(
        "missing-begin-of-text",
        f"{model.origin}: a prompt does not begin with {model.begin}, with which the tokenizer begins every text",
        "write {{ bos_token }} at the chat template's beginning",
    )


def no_generation_prompt(facts: Facts) -> CheckResult | None:
    """The template does not open the assistant's turn."""
    if facts.model is None or facts.model.has_generation_prompt:
        return None
    return CheckResult(
        "no-generation-prompt",
        f"{facts.model.origin}: the assistant's turn is not opened, so the model may continue the question",
        "let the chat template end in the assistant's header if add_generation_prompt",
    )


def switch_without_effect(facts: Facts) -> CheckResult | None:
    """An argument of the template does not change the prompt."""
    if facts.model is None or not facts.model.idle_kwargs:
        return None
    names = ", ".join(f"prompt.template_kwargs.{name}" for name in facts.model.idle_kwargs)
    return CheckResult(
        "switch-without-effect",
        f"{names} changes nothing in a prompt: {facts.model.origin} does not use it",
        "fix the name, take another chat template, or take the argument out",
    )


def system_dropped(facts: Facts) -> CheckResult | None:
    """The template omits the system message."""
    if facts.model is None or facts.model.has_system:
        return None
    return CheckResult(
        "system-dropped",
        f"prompt.system is not in the prompt: {facts.model.origin} leaves it out",
        "take another chat template, or set prompt.system=null",
    )


def template_with_date(facts: Facts) -> CheckResult | None:
    """The template writes today's date into the prompt."""
    model = facts.model
    if model is None or not model.has_date:
        return None
    return CheckResult(
        "template-with-date",
        f"{model.origin}: a prompt holds the date of the day, so no two days have the same prompts: they cannot be "
        "compared, and a run cannot be resumed after midnight",
        "fix the date by the template's own argument in prompt.template_kwargs, such as date_string, or by a copy of "
        "the template in prompt.chat_template",
    )


def turn_never_ends(facts: Facts) -> CheckResult | None:
    """The token that ends a turn does not end a completion."""
    model = facts.model
    if model is None or model.turn_end is None or model.turn_end in model.ends.values():
        return None
    is_stopped = any(stop in model.turn_end for stop in facts.config.generation.until)
    if is_stopped and sees_special_tokens(facts) is not False:
        return None
    ends = ", ".join(model.ends.values()) or "no token at all"
    return CheckResult(
        "turn-never-ends",
        f"a turn of the chat template ends with {model.turn_end}, but a completion only with {ends}: it continues "
        "to the last of its generation.max_gen_toks",
        f"add the id of {model.turn_end} to eos_token_id in the model's generation_config.json",
    )
