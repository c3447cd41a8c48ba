"""The keys `gate.*` and `noise.*`: when a finished run is called worse than an earlier one.

In: nothing. Out: frozen dataclasses, parts of `config.Config`. No completion depends on them.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.config.fields import RUN_ID, key, require


@dataclass(frozen=True, slots=True, kw_only=True)
class GateConfig:
    """What a finished run is held to; a broken rule ends it with exit code 3, and it stays complete."""

    baseline: str | None = key(
        None, "run_id in output_dir, or latest: the last complete run of this model, tasks and splits (null: no rule)"
    )
    max_drop: float = key(0.01, "drop of a score, from 0 to 1, that is let pass even when it is significant")
    alpha: float = key(0.05, "share of nights of an unchanged model that may break the rule max_drop")
    max_truncated: float | None = key(None, "share of rows that may be cut at the token limit (null: no rule)")
    max_failed: float | None = key(None, "share of rows that may fail (null: no rule)")
    max_no_answer: float | None = key(None, "share of rows that may have no readable answer (null: no rule)")

    def __post_init__(self) -> None:
        at, base = "gate", self.baseline
        require(base is None or bool(RUN_ID.fullmatch(base)), f"{at}.baseline", base, "give a run_id, latest, or null")
        require(0 <= self.max_drop < 1, f"{at}.max_drop", self.max_drop, "must be from 0 to below 1: 0.01 is a point")
        require(0 < self.alpha < 1, f"{at}.alpha", self.alpha, "must be above 0 and below 1")
        for name in ("max_truncated", "max_failed", "max_no_answer"):
            share = getattr(self, name)
            require(share is None or 0 <= share <= 1, f"{at}.{name}", share, "must be a share from 0 to 1, or null")

    @property
    def is_set(self) -> bool:
        """Whether there is any rule."""
        return any(
            each is not None for each in (self.baseline, self.max_truncated, self.max_failed, self.max_no_answer)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseConfig:
    """How much of a score is the engine's own unsteadiness."""

    share: float = key(
        0.0, "share of the questions that is generated a second time, in another order, to see what changes (0: none)"
    )

    def __post_init__(self) -> None:
        require(0 <= self.share <= 1, "noise.share", self.share, "must be from 0 to 1")
