"""Prints the sections of the preview, one fact per line, so that piped output can be searched.

In: plain values. Out: lines on a console. Text from data sets and models is escaped, and prompts are printed behind a
bar, so that none can imitate a line of the preview.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any

import yaml
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.config.loading import flat
from pipeline.config.schema import Config
from pipeline.prepare.checks import CheckResult
from pipeline.prepare.checks.facts import ModelFacts
from pipeline.prepare.prompt_stats import Lengths
from pipeline.prepare.token_view import Piece
from pipeline.runs.estimate import Expected
from pipeline.runs.manifest import PromptMetadata
from pipeline.terminal.text import BRACKETS, escape_control, listed

BAR = "  │ "
STYLES = {"special": "bold magenta", "added": "bold cyan", "text": ""}
MAX_CHARS, MAX_TOKENS = 6_000, 2_000
"""Printed of one prompt, unless it is requested by its id."""


def heading(console: Console, title: str) -> None:
    """Print a section's title."""
    console.print()
    console.rule(Text(title, style="bold"), align="left", style="dim")


def line(console: Console, *parts: str | tuple[str, str]) -> None:
    """Print the parts of a line, each a text or a text with its style, without markup, wrapping or control characters.

    The parts may quote other runs, models and servers.
    """
    safe = [
        escape_control(each, BRACKETS) if isinstance(each, str) else (escape_control(each[0], BRACKETS), each[1])
        for each in parts
    ]
    console.print(Text.assemble(*safe), soft_wrap=True)


def configuration(console: Console, config: Config, origins: Mapping[str, str]) -> None:
    """Print every configuration key with its value and its origin, without the keys of tasks that do not run."""
    heading(console, "configuration")
    idle = tuple(f"tasks.{name}." for name in config.tasks if name not in config.active_tasks)
    rows = {name: _yaml(value) for name, value in flat(asdict(config)).items() if not name.startswith(idle)}
    width = max(map(len, rows))
    for name, value in rows.items():
        origin = origins.get(name, "default")
        style = "dim" if origin == "default" else "bold"
        line(console, f"  {name:<{width}}  ", (f"{value:<32}", style), ("  " + origin, "dim"))
    if idle:
        line(console, f"  ({len(idle)} tasks that do not run are left out: see only, announced)")


def template(console: Console, model: ModelFacts | None, metadata: PromptMetadata) -> None:
    """Print the origin and the fingerprint of the chat template, unless a server renders the prompts."""
    if model is not None:
        line(
            console,
            f"  chat template: {escape_control(model.origin)}, fingerprint {metadata.template_fingerprint}",
        )


def prompt(
    console: Console, row: Mapping[str, Any], pieces: Iterable[Piece], model: ModelFacts | None, *, whole: bool
) -> None:
    """Print one prompt as text and as tokens, or the messages that a server renders.

    Args:
        console: The console.
        row: A row of the artifact `prompts`.
        pieces: Its tokens.
        model: The model, whose special tokens are marked in the text; None for an endpoint.
        whole: Whether to print a long prompt in full.
    """
    size = "" if row["num_prompt_tokens"] is None else f", {row['num_prompt_tokens']:,} tokens"
    gold = "hidden" if row["gold"] is None else escape_control(row["gold"])
    console.print()
    line(console, (f"{row['task']} {row['split']} id={row['id']}", "bold"), f"{size}, gold {gold}")
    if row["error"] is not None:
        line(console, ("  error: ", "bold red"), escape_control(row["error"]))
    if row["prompt"] is None:
        for message in json.loads(row["messages"]):
            line(console, f"  {message['role']}")
            _barred(console, Text(escape_control(_cut(message["content"], whole), keep="\n")))
        return
    text = Text(escape_control(_cut(row["prompt"], whole), keep="\n"))
    marks = "|".join(re.escape(each) for each in (model.special.values() if model else ()))
    if marks:
        text.highlight_regex(marks, style=STYLES["special"])
    line(console, "  text")
    _barred(console, text)
    tokens = _tokens(pieces if whole else islice(pieces, MAX_TOKENS))
    tokens.rstrip()
    if tokens:
        line(console, "  tokens")
        _barred(console, tokens)


def _tokens(pieces: Iterable[Piece]) -> Text:
    """Return tokens with a dot after each; special and added tokens are in brackets, with their ids."""
    text = Text()
    for piece in pieces:
        piece_text = escape_control(piece.text.replace("\n", "⏎"))
        if piece.kind == "text":
            text.append(piece_text + "·")
        else:
            text.append(f"⟦{piece_text} {piece.token_ids[0]}⟧", STYLES[piece.kind])
        if piece.text.endswith("\n"):
            text.append("\n")
    return text


def _cut(text: str, whole: bool) -> str:
    if whole or len(text) <= MAX_CHARS:
        return text
    return f"{text[:MAX_CHARS]}\n... {len(text) - MAX_CHARS:,} more characters: id= shows them"


def _barred(console: Console, text: Text) -> None:
    for part in text.split("\n", allow_blank=True):
        console.print(Text.assemble((BAR, "dim"), part), soft_wrap=True)


