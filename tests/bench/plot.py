"""Plots the bench: a bar per way and size with its ratio to plain vLLM, and the range over the rounds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.results import Summary
from bench.settings import BASELINE, WAYS

OURS = ("pipeline", "history")


def plot(summaries: Sequence[Summary], file: Path) -> None:
    """Write the plot as SVG. Ways without a ratio are left out."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.fonttype"] = "none"
    sizes = list(dict.fromkeys(each.size for each in summaries))
    figure = Figure(figsize=(5.2 * len(sizes) + 1.6, 3.2), layout="constrained")
    axes = figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0]
    for place, size in zip(axes, sizes, strict=True):
        own = [each for each in summaries if each.size == size and each.ratio is not None]
        names = [WAYS[each.way] for each in own]
        ratios = [each.ratio for each in own]
        spread = [[each.ratio - each.ratio_low for each in own], [each.ratio_high - each.ratio for each in own]]
        colours = ["#1f6f8b" if each.way in OURS else "#c9c9c9" for each in own]
        place.barh(names, ratios, xerr=spread, color=colours, error_kw={"elinewidth": 1, "ecolor": "#333333"})
        for each in own:
            place.text(0.02, WAYS[each.way], f"{each.tokens_per_s:,.0f} tokens/s", va="center", fontsize=8)
        place.axvline(1.0, color="#333333", linewidth=0.8, linestyle=":")
        place.set_title(f"{size} model", fontsize=10)
        place.set_xlabel(f"tokens/s, to {WAYS[BASELINE]}", fontsize=8)
        place.tick_params(labelsize=8)
        place.spines[["top", "right"]].set_visible(False)
    axes[0].invert_yaxis()
    figure.savefig(file)
