"""judge-normalizer: measures what a normalizer keeps, hides and holds constant.

Three kinds of data: rendered people with exact targets, rendered people who all make the same
expressions (a crossed set), and photographs with labels. The report lists what was not given and so
not measured.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional

from ...manifests.arrays import Pixels
from ...pipeline.errors import InputError
from ..align import AlignConfig, make_detector
from ..metrics.resampling import RESAMPLES
from ..networks.files.normalizer_file import open_normalizer
from ..networks.files.onnx_file import open_onnx
from ..training.synthesized import same_target
from .criteria.constancy import FivePoints, five_points, measure_constancy, measure_idempotence
from .criteria.crossed import measure_crossed
from .criteria.fairness import measure_fairness
from .criteria.synthetic import measure_synthetic, read_renders
from .figures import Figure
from .frozen_reader import LoadedReader, open_reader
from .judge_page import JudgeReport, PictureGrid, pick, picture_grid
from .labelled_faces import load_real, read_real
from .photographs import NEED_PACK, NEED_PEOPLE, SECTIONS, measure_real
from .renders import Normalize, Renders, degraded, load_renders, normalize_all
from .seen_faces import Look, NamedCoefficients, Seen

log = logging.getLogger(__name__)

_PICTURES_PER_ROW = 10


class JudgeConfig(BaseModel):
    """Settings of judge-normalizer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reader: str = Field("reader", description="weights of the frozen reader, or its shipped name")
    split: str = Field("test", description="split of the renders: people never trained on")
    renders: int = Field(2000, ge=2, description="maximum number of rendered pairs")
    photographs: int = Field(
        6000, ge=2, description="maximum number of photographs of each part, drawn by the seed"
    )
    resamples: int = Field(RESAMPLES, ge=20, description="bootstrap draws for the intervals")
    seed: int = Field(0, ge=0, description="seed of degradations and draws")


@dataclass(frozen=True)
class JudgedModel:
    """The normalizer to judge.

    Attributes:
        normalize: (B, 3, H, W) RGB in [0, 1] → (B, 3, S, S).
        read: (B, 3, H, W) → (B, E) its own coefficients, if it has any.
        expression_names: of those E coefficients.
        target: which face it draws (``kind``, ``sha256`` if known).
        about: what identifies it, for the report.
    """

    normalize: Normalize
    read: Callable[[Tensor], Tensor] | None = None
    expression_names: tuple[str, ...] = ()
    target: dict[str, Any] = field(default_factory=lambda: {"kind": "mean"})
    about: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class JudgeInputs:
    """The data to judge on.

    Attributes:
        renders: outputs of ``normpipe synthesize``, with people never trained on.
        crossed: outputs of ``normpipe synthesize --crossed``.
        faces: output of ``normpipe run`` on labelled photographs, aligned at least.
        pack: folder of an insightface pack: its recognition network compares faces, its detector
            measures pose; without one, verification is skipped and the built-in detector is used.
    """

    renders: Sequence[Path] = ()
    crossed: Sequence[Path] = ()
    faces: Path | None = None
    pack: Path | None = None


def open_judged_model(model: str) -> JudgedModel:
    """Open weights (.safetensors or a shipped name) or an exported .onnx file.

    Raises:
        InputError: no such model, or one that cannot be opened.
    """
    if model.endswith(".onnx"):
        exported = open_onnx(Path(model), stage="judge")
        size = exported.input_size

        def run(images: Tensor) -> Tensor:
            # Most files take one size only; sets of renders may have another.
            side = (size or images.shape[-1],) * 2
            sized = functional.interpolate(
                images, size=side, mode="bilinear", antialias=True, align_corners=False
            )
            return torch.from_numpy(exported(sized.numpy()))

        target = json.loads(exported.notes.get("target") or "null") or {"kind": "mean"}
        about = {"name": Path(model).name, "network": exported.network, "sha256": exported.digest}
        return JudgedModel(run, target=target, about=about)
    loaded = open_normalizer(model)
    target = json.loads(loaded.notes.get("target") or "null") or {"kind": "mean"}
    about = {
        "name": model if Path(model).name == model else Path(model).stem,
        "network": loaded.network,
        "sha256": loaded.digest,
        "method": loaded.notes.get("method", ""),
    }
    module = loaded.module.requires_grad_(False)
    return JudgedModel(module, module.read, loaded.expression_names, target, about)


def judge(config: JudgeConfig, judged: JudgedModel, inputs: JudgeInputs) -> JudgeReport:
    """Measure everything that the inputs allow.

    Raises:
        InputError: the inputs cannot be read, or the reader is for another target face.
    """
    reader = open_reader(config.reader)
    check_target(reader, judged)
    detect = _detector(inputs.pack)
    report = JudgeReport(
        {"name": "model", **judged.about, "target": judged.target, "reader": reader.digest}, []
    )
    torch.manual_seed(config.seed)
    _on_renders(config, judged, inputs, reader, detect, report)
    _on_crossed(config, judged, inputs, reader, report)
    _on_faces(config, judged, inputs, reader, report)
    return report


def check_target(reader: LoadedReader, judged: JudgedModel) -> None:
    """Raise InputError unless model and reader were trained for the same target face."""
    kinds = {note.get("kind", "mean") for note in (judged.target, reader.target_note)}
    # The mean head is always the one that this package renders.
    if kinds != {"mean"} and not same_target(judged.target, reader.target_note):
        raise InputError(
            f"the model draws the target face {_face(judged.target)}, the reader was trained on "
            f"{_face(reader.target_note)}: train a reader with normpipe fit-reader --data SET "
            "(renders of the model's target) and give it with --set judge.reader=FILE"
        )


