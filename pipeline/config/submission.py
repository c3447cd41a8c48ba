"""The keys `submission.*`: what only people can say of a submission.

In: nothing. Out: frozen dataclasses, a part of `config.Config`. Completions do not depend on them, so a run is gone on
with when they have changed. What no key says and no program measures stands as TODO in the card.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from pipeline.config.fields import key, require, require_no_credentials


def _require_text(name: str, value: str | None) -> None:
    require(value is None or bool(value.strip()), name, value, "give some text, or null")


@dataclass(frozen=True, slots=True, kw_only=True)
class UnmeasuredConfig:
    """Fields of the form that a run could not measure, such as what a server runs on; a measured value wins."""

    torch: str | None = key(None, "version of torch, used where the run could not measure it (null: TODO)")
    cuda: str | None = key(None, "version of CUDA, likewise")
    transformers: str | None = key(None, "version of transformers, likewise")
    precision: str | None = key(None, "precision of the weights, likewise")
    gpus: str | None = key(None, "number and type of the GPUs, such as 8 x NVIDIA A100-SXM4-80GB, likewise")
    context_size: str | None = key(None, "tokens of prompt and completion together, likewise")
    chat_template: str | None = key(None, "text of the chat template, likewise")

    def __post_init__(self) -> None:
        for item in fields(self):
            _require_text(f"submission.unmeasured.{item.name}", getattr(self, item.name))


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmissionConfig:
    """What goes to the leaderboard, and its form as far as people fill it in."""

    mode: Literal["reference", "extracted"] = key(
        "reference", "submit the response as it is (reference), or the letters read from it (extracted)"
    )
    team: str | None = key(None, "who submits (null: TODO in the card)")
    mera_version: str | None = key(None, "version of the benchmark, such as v1.0.0")
    describes: str | None = key(
        None, "model.path that the keys about the model tell of; with another one they are left out (null: any)"
    )
    model_name: str | None = key(None, "the model's name (null: its name on the hub)")
    model_link: str | None = key(None, "where the model can be had (null: its page on the hub)")
    model_size: str | None = key(None, "number of parameters, such as 36.0B, where the weights' files do not tell it")
    model_type: tuple[str, ...] = key((), "the form's own English words, such as [Opened, SFT, MoE]")
    additional_links: tuple[str, ...] = key((), "further pages about the model")
    architecture_description: str | None = key(None, "the architecture in words (null: as config.json has it)")
    training_description: str | None = key(None, "how the model was trained, in words")
    license: str | None = key(None, "the model's license")
    unmeasured: UnmeasuredConfig = key(UnmeasuredConfig(), "")

    def __post_init__(self) -> None:
        at = "submission"
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, (str, tuple)):
                for text in (value,) if isinstance(value, str) else value:
                    _require_text(f"{at}.{item.name}", text)
        for name, links in (("model_link", (self.model_link,)), ("additional_links", self.additional_links)):
            for link in links:
                require_no_credentials(f"{at}.{name}", link or "")
