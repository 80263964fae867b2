"""The page of a score: figures, groups, calibration, confusion matrix, expert use, in one file."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import jinja2

from ....pipeline.store.commit import write_bytes
from .figure_text import figure_text, figure_title, in_order, in_unit
from .plots import draw_reliability
from .score_files import ScoreCard


def write_report(output: Path, card: ScoreCard) -> None:
    """Write ``index.html`` next to the scores, and the pictures that it includes.

    ``reliability.png`` is drawn here; ``experts.png`` is included if it exists.
    """
    folder = jinja2.PackageLoader("normpipe.stages.classification.scores", "templates")
    environment = jinja2.Environment(
        loader=folder,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(title=figure_title, heading=_heading)
    drawn = output / "reliability.png"
    if card.reliability:
        draw_reliability(card.reliability, drawn)
    else:
        drawn.unlink(missing_ok=True)  # of an earlier task
    figures = in_order(next(iter(card.per_label["full"].values()), {}))
    page = environment.get_template("scores.html").render(
        card=card,
        figure=figure_text,
        facts=_facts(card),
        overall=in_order(card.scores["full"]),
        figures=figures,
        reliability=_embedded(drawn),
        experts=_embedded(output / "experts.png"),
    )
    write_bytes(output / "index.html", page.encode())


def _heading(name: str) -> str:
    return figure_title(name) + in_unit(name)


def _embedded(picture: Path) -> str:
    """Return a picture as the page holds it; empty without one."""
    if not picture.is_file():
        return ""
    return f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"


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