def _face(note: dict[str, Any]) -> str:
    """Describe the target face of a note."""
    kind = str(note.get("kind", "mean"))
    return kind if kind == "mean" else f"{kind} {note.get('sha256') or note.get('name')}"


def _detector(pack: Path | None) -> FivePoints:
    chosen = {} if pack is None else {"detector": "insightface", "pack": str(pack)}
    config = AlignConfig.model_validate(chosen)
    detector = make_detector(config, 1)
    detector.open()
    return five_points(detector)


def _on_renders(
    config: JudgeConfig,
    judged: JudgedModel,
    inputs: JudgeInputs,
    reader: LoadedReader,
    detect: FivePoints,
    report: JudgeReport,
) -> None:
    if not inputs.renders:
        how = "give --renders SET, written by normpipe synthesize"
        report.missing.update(dict.fromkeys(("synthetic", "constancy", "fairness"), how))
        return
    renders = load_renders(inputs.renders, config.split, config.renders)
    _check_shapes(reader, renders)
    log.info("renders: %d pictures of %d people", len(renders), len(np.unique(renders.identity)))
    made = {
        "clean": normalize_all(judged.normalize, renders.source),
        "degraded": normalize_all(judged.normalize, degraded(renders, config.seed)),
    }
    readings = read_renders(renders, made, reader)
    report.figures.extend(measure_synthetic(renders, readings, config.resamples))
    report.figures.extend(measure_fairness(renders, readings, resamples=config.resamples))
    log.info("renders: pose, background, idempotence")
    report.figures.extend(measure_constancy(renders, made, detect, config.resamples))
    report.figures.extend(
        measure_idempotence(judged.normalize, made, renders.identity, config.resamples)
    )
    report.grids.append(_render_grid("Rendered people never trained on", renders, made["clean"]))


def _render_grid(title: str, renders: Renders, made: Pixels) -> PictureGrid:
    chosen = pick(len(renders), _PICTURES_PER_ROW)
    rows = (
        ("source", renders.source[chosen]),
        ("normalized", made[chosen]),
        ("exact", renders.target[chosen]),
    )
    return picture_grid(title, rows)


def _check_shapes(reader: LoadedReader, renders: Renders) -> None:
    if reader.expression_names != renders.expression_names:
        raise InputError("the renders have other expression shapes than the reader")


def _on_crossed(
    config: JudgeConfig,
    judged: JudgedModel,
    inputs: JudgeInputs,
    reader: LoadedReader,
    report: JudgeReport,
) -> None:
    if not inputs.crossed:
        report.missing["crossed"] = (
            "give --crossed SET, written by normpipe synthesize --crossed 20x30"
        )
        return
    renders = load_renders(inputs.crossed, None)
    _check_shapes(reader, renders)
    log.info("crossed: %d pictures of %d people", len(renders), len(np.unique(renders.identity)))
    made = {"clean": normalize_all(judged.normalize, renders.source)}
    report.figures.extend(measure_crossed(renders, made, reader, config.resamples))


def _on_faces(
    config: JudgeConfig,
    judged: JudgedModel,
    inputs: JudgeInputs,
    reader: LoadedReader,
    report: JudgeReport,
) -> None:
    if inputs.faces is None:
        how = "give --faces DIR --labels CSV, or the output folder of normpipe run"
        report.missing.update(dict.fromkeys(SECTIONS, how))
        return
    faces = load_real(inputs.faces, config.photographs, config.seed)
    log.info("photographs: %s", faces.note)
    report.model["photographs"] = faces.note
    if inputs.pack is None:
        how = "give --pack DIR, an insightface pack with recognition"
        report.missing.update(dict.fromkeys(NEED_PACK, how))
    if not faces.named:
        how = "the labels name nobody: it needs a column 'subject'"
        report.missing.update(dict.fromkeys(NEED_PEOPLE, how))
    look = _look(judged, reader)
    seen = look(faces.images)
    report.figures.extend(measure_real(faces, seen, look, inputs.pack))
    tested = np.flatnonzero(faces.parts == "test")
    chosen = tested[pick(len(tested), 2 * _PICTURES_PER_ROW)]
    for part in (chosen[0::2], chosen[1::2]):
        rows = (("original", faces.images[part]), ("normalized", seen.pictures[part]))
        report.grids.append(picture_grid("Photographs", rows))


def _look(judged: JudgedModel, reader: LoadedReader) -> Look:
    """Return what normalizes pictures and reads them, from the result and on the way."""

    def look(pictures: Pixels) -> Seen:
        made = normalize_all(judged.normalize, pictures)
        read = NamedCoefficients(reader(made).coefficients, reader.expression_names)
        readings = {"pictures": read}
        if judged.read is not None and judged.expression_names:
            own = read_real(judged.read, pictures)
            readings["code"] = NamedCoefficients(own, judged.expression_names)
        return Seen(made, readings)

    return look


def goals_summary(figures: Sequence[Figure]) -> str:
    """Return one line: how many goals are met."""
    goals = [figure for figure in figures if figure.goal]
    return f"{sum(figure.met is True for figure in goals)} of {len(goals)} goals met"
