"""Compares what an endpoint's server reports with what it reported for the rows that the run has already."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pipeline.errors import RunError
from pipeline.runs.manifest import EngineInfo

COMPARED = ("base_url", "server", "max_model_len")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerChange:
    """A property of the server that has changed since rows of this run were answered."""

    name: str
    before: str
    now: str

    @property
    def line(self) -> str:
        """The change for the terminal."""
        return f"the server's {self.name} is {self.now}; rows of this run were answered by one with {self.before}"


def server_changes(earlier: Iterable[EngineInfo], info: EngineInfo, session: str) -> Iterator[ServerChange]:
    """Yield what has changed, each change once.

    Args:
        earlier: What engines reported for rows of this run.
        info: What this engine reports.
        session: The driver's session; what the engines of this one reported is no earlier server's.

    Raises:
        RunError: It is another model.
    """
    seen: set[ServerChange] = set()
    for then in earlier:
        if then.served_model not in (None, info.served_model):
            raise RunError(
                f"engine.endpoint.model: {then.served_model!r} answered rows of this run, and the server now serves "
                f"{info.served_model!r}: serve the same model, or choose another run_id"
            )
        if info.served_model is None or then.served_model is None or then.session == session:
            continue
        for name in COMPARED:
            before, now = getattr(then, name), getattr(info, name)
            change = ServerChange(name=name, before=str(before), now=str(now))
            if before != now and change not in seen:
                seen.add(change)
                yield change