def lengths(console: Console, rows: Sequence[Lengths], config: Config) -> None:
    """Print the lengths of the prompts, and the rows that cannot be requested."""
    in_tokens = config.engine.kind == "vllm"
    heading(console, "prompt tokens" if in_tokens else "characters of the messages (the server counts tokens)")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("task", "split"):
        table.add_column(name, no_wrap=True)
    for name in ("rows", "min", "mean", "median", "p95", "max", "unfit", "refused"):
        table.add_column(name, justify="right")
    for each in rows:
        sizes = [_number(value) for value in (each.least, each.mean, each.median, each.p95, each.most)]
        counts = [f"{each.num_unfit:,}" if in_tokens else "not known", f"{each.num_failed:,}"]
        table.add_row(each.task, each.split, f"{each.num_rows:,}", *sizes, *counts)
    console.print(table)
    if in_tokens:
        max_tokens, context_size = config.generation.max_gen_toks, config.model.context_size or 0
        sums = f"{context_size - max_tokens:,} tokens (context {context_size:,} - max_gen_toks {max_tokens:,})"
        line(console, f"  unfit: longer than {sums}; refused: the chat template fails on the row")
    else:
        line(console, "  unfit: not known: the context is the server's own, and so is the chat template")
    for each in rows:
        if each.num_unfit:
            ids = listed(each.unfit_ids, each.num_unfit)
            line(console, ("  unfit", "bold red"), f": {each.task} {each.split} id {ids}")


def vllm(console: Console, config: Config, sampling: Mapping[str, Any], model: ModelFacts | None) -> None:
    """Print the parameters of each request to vLLM, and which of the model's own settings apply."""
    line(console, "  vLLM, in this run's own processes; a request is a prompt's token ids and")
    _values(console, {**sampling, "seed": f"{config.seed} + repeat", "all else": "vLLM's neutral default"})
    if model is None:
        return
    line(console, "  a completion ends, besides stop, at the tokens")
    _values(console, {text: token_id for token_id, text in model.ends.items()})
    if model.generation_config is None:
        line(console, "  the model has no generation_config.json")
        return
    left_out = {name: value for name, value in model.generation_config.items() if name != "eos_token_id"}
    line(console, "  left out of the model's generation_config.json (in use: eos_token_id)")
    _values(console, left_out or {"nothing": None})


def endpoint(console: Console, config: Config, body: Mapping[str, Any]) -> None:
    """Print a request to an endpoint, and the settings that only its server decides."""
    address = config.engine.endpoint
    line(
        console,
        f"  POST {escape_control(address.base_url or '')}/chat/completions",
        ("  a request a row, such as", "dim"),
    )
    if address.api_key_env is not None:
        is_set = address.api_key_env in os.environ  # else it may be the key itself, given by mistake
        line(console, f"  the key is read from {f'${address.api_key_env}' if is_set else 'a variable that is not set'}")
    for header, name in address.headers.items():
        is_set = name in os.environ  # else it may be the secret itself
        line(console, f"  header {header}: {f'${name}' if is_set else 'read from a variable that is not set'}")
    _barred(console, Text(escape_control(json.dumps(body, ensure_ascii=False, indent=2), keep="\n")))
    if "seed" not in address.leave_out:
        line(console, "  seed is that of the first repeat.")
    line(console, "  The server decides on everything else: vLLM's takes top_k, repetition_penalty")
    line(console, "  and the like from the model's generation_config.json, unless it was started")
    line(
        console, "  with --generation-config vllm, and splits reasoning only if it was started with --reasoning-parser."
    )


def _values(console: Console, rows: Mapping[str, Any]) -> None:
    width = max((len(name) for name in rows), default=0)
    for name, value in rows.items():
        line(console, f"    {escape_control(str(name)):<{width}}  ", (_yaml(value), "bold"))


def expected(console: Console, found: Expected | None, unread: Sequence[str], config: Config) -> None:
    """Print the tokens and the time that a past run predicts for this one, or that there is no such run."""
    heading(console, "expected tokens and time")
    for each in unread:
        line(console, f"  {escape_control(each)}")
    if found is None:
        line(console, f"  unknown: no complete run of this model and these tasks in {config.output_dir}")
        return
    ended_at = escape_control(found.ended_at)
    line(console, f"  from run {found.run_id}, ended {ended_at}, generation.max_gen_toks={found.max_gen_toks}")
    for task in found.tasks:
        if task.mean_tokens is None:
            line(console, f"  {task.task}: {task.num_rows:,} rows, unknown: that run has no such task")
            continue
        line(
            console,
            f"  {task.task}: {task.num_rows:,} rows, {task.num_same:,} of them with the same prompt then, ",
            f"{task.mean_tokens:,.0f} tokens each, {task.truncated or 0:.1%} ran into that run's budget",
        )
    seconds, repeats = found.seconds, config.generation.repeats_text
    line(console, "  output tokens: ", (_number(found.num_tokens), "bold"), f" with generation.repeats={repeats}")
    if seconds is None or found.tokens_per_s is None:
        line(console, "  time: unknown: that run's manifest does not have its speed")
        return
    replicas = "1 replica" if found.num_replicas == 1 else f"{found.num_replicas} replicas"
    rate = f"{found.tokens_per_s:,.0f} tokens/s as then, on {replicas}, with the engine's start"
    line(console, "  time: ", (_duration(seconds), "bold"), f" at {rate}")


def check_results(console: Console, found: Sequence[CheckResult], warnings: Sequence[str | None]) -> None:
    """Print the other warnings of a run and the skipped checks, then the results of the checks, two lines each."""
    heading(console, "checks")
    for warning in warnings:
        if warning is not None:
            line(console, ("warning", "bold yellow"), f": {escape_control(warning)}")
    for each in found:
        line(console, ("check ", "bold yellow"), (each.name, "bold"), f": {escape_control(each.reason)}")
        line(console, ("  fix: ", "dim"), escape_control(each.fix))
    if not found:
        line(console, "  nothing found")


def _yaml(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6, sort_keys=False)
    return escape_control(text.removesuffix("\n...\n").strip())


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {left:02} s"
