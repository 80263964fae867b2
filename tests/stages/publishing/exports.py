"""A small job to export, and exports of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from normpipe.manifests.datasets import Description
from normpipe.stages.publishing.dataset_card import CardFacts
from normpipe.stages.publishing.export_dataset import Exported, export_dataset
from normpipe.stages.publishing.export_plan import ExportPlan, ExportRequest, plan_export
from normpipe.stages.publishing.licence_gate import Origin, require_grant

from ..classification.faces import Face, opened, write_faces

#: Names that must not leave a job whose keys are hashed.
NAMES = ("anna", "bert", "S0")
EMOTIONS = ("happiness", "neutral", "anger", None)


def faces() -> list[Face]:
    """26 rows: train, test and two without a split; one rejected, one failed."""
    found = [
        Face(
            f"faces/{'anna' if n % 2 else 'bert'}/{n}.smile.jpg",
            {
                "subject": f"S0{n % 2}",
                "split": None if n >= 24 else ("train", "test")[n % 3 == 2],
                "emotion": EMOTIONS[n % 4],
                "AU12": float(n % 2) if n % 4 else None,
            },
            normalized=100 + n,
            original=10 + n,
            source="f" * 64,
        )
        for n in range(26)
    ]
    found[3].status, found[3].reason = "rejected", "no_face"
    found[4].status, found[4].reason = "failed", "truncated"
    return found


def make_job(folder: Path, **job: Any) -> Path:
    """Write a job's folder; ``job``: what its saved job has."""
    write_faces(folder, faces())
    (folder / "job.json").write_text(json.dumps(job))
    labels = pq.read_table(folder / "labels.parquet")
    camera = pa.array(["left"] * labels.num_rows)
    pq.write_table(labels.append_column("camera", camera), folder / "labels.parquet")
    return folder


def plan_of(job: Path, description: Description | None = None, **request: Any) -> ExportPlan:
    values = {"variant": "compact", "name": "set", **request}
    asked = ExportRequest(root=job, **values)
    aligned = opened(job / "aligned") if asked.with_originals else None
    return plan_export(asked, opened(job / "normalized" / asked.variant), aligned, description)


def facts(licence: str = "CC-BY-4.0") -> CardFacts:
    return CardFacts(require_grant(Origin(), ["derived_pictures"], licence, ""), [], "0")


def export(
    job: Path, target: Path, layout: str = "hub", overwrite: bool = False, **request: Any
) -> Exported:
    return export_dataset(plan_of(job, **request), facts(), layout, target, overwrite)


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".normpipe.lock"
    }
