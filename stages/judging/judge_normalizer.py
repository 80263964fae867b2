"""judge-normalizer: everything that can be said about a normalizer, measured.

Three kinds of evidence: rendered people with exact answers, rendered people who all make the same
expressions (a crossed set), and photographs with labels. What is not given is not measured, and the
report says so.
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
from .judge_page import Gallery, Report, gallery, pick
from .photographs import Codes, measure_real
from .real import load_real, read_real
from .renders import Normalize, Renders, degraded, load_renders, normalize_all

log = logging.getLogger(__name__)

_PICTURES_A_LINE = 10


class JudgeConfig(BaseModel):
    """How to judge."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reader: str = Field("reader", description="weights of the frozen reader, or its shipped name")
    split: str = Field("test", description="split of the renders: people never trained on")
    renders: int = Field(2000, ge=2, description="most rendered pairs to judge on")
    resamples: int = Field(RESAMPLES, ge=20, description="draws of people for the intervals")
    seed: int = Field(0, ge=0, description="of the degradations of the renders")


@dataclass(frozen=True)
class Subject:
    """The normalizer that is judged.

    Attributes:
        normalize: (B, 3, H, W) RGB in [0, 1] → (B, 3, S, S).
        read: (B, 3, H, W) → (B, E) its own coefficients, where it has any.
        expression_names: (E) shapes of those.
        target: which face it draws (``kind``, ``sha256`` where it is known).
        about: what identifies it, for the report.
    """

    normalize: Normalize
    read: Callable[[Tensor], Tensor] | None = None
    expression_names: tuple[str, ...] = ()
    target: dict[str, Any] = field(default_factory=lambda: {"kind": "mean"})
    about: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Evidence:
    """What it is judged on.

    Attributes:
        renders: outputs of ``normpipe synthesize``, with people that training never saw.
        crossed: outputs of ``normpipe synthesize --crossed``.
        faces: output of ``normpipe run`` on labelled photographs, aligned at least.
        pack: folder of an insightface pack: its recognition network compares faces, its detector
            measures pose; without one, there is no verification and the embedded detector measures.
    """

    renders: Sequence[Path] = ()
    crossed: Sequence[Path] = ()
    faces: Path | None = None
    pack: Path | None = None


def open_subject(model: str) -> Subject:
    """Open weights (.safetensors or a shipped name) or an exported .onnx file.

    Raises:
        InputError: no such model, or one that cannot be opened.
    """
    if model.endswith(".onnx"):
        exported = open_onnx(Path(model), stage="judge")
        size = exported.input_size

        def run(images: Tensor) -> Tensor:
            # The file takes one size; sets of renders have their own.
            sized = functional.interpolate(
                images, size=(size, size), mode="bilinear", antialias=True, align_corners=False
            )
            return torch.from_numpy(exported(sized.numpy()))

        target = json.loads(exported.notes.get("target") or "null") or {"kind": "mean"}
        about = {"name": Path(model).name, "network": exported.network, "sha256": exported.digest}
        return Subject(run, target=target, about=about)
    loaded = open_normalizer(model)
    target = json.loads(loaded.notes.get("target") or "null") or {"kind": "mean"}
    about = {
        "name": model if Path(model).name == model else Path(model).stem,
        "network": loaded.network,
        "sha256": loaded.digest,
        "method": loaded.notes.get("method", ""),
    }
    module = loaded.module.requires_grad_(False)
    return Subject(module, module.read, loaded.expression_names, target, about)


def judge(config: JudgeConfig, subject: Subject, evidence: Evidence) -> Report:
    """Measure everything that the evidence allows.

    Raises:
        InputError: the evidence cannot be read, or the reader knows another target face.
    """
    reader = open_reader(config.reader)
    check_target(reader, subject)
    detect = _detector(evidence.pack)
    report = Report(
        {"name": "model", **subject.about, "target": subject.target, "reader": reader.digest}, []
    )
    torch.manual_seed(config.seed)
    _on_renders(config, subject, evidence, reader, detect, report)
    _on_crossed(config, subject, evidence, reader, report)
    _on_faces(config, subject, evidence, reader, report)
    return report


