"""How tables and scores look on the terminal."""

from __future__ import annotations

from rich import box
from rich.table import Table


def plain_table() -> Table:
    """Return an empty table without a frame, with a line below the titles."""
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))


def with_interval(value: float | None, low: float | None, high: float | None) -> str:
    """Return a score with half the width of its 95% interval, such as `0.652 ±0.11`; "-" if it is unknown."""
    if value is None:
        return "-"
    return f"{value:.3f}" if low is None or high is None else f"{value:.3f} ±{(high - low) / 2:.2f}"
