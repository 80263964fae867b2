"""The judge's report: a table for the terminal, JSON, and a page with pictures."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np

from ...manifests.arrays import Pixels
from ...pipeline.errors import NormpipeError
from ...pipeline.store.commit import write_bytes, write_json
from .figures import Figure

#: Sections in the order of the page, with the question of each.
SECTIONS = {
    "synthetic": "Is the expression kept? Rendered people never trained on, read from the pictures",
    "emotions": "Can emotions be predicted? A simple classifier on the coefficients of photographs",
    "zero_shot": "Is the expression kept on photographs? Each emotion by one coefficient",
    "strength": "Is the expression seen at a glance? How strongly it is drawn on photographs",
    "covering": "Is it read where it shows? Photographs half covered by a neutral face",
    "transfer": "Do classifiers improve? Trained and tested on different people",
    "crossed": "Is identity hidden? Rendered people with the same expressions",
    "verification": "Is identity hidden? Face verification on photographs",
    "attacker": "Is identity hidden? An attacker retrained on normalized pictures",
    "reversal": "Is identity hidden? An attacker that goes back to the original",
    "constancy": "Is everything else constant?",
    "fairness": "Is it equally good for everyone? By groups of rendered people",
}
_PICTURE_PX = 112


@dataclass(frozen=True)
class PictureGrid:
    """Rows of pictures for the page.

    Attributes:
        title: of the grid.
        rows: name of a row → its pictures, (N, H, W, 3) uint8 RGB each.
    """

    title: str
    rows: dict[str, Pixels]


@dataclass(frozen=True)
class JudgeReport:
    """All results for one model.

    Attributes:
        model: what identifies the judged model: name, sha256 and more.
        figures: in any order.
        missing: section → the options needed to measure it.
        grids: pictures for the page.
    """

    model: dict[str, Any]
    figures: list[Figure]
    missing: dict[str, str] = field(default_factory=dict[str, str])
    grids: list[PictureGrid] = field(default_factory=list[PictureGrid])

    def write(self, output: Path) -> None:
        """Write ``judge.json`` and ``index.html`` to a folder."""
        output.mkdir(parents=True, exist_ok=True)
        unknown = {figure.section for figure in self.figures} - SECTIONS.keys()
        if unknown:
            raise NormpipeError(f"figures of unknown sections: {', '.join(sorted(unknown))}")
        plain = {
            "model": self.model,
            "figures": [figure.as_json() for figure in self.figures],
            "not_measured": self.missing,
        }
        write_json(output / "judge.json", plain)
        write_bytes(output / "index.html", self.page().encode())

    def page(self) -> str:
        """Return the HTML page, including all pictures."""
        folder = jinja2.PackageLoader("normpipe.stages.judging", "templates")
        environment = jinja2.Environment(
            loader=folder, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
        )
        environment.filters["number"] = number
        return environment.get_template("page.html").render(
            model=self.model,
            sections=SECTIONS,
            figures={
                name: [figure for figure in self.figures if figure.section == name]
                for name in SECTIONS
            },
            goals=[figure for figure in self.figures if figure.goal],
            missing=self.missing,
            grids=[
                (grid.title, {name: _strip(faces) for name, faces in grid.rows.items()})
                for grid in self.grids
            ],
        )

    def table(self) -> str:
        """Return all figures as text."""
        lines: list[str] = []
        for section, question in SECTIONS.items():
            here = [figure for figure in self.figures if figure.section == section]
            if here or section in self.missing:
                lines.append(f"\n{section}: {question}")
            if section in self.missing:
                lines.append(f"  not measured: {self.missing[section]}")
            lines += [f"  {_line(figure)}" for figure in here]
        return "\n".join(lines).strip()


def number(value: float) -> str:
    """Format with three decimals, or a dash if undefined."""
    return f"{value:.3f}" if math.isfinite(value) else "–"


def _line(figure: Figure) -> str:
    name = f"{figure.name} ({figure.group})" if figure.group else figure.name
    parts = [f"{name:<58}", f"{number(figure.value):>8}"]
    if math.isfinite(figure.low):
        parts.append(f"[{number(figure.low)}, {number(figure.high)}]")
    if figure.goal:
        verdict = {True: "met", False: "MISSED", None: "not defined"}[figure.met]
        parts.append(f"goal {figure.goal}: {verdict}")
    if figure.note:
        parts.append(f"({figure.note})")
    return " ".join(parts)


def _strip(faces: Pixels) -> str:
    """Return (N, H, W, 3) pictures as a data URL of one row of thumbnails."""
    size = (_PICTURE_PX, _PICTURE_PX)
    row = np.hstack([cv2.resize(face, size, interpolation=cv2.INTER_AREA) for face in faces])
    options = [cv2.IMWRITE_JPEG_QUALITY, 88]
    done, encoded = cv2.imencode(".jpg", np.ascontiguousarray(row[..., ::-1]), options)
    if not done:
        raise NormpipeError("OpenCV could not encode a row of pictures as JPEG")
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode()


def pick(count: int, wanted: int) -> list[int]:
    """Return evenly spaced indices among ``count``, always the same."""
    return sorted({int(place) for place in np.linspace(0, count - 1, min(wanted, count))})


def picture_grid(title: str, rows: Iterable[tuple[str, Sequence[Pixels] | Pixels]]) -> PictureGrid:
    """Return a grid of pictures of any size, each row (N, H, W, 3) uint8 RGB."""
    return PictureGrid(title, {name: np.asarray(faces, np.uint8) for name, faces in rows})
