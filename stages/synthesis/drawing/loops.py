"""The inner loops of rendering, chosen by device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from . import mesh, rasterize, shading, texture


@dataclass(frozen=True)
class Loops:
    """Functions over all vertices, triangles or points; those of ``ARRAYS`` are documented."""

    move_heads: Callable[[Tensor, Tensor, Tensor], Tensor]
    normals: Callable[[Tensor, mesh.Faces], Tensor]
    rasterize: Callable[[Tensor, Tensor, rasterize.SmoothAreas, int], rasterize.CoveredSamples]
    blend: Callable[[Tensor, Tensor, rasterize.CoveredSamples], Tensor]
    sample: Callable[[Tensor, Tensor, tuple[Tensor, Tensor], Tensor, int], Tensor]
    cast_shadow: Callable[[Tensor, Tensor, Tensor], Tensor]


#: Array operations, which any device runs.
ARRAYS = Loops(
    move_heads=mesh.move_heads,
    normals=mesh.normals,
    rasterize=rasterize.rasterize,
    blend=texture.blend,
    sample=texture.sample,
    cast_shadow=shading.cast_shadow,
)


def loops_for(device: torch.device) -> Loops:
    """Return the loops for a device: compiled ones on a CPU."""
    if device.type != "cpu":
        return ARRAYS
    # Imported here: the compiler is slow to import, and a GPU does not need it.
    from . import compiled, compiled_points

    return Loops(
        move_heads=compiled.move_heads,
        normals=compiled.normals,
        rasterize=compiled.rasterize,
        blend=compiled_points.blend,
        sample=compiled_points.sample,
        cast_shadow=compiled_points.cast_shadow,
    )
