"""The settings of a bench: model sizes, numbers of questions, lengths of completions, ways and rounds.

In: `key=value` arguments. Out: a `Bench`. Arguments that are not the bench's own override the pipeline's configuration,
from which all ways of driving vLLM take `max_num_seqs` and the other engine arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from pipeline.config.loading import compose
from pipeline.config.schema import Config
from pipeline.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]

WAYS = {
    "plain": "vllm.LLM.generate, all at once",
    "pipeline": "pipeline, generate stage",
    "history": "pipeline, lengths known from history",
    "ray_llm": "ray.data.llm",
    "server_64": "vLLM's API server, 64 at once",
    "server_1": "vLLM's API server, one at a time",
    "ceiling": "AsyncLLM alone, bounded, longest first",
}
"""Ways of driving vLLM, in the order of the first round; the others are compared with `plain`."""

BASELINE, CEILING = "plain", "ceiling"


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """One model and its questions.

    Completion lengths are lognormal with `median_tokens` and `sigma` (of the logarithm), clipped to `min_tokens` and
    `max_tokens`. `num_alone` questions, spread evenly over the lengths, are sent one at a time. `num_warm_up` other
    questions precede each measurement. `max_num_seqs` is the engine's for all ways.
    """

    name: str
    max_num_seqs: int
    num_questions: int
    num_alone: int
    num_warm_up: int
    min_tokens: int
    max_tokens: int
    median_tokens: float
    sigma: float


SIZES = (
    Size(
        name="demo",
        max_num_seqs=64,
        num_questions=1000,
        num_alone=40,
        num_warm_up=128,
        min_tokens=8,
        max_tokens=1500,
        median_tokens=120.0,
        sigma=1.0,
    ),
    # As close to a GPU as two cores come: completions longer than their prompts, and so few slots that a step of one
    # row takes four tenths of a full one (30 and 76 ms; with 64 slots 30 and 112). There must be more questions than
    # `ray_llm`, which waits for whole batches, has in flight at once; otherwise its steady state is not measured.
    Size(
        name="large",
        max_num_seqs=32,
        num_questions=192,
        num_alone=8,
        num_warm_up=32,
        min_tokens=8,
        max_tokens=600,
        median_tokens=80.0,
        sigma=1.0,
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """One bench: the directory of its files, its sizes, ways and rounds, and overrides for the pipeline."""

    directory: Path
    sizes: tuple[Size, ...]
    ways: tuple[str, ...]
    rounds: int
    overrides: tuple[str, ...]

    def config(self, size: Size, *overrides: str) -> Config:
        """Return the pipeline's configuration for a size."""
        own = [f"model.path={self.directory / 'models' / size.name}", f"engine.max_num_seqs={size.max_num_seqs}"]
        own.append(f"tasks.bench.dataset={self.directory / 'questions'}")
        return compose(["conf=bench", *own, *self.overrides, *overrides])


def parse(arguments: Sequence[str]) -> Bench:
    """Return the bench that the arguments describe.

    They are `rounds=3`, `only=plain,pipeline`, `sizes=demo`, `folder=outputs/bench`, and the fields of `Size`, which
    apply to all sizes: `num_questions=200 max_tokens=100`. Others override the pipeline's configuration.

    Raises:
        ConfigError: An argument is neither one of these nor a key of the pipeline, or its value is invalid.
    """
    values = dict(argument.partition("=")[::2] for argument in arguments)
    directory = (ROOT / values.pop("folder", "outputs/bench")).resolve()
    ways = _chosen("only", values.pop("only", None), tuple(WAYS))
    names = _chosen("sizes", values.pop("sizes", None), tuple(size.name for size in SIZES))
    rounds = _number("rounds", values.pop("rounds", "3"), int)
    kinds: dict[str, Any] = {item.name: float if item.type == "float" else int for item in fields(Size)[1:]}
    changes = {name: _number(name, values.pop(name), kinds[name]) for name in kinds if name in values}
    sizes = tuple(replace(size, **changes) for size in SIZES if size.name in names)
    rest = tuple(f"{name}={value}" for name, value in values.items())
    bench = Bench(directory=directory, sizes=sizes, ways=ways, rounds=rounds, overrides=rest)
    bench.config(sizes[0])
    return bench


def _number(name: str, text: str, kind: Any) -> Any:
    try:
        value = kind(text)
    except ValueError:
        value = 0
    if not value > 0:
        raise ConfigError(f"{name}={text!r}: give a number above 0")
    return value


def _chosen(name: str, text: str | None, known: tuple[str, ...]) -> tuple[str, ...]:
    if text is None:
        return known
    chosen = text.split(",")
    strangers = sorted(set(chosen) - set(known))
    if strangers:
        raise ConfigError(f"{name}={text}: {strangers[0]!r} is unknown, there are {', '.join(known)}")
    return tuple(each for each in known if each in chosen)


def engine_arguments(config: Config) -> dict[str, Any]:
    """Return the vLLM engine arguments that the pipeline's own engine gets, for the other ways."""
    return {
        "model": config.model.path,
        "dtype": config.model.dtype,
        "max_model_len": config.model.context_size,
        "max_num_seqs": config.engine.max_num_seqs,
        "gpu_memory_utilization": config.engine.gpu_memory_utilization,
        "seed": config.seed,
        **config.engine.extra,
    }
