"""The page of a score: figures, confusion matrix, and expert use, in one HTML file."""

from __future__ import annotations

import base64
import math
from pathlib import Path
from typing import Any

import jinja2

from ....pipeline.store.commit import write_bytes
from .score_files import ScoreCard


def write_report(output: Path, card: ScoreCard) -> None:
    """Write ``index.html`` next to the scores, including ``experts.png`` if it exists."""
    folder = jinja2.PackageLoader("normpipe.stages.classification.scores", "templates")
    environment = jinja2.Environment(
        loader=folder, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters["percent"] = percent
    picture = output / "experts.png"
    encoded = base64.b64encode(picture.read_bytes()).decode() if picture.is_file() else ""
    page = environment.get_template("scores.html").render(
        card=card,
        facts=_facts(card),
        figures=list(next(iter(card.per_label["full"].values()), {})),
        experts=f"data:image/png;base64,{encoded}" if encoded else "",
    )
    write_bytes(output / "index.html", page.encode())


def percent(value: Any) -> str:
    """Format counts as they are, shares in percent, and undefined values as a dash."""
    if value is None or not math.isfinite(value):
        return "–"
    return str(int(value)) if float(value).is_integer() and value > 1 else f"{100 * value:.1f} %"


def _facts(card: ScoreCard) -> dict[str, Any]:
    """Return what the score was made from, by name."""
    return {
        "task": card.kind,
        "trained on": card.train_dataset,
        "tested on": f"{card.test_dataset}, {card.split}",
        "camera": card.camera or "unknown",
        "views": card.views,
        "normalized variant": card.variant or "none",
        "head": card.head,
        "seed": card.seed,
        "epoch": card.epoch_rule,
        "threshold": card.threshold,
        "unusable faces": f"{card.coverage.test_rows - card.coverage.kept} of "
        f"{card.coverage.test_rows}; they get {card.fallback}",
        "model": card.model_sha256[:16],
        "data": card.data_sha256[:16],
    }
