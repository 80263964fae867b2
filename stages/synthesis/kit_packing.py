"""Packs ICT-FaceKit Light from its public repository into the file that we read.

The folder ``FaceXModel`` of the repository ICT-VGL/ICT-FaceKit (MIT licence) has one OBJ file per
shape: the neutral head, identity modes, expression shapes, all with the same vertices. Its README
describes the layout.
"""

from __future__ import annotations

import io
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...manifests.arrays import Floats
from ...pipeline.errors import InputError
from ...pipeline.store.commit import write_bytes
from .facekit import load_facekit

#: Vertices from here up are tear film, lashes and eye shadow: thin sheets that we paint instead.
_VERTICES = 24_591
_NEUTRAL = "generic_neutral_mesh.obj"
_INDICES = "vertex_indices.json"
#: Shapes missing from the file's list, which the loader merges or drops.
_FURTHER_SHAPES = ("PupilDilate_L", "PupilDilate_R", "cheekRaiser_L", "cheekRaiser_R")


def pack_facekit(folder: Path, output: Path, modes: int = 40) -> str:
    """Read ``folder`` (FaceXModel) and write ``output`` (.npz); return the file's sha256.

    Args:
        folder: the repository's folder ``FaceXModel``.
        output: path of the packed kit.
        modes: identity modes to keep; later ones hardly move a vertex.

    Raises:
        InputError: a file is missing, or does not match the others.
    """
    if output.suffix != ".npz":
        raise InputError(f"{output} does not end in .npz")
    neutral, triangles, materials = _read_mesh(folder / _NEUTRAL)
    indices = _read_indices(folder / _INDICES)
    landmarks = np.array(indices["idx_to_landmark_verts"], np.int32)
    _check_landmarks(neutral, landmarks, folder)
    names = [str(name) for name in indices["expressions"]]
    names += [name for name in _FURTHER_SHAPES if (folder / f"{name}.obj").is_file()]
    kept = (triangles < _VERTICES).all(1)
    used = sorted({materials[row] for row in np.flatnonzero(kept)})
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        neutral=neutral[:_VERTICES],
        identity=_displacements(folder, [f"identity{n:03d}" for n in range(modes)], neutral),
        expression=_displacements(folder, names, neutral),
        expression_names=np.array(names),
        triangles=triangles[kept],
        triangle_material=np.array([used.index(materials[i]) for i in np.flatnonzero(kept)], "u1"),
        materials=np.array(used),
        landmarks68=landmarks,
    )
    write_bytes(output, buffer.getvalue())
    return load_facekit(output).digest


def _displacements(folder: Path, names: list[str], neutral: Floats) -> NDArray[np.float16]:
    """Return (N, V, 3) float16 displacements of all vertices per shape, in kit units (about cm)."""
    moved = np.empty((len(names), _VERTICES, 3), np.float16)
    for place, name in enumerate(names):
        file = folder / f"{name}.obj"
        vertices = _numbers(_lines(file), "v ", file)
        if vertices.shape != neutral.shape:
            raise InputError(
                f"{file} has {len(vertices)} vertices, {_NEUTRAL} {len(neutral)}: take all files "
                "from one version of ICT-FaceKit"
            )
        moved[place] = (vertices - neutral)[:_VERTICES]
    return moved


def _read_mesh(file: Path) -> tuple[Floats, NDArray[np.int32], list[str]]:
    """Return vertices (V, 3) float32, triangles (T, 3) int32, and each triangle's material name."""
    lines = _lines(file)
    vertices = _numbers(lines, "v ", file)
    if len(vertices) < _VERTICES:
        raise InputError(f"{file} has {len(vertices)} vertices: not ICT-FaceKit Light (26,719)")
    triangles: list[tuple[int, int, int]] = []
    materials: list[str] = []
    material = ""
    for line in lines:
        if line.startswith("usemtl "):
            material = line.split()[1]
        elif line.startswith("f "):
            corners = [int(corner.partition("/")[0]) - 1 for corner in line.split()[1:]]
            for second, third in pairwise(corners[1:]):
                triangles.append((corners[0], second, third))
                materials.append(material)
    return vertices, np.array(triangles, np.int32), materials


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{file} cannot be read ({error}): give the folder FaceXModel of ICT-FaceKit "
            "(github.com/ICT-VGL/ICT-FaceKit)"
        ) from error


def _numbers(lines: list[str], prefix: str, file: Path) -> Floats:
    try:
        found = [line.split()[1:4] for line in lines if line.startswith(prefix)]
        return np.array(found, np.float32).reshape(-1, 3)
    except ValueError as error:
        raise InputError(f"{file} is no OBJ mesh: {error}") from error


def _read_indices(file: Path) -> dict[str, list[object]]:
    try:
        found = json.loads("\n".join(_lines(file)))
        names, landmarks = found["expressions"], found["idx_to_landmark_verts"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise InputError(f"{file} does not list expressions and landmarks: {error}") from error
    if len(landmarks) != 68:
        raise InputError(f"{file} lists {len(landmarks)} landmarks instead of 68")
    return {"expressions": names, "idx_to_landmark_verts": landmarks}


def _check_landmarks(neutral: Floats, landmarks: NDArray[np.int32], folder: Path) -> None:
    """Refuse landmarks of another version of the kit, whose vertices are numbered differently."""
    if landmarks.max() < len(neutral):
        x, y, _ = neutral[landmarks].T
        rows = (slice(0, 17), slice(17, 27), slice(31, 36), slice(48, 55))
        ordered = all(bool((np.diff(x[row]) > 0).all()) for row in rows)
        stacked = y[17:27].mean() > y[36:48].mean() > y[31:36].mean() > y[48:68].mean() > y[8]
        if ordered and stacked:
            return
    raise InputError(
        f"the landmarks of {folder / _INDICES} do not fit {_NEUTRAL}: take both from one "
        "version of ICT-FaceKit"
    )