def check_target(reader: LoadedReader, subject: Subject) -> None:
    """Raise InputError where model and reader were not trained for one face."""
    kinds = {note.get("kind", "mean") for note in (subject.target, reader.target_note)}
    # The mean head's look is this package's own.
    if kinds != {"mean"} and not same_target(subject.target, reader.target_note):
        raise InputError(
            f"the model draws the target face {_face(subject.target)}, the reader was trained on "
            f"{_face(reader.target_note)}: train a reader with normpipe fit-reader --data SET "
            "(renders of the model's target) and give it with --set judge.reader=FILE"
        )


def _face(note: dict[str, Any]) -> str:
    """Which target face a note speaks of, in words."""
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
    subject: Subject,
    evidence: Evidence,
    reader: LoadedReader,
    detect: FivePoints,
    report: Report,
) -> None:
    if not evidence.renders:
        how = "give --renders SET, written by normpipe synthesize"
        report.missing.update(dict.fromkeys(("synthetic", "constancy", "fairness"), how))
        return
    renders = load_renders(evidence.renders, config.split, config.renders)
    _check_shapes(reader, renders)
    log.info("renders: %d pictures of %d people", len(renders), len(np.unique(renders.identity)))
    made = {
        "clean": normalize_all(subject.normalize, renders.source),
        "degraded": normalize_all(subject.normalize, degraded(renders, config.seed)),
    }
    readings = read_renders(renders, made, reader)
    report.figures.extend(measure_synthetic(renders, readings, config.resamples))
    report.figures.extend(measure_fairness(renders, readings, resamples=config.resamples))
    log.info("renders: pose, background, idempotence")
    report.figures.extend(measure_constancy(renders, made, detect, config.resamples))
    report.figures.extend(
        measure_idempotence(subject.normalize, made, renders.identity, config.resamples)
    )
    report.galleries.append(_gallery("Rendered people never trained on", renders, made["clean"]))


def _gallery(title: str, renders: Renders, made: Pixels) -> Gallery:
    chosen = pick(len(renders), _PICTURES_A_LINE)
    lines = (
        ("source", renders.source[chosen]),
        ("normalized", made[chosen]),
        ("exact", renders.target[chosen]),
    )
    return gallery(title, lines)


def _check_shapes(reader: LoadedReader, renders: Renders) -> None:
    if reader.expression_names != renders.expression_names:
        raise InputError("the renders have other expression shapes than the reader")


def _on_crossed(
    config: JudgeConfig, subject: Subject, evidence: Evidence, reader: LoadedReader, report: Report
) -> None:
    if not evidence.crossed:
        report.missing["crossed"] = (
            "give --crossed SET, written by normpipe synthesize --crossed 20x30"
        )
        return
    renders = load_renders(evidence.crossed, None)
    _check_shapes(reader, renders)
    log.info("crossed: %d pictures of %d people", len(renders), len(np.unique(renders.identity)))
    made = {"clean": normalize_all(subject.normalize, renders.source)}
    report.figures.extend(measure_crossed(renders, made, reader, config.resamples))


def _on_faces(
    config: JudgeConfig, subject: Subject, evidence: Evidence, reader: LoadedReader, report: Report
) -> None:
    if evidence.faces is None:
        how = "give --faces DIR --labels CSV, or the output folder of normpipe run"
        sections = ("zero_shot", "transfer", "verification", "attacker")
        report.missing.update(dict.fromkeys(sections, how))
        return
    if evidence.pack is None:
        report.missing["verification"] = "give --pack DIR, an insightface pack with recognition"
    faces = load_real(evidence.faces)
    log.info("photographs: %d of %d people", len(faces.images), len(np.unique(faces.people)))
    made = normalize_all(subject.normalize, faces.images)
    own = None
    if subject.read is not None and subject.expression_names:
        own = Codes(read_real(subject.read, faces.images), subject.expression_names)
    report.figures.extend(
        measure_real(
            faces,
            made,
            Codes(reader(made).coefficients, reader.expression_names),
            own,
            evidence.pack,
        )
    )
    tested = np.flatnonzero(faces.parts == "test")
    chosen = tested[pick(len(tested), 2 * _PICTURES_A_LINE)]
    for part in (chosen[0::2], chosen[1::2]):
        lines = (("original", faces.images[part]), ("normalized", made[part]))
        report.galleries.append(gallery("Photographs", lines))


def summary(figures: Sequence[Figure]) -> str:
    """One line: how many goals are met."""
    goals = [figure for figure in figures if figure.goal]
    return f"{sum(figure.met is True for figure in goals)} of {len(goals)} goals met"
