"""Reads a face kit: a morphable head with identity modes and FACS-like expression shapes.

The kit is ICT-FaceKit Light (USC-ICT, MIT licence, https://github.com/ICT-VGL/ICT-FaceKit) packed
into one ``.npz``. It is read by path and is never part of this project; renders of it may be.
Units are about centimetres, x to the person's left, y up, z towards the viewer.
"""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...manifests.arrays import Float32s, Int32s
from ...pipeline.errors import InputError

# PupilDilate is invisible at our sizes.
DROPPED_SHAPES = frozenset({"PupilDilate_L", "PupilDilate_R"})
# The two shapes are nearly the same movement (AU6); a network cannot learn to distinguish them.
MERGED_SHAPES = {"cheekRaiser_L": "cheekSquint_L", "cheekRaiser_R": "cheekSquint_R"}

_ARRAYS = {
    "neutral": ("V", 3),
    "identity": ("I", "V", 3),
    "expression": ("E", "V", 3),
    "expression_names": ("E",),
    "triangles": ("T", 3),
    "triangle_material": ("T",),
    "materials": ("M",),
    "landmarks68": (68,),
}


@dataclass(frozen=True)
class FaceKit:
    """A morphable head.

    Attributes:
        neutral: (V, 3) float32, the mean head at rest.
        identity: (I, V, 3) float32 displacement modes; standard normal coefficients give
            plausible heads.
        expression: (E, V, 3) float32 displacements at coefficient 1, in the order of
            ``expression_names``.
        expression_names: names such as ``browDown_L``; AU6 shapes merged, pupils dropped.
        triangles: (T, 3) int32 vertex indices, counter-clockwise seen from outside.
        triangle_material: (T,) uint8 index into ``materials``.
        materials: names such as ``M_Face``.
        landmarks68: (68,) int32 vertex indices in the iBUG order.
        digest: sha256 of the file, for fingerprints.
    """

    neutral: Float32s
    identity: Float32s
    expression: Float32s
    expression_names: tuple[str, ...]
    triangles: Int32s
    triangle_material: NDArray[np.uint8]
    materials: tuple[str, ...]
    landmarks68: Int32s
    digest: str

    def shape_index(self, name: str) -> int:
        """Return the index of an expression shape."""
        return self.expression_names.index(name)


def load_facekit(path: str | Path) -> FaceKit:
    """Read a packed face kit.

    Raises:
        InputError: the file is missing, is no ``.npz``, or lacks the arrays of a kit.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(
            f"no face kit at {file}: pack ICT-FaceKit Light (MIT) into an .npz and give its path"
        )
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in _ARRAYS if name in archive.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{file} cannot be read as a face kit (.npz): {error}") from error
    problem = _problem(arrays)
    if problem:
        raise InputError(f"{file} is not a face kit: {problem}")
    names, expression = _merge_shapes(
        [str(name) for name in arrays["expression_names"]], arrays["expression"].astype(np.float32)
    )
    return FaceKit(
        neutral=arrays["neutral"].astype(np.float32),
        identity=arrays["identity"].astype(np.float32),
        expression=expression,
        expression_names=names,
        triangles=arrays["triangles"].astype(np.int32),
        triangle_material=arrays["triangle_material"].astype(np.uint8),
        materials=tuple(str(name) for name in arrays["materials"]),
        landmarks68=arrays["landmarks68"].astype(np.int32),
        digest=hashlib.sha256(file.read_bytes()).hexdigest(),
    )


def _problem(arrays: dict[str, Any]) -> str | None:
    """Return why these arrays are not a kit, or None."""
    sizes: dict[str, int] = {}
    for name, shape in _ARRAYS.items():
        if name not in arrays:
            return f"array {name!r} is missing"
        found = arrays[name].shape
        if len(found) != len(shape):
            return f"array {name!r} has shape {found}, expected {shape}"
        for wanted, size in zip(shape, found, strict=True):
            known = wanted if isinstance(wanted, int) else sizes.setdefault(wanted, size)
            if size != known:
                return f"array {name!r} has shape {found}, expected {shape} with {sizes}"
    for name in ("triangles", "landmarks68"):
        if arrays[name].size and not 0 <= arrays[name].min() <= arrays[name].max() < sizes["V"]:
            return f"array {name!r} refers to vertices that do not exist"
    return None


def _merge_shapes(names: list[str], shapes: Float32s) -> tuple[tuple[str, ...], Float32s]:
    """Drop and merge shapes; a merged pair is averaged, as both are the same movement."""
    kept = [name for name in names if name not in DROPPED_SHAPES and name not in MERGED_SHAPES]
    merged = np.stack([shapes[names.index(name)] for name in kept])
    for source, into in MERGED_SHAPES.items():
        if source in names and into in kept:
            merged[kept.index(into)] = 0.5 * (
                shapes[names.index(source)] + merged[kept.index(into)]
            )
    return tuple(kept), merged
