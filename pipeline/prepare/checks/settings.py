"""Checks of the remaining configuration keys and of the rows."""

from __future__ import annotations

from pipeline.prepare.checks.check import CheckResult
from pipeline.prepare.checks.facts import ALLOW_LONG, Facts
from pipeline.terminal.text import listed

NUM_LISTED = 5
"""Maximum number of rows that a check names."""


def rows_do_not_fit(facts: Facts) -> CheckResult | None:
    """Prompts and generation.max_gen_toks together exceed the context."""
    rows, config = facts.rows, facts.config
    if rows is None or not rows.num_unfit:
        return None
    return CheckResult(
        "rows-do-not-fit",
        f"{rows.num_unfit:,} of {rows.num_rows:,} prompts and generation.max_gen_toks={config.generation.max_gen_toks} "
        f"are more than model.context_size={config.model.context_size}, and become failed rows "
        f"(max_failed_rows={config.max_failed_rows}): {listed(rows.unfit[:NUM_LISTED], rows.num_unfit)}",
        "raise model.context_size or lower generation.max_gen_toks",
    )


def special_tokens_in_questions(facts: Facts) -> CheckResult | None:
    """A question contains special tokens, which can end its turn and open another."""
    rows = facts.rows
    if rows is None or not rows.num_marked:
        return None
    return CheckResult(
        "special-tokens-in-questions",
        f"{rows.num_marked:,} of {rows.num_rows:,} questions hold text that is tokenized as special tokens, and may "
        f"end their own turn: {listed(rows.marked[:NUM_LISTED], rows.num_marked)}",
        "examine them with id=, and fix the data set",
    )


def odd_references(facts: Facts) -> CheckResult | None:
    """Reference answers are hidden where they should be known, or match no right answer."""
    if facts.rows is None or not facts.rows.odd_references:
        return None
    return CheckResult(
        "odd-references",
        "; ".join(facts.rows.odd_references),
        "correct the data set, or take the rows out",
    )


def context_beyond_model(facts: Facts) -> CheckResult | None:
    """The context is longer than the model supports."""
    most = facts.model.max_positions if facts.model else None
    context_size = facts.config.model.context_size
    if most is None or context_size is None or context_size <= most:
        return None
    return CheckResult(
        "context-beyond-model",
        f"model.context_size={context_size} is more than the {most} positions that the model's config.json allows: "
        + (f"{ALLOW_LONG} is set, and what is beyond is noise" if facts.allows_long_context else "vLLM will not start"),
        f"set model.context_size={most} or less",
        ends_run=not facts.allows_long_context,
    )


def unused_sampling(facts: Facts) -> CheckResult | None:
    """Sampling parameters are set, but decoding is greedy."""
    sampling = facts.config.generation
    defaults = {"temperature": 1.0, "top_p": 1.0, "top_k": 0}
    changed = [name for name, usual in defaults.items() if getattr(sampling, name) != usual]
    if sampling.do_sample or not changed:
        return None
    values = ", ".join(f"generation.{name}={getattr(sampling, name)}" for name in changed)
    return CheckResult(
        "unused-sampling",
        f"{values} has no effect with generation.do_sample=false",
        "set generation.do_sample=true, or take it out",
    )


def greedy_repeats(facts: Facts) -> CheckResult | None:
    """Greedy decoding repeats nearly the same completion."""
    sampling = facts.config.generation
    most = max(sampling.repeats_by_split[split] for split in facts.config.splits)
    if sampling.do_sample or most == 1:
        return None
    return CheckResult(
        "greedy-repeats",
        f"generation.repeats={sampling.repeats_text} with generation.do_sample=false makes nearly the same completion "
        f"{most} times",
        "set generation.do_sample=true, or generation.repeats=1",
    )


def no_revision(facts: Facts) -> CheckResult | None:
    """A hub data set or model is not pinned to a revision and may change between runs."""
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
    return CheckResult(
        "no-revision",
        f"{names}: without it the hub gives whatever is newest, and two runs may differ",
        f"pin what is there now: {' '.join(pins)}",
    )


def remote_code(facts: Facts) -> CheckResult | None:
    """Python code that comes with the model is executed."""
    config = facts.config
    if not config.model.trust_remote_code or config.engine.kind != "vllm":
        return None
    return CheckResult(
        "remote-code",
        "model.trust_remote_code=true runs Python code that comes with the model, with all rights of this user",
        "read it and pin model.revision, or set it to false where vLLM knows the model",
    )
