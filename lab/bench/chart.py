"""lab/bench/results.svg: CPU time per request, a group of bars for each operation."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")

from matplotlib import pyplot as plt

CHART = Path(__file__).with_name("results.svg")
# Readable on a white page and on a dark one.
INK = "#808890"
COLOURS = ["#d9480f", "#a9bedb", "#8aa4c8", "#6f8fb8", "#4f76a6"]
COLOURS += ["#d3b56a", "#b8964a", "#94752f", "#3f9b6c", "#9aa0a6"]


def draw(operations: Sequence[str], figures: Mapping[str, Sequence[float]]) -> None:
    """`figures`: by title, µs per request for each operation."""
    mpl.rcParams.update(
        {
            "svg.fonttype": "none",  # text stays text
            "svg.hashsalt": "nutshell",  # the same figures give the same file
            "font.family": "sans-serif",
            "text.color": INK,
            "axes.labelcolor": INK,
            "xtick.color": INK,
            "ytick.color": INK,
        }
    )
    figure, axes = plt.subplots(figsize=(9, 4.8), layout="constrained")
    width = 0.84 / len(figures)
    for number, (title, values) in enumerate(figures.items()):
        places = [place + (number - (len(figures) - 1) / 2) * width for place in range(len(values))]
        bars = axes.bar(places, values, width * 0.92, label=title, color=COLOURS[number])
        axes.bar_label(bars, fmt="%.0f", fontsize=5, padding=2, color=INK, rotation=90)
    axes.set_xticks(range(len(operations)), operations)
    axes.set_ylabel("µs of CPU time per request (less is better)")
    figure.legend(loc="outside upper left", frameon=False, fontsize=8, labelcolor=INK, ncols=2)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.grid(axis="y", color=INK, alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    figure.savefig(CHART, transparent=True, metadata={"Date": None, "Creator": None})
