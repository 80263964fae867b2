"""The table of an ablation: means over seeds, intervals over people, and differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from natsort import natsorted

from ....manifests.arrays import Numbers
from ....pipeline.store.commit import write_json
from ...metrics.resampling import Draws, percentiles
from ..settings import AblateConfig
from ..tasks import Task, people_of
from .figure_text import from_start, in_unit, interval_text, text_scale
from .score_files import ScoreFile
from .scoring import HEADLINE, MODEL, headline_of, row_statistics

#: Descriptions of the arms, for reports.
MEANINGS = {
    "original": "the original alone",
    "normalized": "the normalized face alone",
    "original+original": "the original twice, augmented independently",
    "original+normalized": "both",
    "original+code": "the original and the normalizer's expression code",
    "original+features": "the original and the normalizer's encoder features of it",
}
#: The differences that show whether normalizing helps: (name, ours, other).
CONTRASTS = (
    ("both views - the original twice", "original+normalized", "original+original"),
    ("normalized - original", "normalized", "original"),
    ("both views - original and code", "original+normalized", "original+code"),
    ("both views - original and encoder", "original+normalized", "original+features"),
)


@dataclass(frozen=True)
class Cell:
    """One configuration, over several seeds.

    Attributes:
        size: number of training faces.
        arm, head: the configuration.
        start: value of ``classify.encoder``.
        value: mean over the seeds of the headline on the full test set.
        low, high: 95 % interval of that mean, over people.
        each: the headline of each seed.
        kept: the mean on the usable test faces.
    """

    size: int
    arm: str
    head: str
    value: float
    low: float
    high: float
    each: tuple[float, ...]
    kept: float
    start: str = ""


class Run(NamedTuple):
    """What one training differs in; ``start`` is a value of ``classify.encoder``."""

    size: int
    arm: str
    head: str
    seed: int
    start: str = ""

    @property
    def cell(self) -> Run:
        """Return the same with seed 0, for what is averaged over the seeds."""
        return self._replace(seed=0)


@dataclass(frozen=True)
class Contrast:
    """The difference between two cells of one size and start, paired by person and by seed."""

    size: int
    name: str
    head: str
    value: float
    low: float
    high: float
    start: str = ""


@dataclass(frozen=True)
class Ablation:
    """The whole table.

    Attributes:
        people: of the test set; an input without a subject counts as one.
        without_subject: such inputs.
        warnings: those that the scores of all runs have.
        tested: the other dataset that was tested; empty for the test part of the same one.
    """

    headline: str
    names: tuple[str, ...]
    test_rows: int
    people: int
    cells: tuple[Cell, ...]
    contrasts: tuple[Contrast, ...]
    groups: dict[str, Ablation]
    without_subject: int = 0
    warnings: tuple[str, ...] = ()
    tested: str = ""

    def text(self) -> str:
        """Return the table as Markdown: what the second view gains, warnings, table, groups."""
        warnings = (f"warning: {warning}" for warning in self.warnings)
        parts = [*self._gain(), *warnings, self._table()]
        parts += [f"**{name}**\n\n{table.text()}" for name, table in self.groups.items()]
        return "\n\n".join(parts)

    def _gain(self) -> list[str]:
        """Return a line on both views against the original twice, if both are there."""
        name = CONTRASTS[0][0]
        found = [c for c in self.contrasts if c.name == name and c.head == self.cells[0].head]
        if not found:
            return []
        better, worse = sum(c.low > 0 for c in found), sum(c.high < 0 for c in found)
        each = "; ".join(
            f"{_interval(self.headline, c, '+')} with {c.size} faces{from_start(c.start)}"
            for c in found
        )
        return [
            f"Both views are better than the original twice in {better} of {len(found)} "
            f"comparisons, worse in {worse} (95 % intervals without 0): {each}."
        ]

    def _table(self) -> str:
        lines: list[str] = []
        who = f"{self.people} people"
        if self.without_subject:
            who += f", of whom {self.without_subject} are inputs without a subject"
        over = f"{in_unit(self.headline)} on {self.test_rows} faces"
        over += f" of {self.tested}" if self.tested else ""
        for size, start in sorted({(cell.size, cell.start) for cell in self.cells}):
            here = [cell for cell in self.cells if (cell.size, cell.start) == (size, start)]
            heads = list(dict.fromkeys(cell.head for cell in here))
            lines += [
                f"{size} training faces{from_start(start)}; {self.headline}{over} of {who}:",
                "",
                "| views | " + " | ".join(heads) + " |",
                "|---|" + "---|" * len(heads),
            ]
            for arm in dict.fromkeys(cell.arm for cell in here):
                found = {cell.head: cell for cell in here if cell.arm == arm}
                values = " | ".join(
                    _interval(self.headline, found[h]) if h in found else "" for h in heads
                )
                lines.append(f"| {MEANINGS.get(arm, arm)} | {values} |")
            unit = "points" if text_scale(self.headline) == 100 else self.headline
            lines += ["", f"| difference | head | {unit} |", "|---|---|---|"]
            lines += [
                f"| {c.name} | {c.head} | {_interval(self.headline, c, '+')} |"
                for c in self.contrasts
                if (c.size, c.start) == (size, start)
            ]
            lines.append("")
        return "\n".join(lines).rstrip()

    @property
    def name(self) -> str:
        """Return the stem of its files."""
        return f"ablation-{self.tested}" if self.tested else "ablation"

    def write(self, output: Path) -> None:
        """Write ``ablation.json``, ``.md`` and ``.png``, under its own name with ``tested``."""
        from .plots import draw_ablation

        name = self.name

        write_json(output / f"{name}.json", asdict(self))
        (output / f"{name}.md").write_text(self.text() + "\n", encoding="utf-8")
        draw_ablation(self, output / f"{name}.png")


def tabulate(
    config: AblateConfig,
    task: Task,
    found: dict[Run, ScoreFile],
    groups: Sequence[Any] | None = None,
    tested: str = "",
) -> Ablation:
    """Average over seeds, with intervals over the people of the test set.

    Args:
        found: scores of each run, all of the same test rows in the same order.
        groups: group of each test row, each also tabulated alone; None for no groups.
        tested: see ``Ablation``.
    """
    first = next(iter(found.values()))
    if groups is not None:
        names = natsorted({str(name) for name in groups if name is not None})
        inner = {}
        for name in names:
            rows = pa.array([place for place, own in enumerate(groups) if str(own) == name])
            some = {
                key: replace(run, predictions=run.predictions.take(rows))
                for key, run in found.items()
            }
            inner[name] = replace(tabulate(config, task, some, None, tested), warnings=())
        return replace(tabulate(config, task, found, None, tested), groups=inner)
    who, keys = (first.predictions[name].to_pylist() for name in ("subject", "key"))
    draws = Draws(np.asarray(people_of(who, keys)), config.resamples)
    drawn: dict[Run, Numbers] = {}
    cells: list[Cell] = []
    for cell in dict.fromkeys(run.cell for run in found):
        runs = [scores for run, scores in found.items() if run.cell == cell]
        statistics = [row_statistics(task, run.predictions, run.card.threshold) for run in runs]
        each = [float(headline_of(task.kind, rows.sum(0))) for rows in statistics]
        over = [headline_of(task.kind, draws.sums(rows)) for rows in statistics]
        drawn[cell] = np.mean(over, axis=0)
        kept = [_kept(task, run, rows) for run, rows in zip(runs, statistics, strict=True)]
        low, high = percentiles(drawn[cell])
        mean, kept_mean = float(np.mean(each)), float(np.mean(kept))
        names = (cell.size, cell.arm, cell.head)
        cells.append(Cell(*names, mean, low, high, tuple(each), kept_mean, cell.start))
    cards = [run.card for run in found.values()]
    shared = [note for note in cards[0].warnings if all(note in one.warnings for one in cards)]
    return Ablation(
        HEADLINE[task.kind],
        task.names,
        first.predictions.num_rows,
        draws.people,
        tuple(cells),
        tuple(_contrasts(cells, drawn)),
        {},
        first.predictions["subject"].null_count,
        tuple(shared),
        tested,
    )


def _contrasts(cells: Sequence[Cell], drawn: dict[Run, Numbers]) -> list[Contrast]:
    values = {Run(cell.size, cell.arm, cell.head, 0, cell.start): cell.value for cell in cells}
    pairs: list[tuple[str, str, Run, Run]] = []
    for size, head, start in dict.fromkeys((run.size, run.head, run.start) for run in values):
        pairs += [
            (name, head, Run(size, ours, head, 0, start), Run(size, other, head, 0, start))
            for name, ours, other in CONTRASTS
        ]
    for size, start in dict.fromkeys((run.size, run.start) for run in values):
        ours = Run(size, "original+normalized", "mixture", 0, start)
        pairs.append(("mixture - dense, both views", "", ours, ours._replace(head="dense")))
    found: list[Contrast] = []
    for name, head, ours, other in pairs:
        if ours in drawn and other in drawn:
            low, high = percentiles(drawn[ours] - drawn[other])
            value = values[ours] - values[other]
            found.append(Contrast(ours.size, name, head, value, low, high, ours.start))
    return found


def _kept(task: Task, run: ScoreFile, statistics: Numbers) -> float:
    by = np.asarray(run.predictions["predicted_by"].to_pylist(), object)
    return float(headline_of(task.kind, statistics[by == MODEL].sum(0)))


def _interval(headline: str, value: Cell | Contrast, sign: str = "") -> str:
    return interval_text(headline, value.value, (value.low, value.high), sign)
