"""Plots of scores and of expert use, by matplotlib without a display."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ....pipeline.store.commit import write_bytes

if TYPE_CHECKING:
    from ..ablate import Ablation
    from .expert_use import ExpertUse

_COLOURS = ("#1f5f8b", "#e08e2b", "#5b8c5a", "#8c4a5b")


def draw_experts(use: ExpertUse, path: Path) -> None:
    """Plot the experts' weights: the input mixture, then each label of the output mixture."""
    names = ["input", *use.names]
    shares = [use.input_load, *use.by_label]
    figure = Figure((1.6 + 0.6 * len(use.input_load), 1 + 0.32 * len(names)), layout="constrained")
    axes: Any = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for line, row in enumerate(shares):
        for column, share in enumerate(row):
            colour = "white" if share > 0.5 else "black"
            axes.text(column, line, f"{100 * share:.0f}", ha="center", va="center", color=colour)
    axes.set_xticks(range(len(use.input_load)), [str(i + 1) for i in range(len(use.input_load))])
    axes.set_yticks(range(len(names)), names)
    axes.set_title("weight of each expert, %", fontsize=9)
    _save(figure, path)


def draw_ablation(table: Ablation, path: Path) -> None:
    """Plot the headline of each arm with its interval, one panel per size."""
    sizes = sorted({cell.size for cell in table.cells})
    arms = list(dict.fromkeys(cell.arm for cell in table.cells))
    heads = list(dict.fromkeys(cell.head for cell in table.cells))
    figure = Figure((1.5 + 3.2 * len(sizes), 1.2 + 0.5 * len(arms)), layout="constrained")
    for place, size in enumerate(sizes):
        axes: Any = figure.add_subplot(1, len(sizes), place + 1)
        for shift, head in enumerate(heads):
            found = [c for c in table.cells if c.size == size and c.head == head]
            lines = [arms.index(cell.arm) + 0.18 * (shift - (len(heads) - 1) / 2) for cell in found]
            values = [100 * cell.value for cell in found]
            # Rounding can put the value outside its interval; the bar then has no length.
            errors = [
                [max(0.0, 100 * (cell.value - cell.low)) for cell in found],
                [max(0.0, 100 * (cell.high - cell.value)) for cell in found],
            ]
            colour = _COLOURS[shift % len(_COLOURS)]
            axes.errorbar(values, lines, xerr=errors, fmt="o", color=colour, label=head, capsize=2)
        axes.set_yticks(range(len(arms)), arms if place == 0 else [""] * len(arms))
        axes.invert_yaxis()
        axes.grid(axis="x", alpha=0.3)
        axes.set_title(f"{size} training faces", fontsize=9)
        axes.set_xlabel(f"{table.headline}, %")
        if place == 0:
            axes.legend(fontsize=8)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=120)
    write_bytes(path, stream.getvalue())
