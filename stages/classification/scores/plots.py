"""Plots of scores and of expert use, by matplotlib without a display."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ....pipeline.store.commit import write_bytes
from .figure_text import figure_title, from_start, in_unit, text_scale

if TYPE_CHECKING:
    from .ablation import Ablation
    from .expert_use import ExpertUse
    from .score_files import ReliabilityBins

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


def draw_reliability(diagrams: Mapping[str, ReliabilityBins], path: Path) -> None:
    """Plot how often what was predicted happened, over its probability; bars show how many."""
    columns = min(4, len(diagrams))
    lines = -(-len(diagrams) // columns)
    figure = Figure((2.4 * columns + 0.6, 2.4 * lines + 0.4), layout="constrained")
    for place, (name, bins) in enumerate(diagrams.items()):
        axes: Any = figure.add_subplot(lines, columns, place + 1)
        width, most = 1 / len(bins.counts), max(1, *bins.counts)
        edges = [k * width for k in range(len(bins.counts))]
        shares = [count / most for count in bins.counts]
        axes.bar(edges, shares, width, align="edge", color="#d7e3ec")
        axes.plot([0, 1], [0, 1], color="#999999", linewidth=0.8)
        pairs = zip(bins.confidence, bins.observed, strict=True)
        known = [(c, o) for c, o in pairs if c is not None and o is not None]
        told, happened = [c for c, _ in known], [o for _, o in known]
        axes.plot(told, happened, "o-", color=_COLOURS[0], markersize=3, linewidth=1)
        axes.set(xlim=(0, 1), ylim=(0, 1))
        axes.set_title(name if known else f"{name}: no label", fontsize=9)
        axes.tick_params(labelsize=7)
    figure.supxlabel("probability", fontsize=9)
    figure.supylabel("share that happened", fontsize=9)
    _save(figure, path)


def draw_ablation(table: Ablation, path: Path) -> None:
    """Plot the headline of each arm with its interval, one panel per size and start."""
    panels = sorted({(cell.size, cell.start) for cell in table.cells})
    arms = list(dict.fromkeys(cell.arm for cell in table.cells))
    heads = list(dict.fromkeys(cell.head for cell in table.cells))
    scale = text_scale(table.headline)
    figure = Figure((1.5 + 3.2 * len(panels), 1.2 + 0.5 * len(arms)), layout="constrained")
    for place, panel in enumerate(panels):
        axes: Any = figure.add_subplot(1, len(panels), place + 1)
        for shift, head in enumerate(heads):
            found = [c for c in table.cells if (c.size, c.start) == panel and c.head == head]
            lines = [arms.index(cell.arm) + 0.18 * (shift - (len(heads) - 1) / 2) for cell in found]
            values = [scale * cell.value for cell in found]
            # Rounding can put the value outside its interval; the bar then has no length.
            errors = [
                [max(0.0, scale * (cell.value - cell.low)) for cell in found],
                [max(0.0, scale * (cell.high - cell.value)) for cell in found],
            ]
            colour = _COLOURS[shift % len(_COLOURS)]
            axes.errorbar(values, lines, xerr=errors, fmt="o", color=colour, label=head, capsize=2)
        axes.set_yticks(range(len(arms)), arms if place == 0 else [""] * len(arms))
        axes.invert_yaxis()
        axes.grid(axis="x", alpha=0.3)
        axes.set_title(f"{panel[0]} training faces{from_start(panel[1])}", fontsize=9)
        axes.set_xlabel(figure_title(table.headline) + in_unit(table.headline))
        if place == 0:
            axes.legend(fontsize=8)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=120)
    write_bytes(path, stream.getvalue())
