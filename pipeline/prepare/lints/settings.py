"""Lints of the other keys and of the rows."""

from __future__ import annotations

from pipeline.prepare.facts import Facts
from pipeline.prepare.lints.lint import Lint, some


def rows_do_not_fit(facts: Facts) -> Lint | None:
    """Prompts and budget are more than the context."""
    rows, config = facts.rows, facts.config
    if rows is None or not rows.num_unfit:
        return None
    return Lint(
        "rows-do-not-fit",
        f"{rows.num_unfit} of {rows.num_rows} prompts and generation.max_gen_toks={config.generation.max_gen_toks} are "
        f"more than model.context_size={config.model.context_size}, and become failed rows "
        f"(max_failed_rows={config.max_failed_rows}): {some(rows.unfit, rows.num_unfit)}",
        "raise model.context_size or lower generation.max_gen_toks",
    )


def special_tokens_in_questions(facts: Facts) -> Lint | None:
    """A question holds special tokens: it can close its own turn and open another."""
    rows = facts.rows
    if rows is None or not rows.num_marked:
        return None
    return Lint(
        "special-tokens-in-questions",
        f"{rows.num_marked} of {rows.num_rows} questions hold text that is tokenized as special tokens, and may "
        f"end their own turn: {some(rows.marked, rows.num_marked)}",
        "look at them with id=, and mend the data set",
    )


def context_beyond_model(facts: Facts) -> Lint | None:
    """The context is longer than the model's positions."""
    most = facts.model.max_positions if facts.model else None
    wish = facts.config.model.context_size
    if most is None or wish <= most:
        return None
    return Lint(
        "context-beyond-model",
        f"model.context_size={wish} is more than the {most} positions that the model's config.json allows: vLLM will "
        "not start",
        f"set model.context_size={most} or less",
    )


def unused_sampling(facts: Facts) -> Lint | None:
    """Sampling is described, and decoding is greedy."""
    wanted = facts.config.generation
    defaults = {"temperature": 1.0, "top_p": 1.0, "top_k": 0}
    given = [name for name, usual in defaults.items() if getattr(wanted, name) != usual]
    if wanted.do_sample or not given:
        return None
    values = ", ".join(f"generation.{name}={getattr(wanted, name)}" for name in given)
    return Lint(
        "unused-sampling",
        f"{values} has no effect with generation.do_sample=false",
        "set generation.do_sample=true, or take it out",
    )


def greedy_repeats(facts: Facts) -> Lint | None:
    """The same completion is made several times."""
    wanted = facts.config.generation
    if wanted.do_sample or wanted.repeats == 1:
        return None
    return Lint(
        "greedy-repeats",
        f"generation.repeats={wanted.repeats} with generation.do_sample=false makes nearly the same completion "
        f"{wanted.repeats} times",
        "set generation.do_sample=true, or generation.repeats=1",
    )


def no_revision(facts: Facts) -> Lint | None:
    """What comes from the hub may be another thing tomorrow."""
    config = facts.config
    pins = [
        f"tasks.{name}.revision={commit}"
        for name, commit in facts.hub_commits.items()
        if config.tasks[name].revision is None
    ]
    if facts.model_commit is not None and config.model.revision is None:
        pins.append(f"model.revision={facts.model_commit}")
    if not pins:
        return None
    names = ", ".join(pin.partition("=")[0] for pin in pins)
    return Lint(
        "no-revision",
        f"{names}: without it the hub gives whatever is newest, and two nights may differ",
        f"pin what is there now: {' '.join(pins)}",
    )


def remote_code(facts: Facts) -> Lint | None:
    """Python code of the model's authors runs here."""
    config = facts.config
    if not config.model.trust_remote_code or config.engine.kind != "vllm":
        return None
    return Lint(
        "remote-code",
        "model.trust_remote_code=true runs Python code that comes with the model, with all rights of this user",
        "read it and pin model.revision, or set it to false where vLLM knows the model",
    )
