"""Extra geometry: long hair and hat brims, as open sheets of triangles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ....manifests.arrays import Floats
from ..scene.person import Person, generator
from .atlas import noise
from .head import BRIM, HAIR


@dataclass(frozen=True)
class Sheet:
    """Extra triangles, both sides of each.

    Attributes:
        vertices: (N, 3) float32 head coordinates.
        triangles: (M, 3) int32 into ``vertices``.
        part: HAIR or BRIM.
        shade: (N,) float32 brightness of the strands, about 1.
    """

    vertices: Floats
    triangles: NDArray[np.int32]
    part: int
    shade: Floats


def extra_sheet(person: Person) -> Sheet | None:
    """Return the sheet of a person's hair style, if it needs one."""
    rng = generator(5, person.seed)
    if person.hair.style in ("bob", "long"):
        return _curtain(rng, person.hair.style == "long")
    if person.hair.style == "hat" and rng.random() < 0.6:
        return _brim(rng, min(person.hair.hairline - 1.2, 9.2))
    return None


def _curtain(rng: np.random.Generator, long: bool) -> Sheet:
    """Return a sheet that hangs from the crown around the back of the head, open at the face."""
    rows, columns = 36, 96
    opening = np.deg2rad(rng.uniform(48, 76))
    angle = np.linspace(opening, 2 * np.pi - opening, columns, dtype=np.float32)[None]
    end = rng.uniform(-18, -9) if long else rng.uniform(-8, -3)
    t = np.linspace(0, 1, rows, dtype=np.float32)[:, None]
    y = 13.8 + (end - 13.8) * t
    full = rng.uniform(8.2, 10.4)
    crown = np.sqrt(np.clip(1 - ((y - 4).clip(0) / 10.6) ** 2, 0.02, 1))
    flare = rng.uniform(-0.15, 0.2) * (t - 0.4).clip(0)
    wave = 0.35 * noise(rng, (rows, columns), (6, 10)) + 0.12 * noise(rng, (rows, columns), (4, 60))
    radius = full * crown * (1 + flare) + wave
    # Near the opening, the sheet is closer to the cheeks.
    near = np.exp(-(((np.minimum(angle - opening, 2 * np.pi - opening - angle)) / 0.35) ** 2))
    radius = radius - near * rng.uniform(0.2, 1.0)
    drop = y + 0.6 * noise(rng, (rows, columns), (2, 40)) * t
    vertices = np.stack(
        [
            radius * np.sin(angle),
            np.broadcast_to(drop, radius.shape),
            radius * np.cos(angle) * 1.05 - 0.5,
        ],
        -1,
    )
    shade = (
        1
        + 0.25 * noise(rng, (rows, columns), (4, columns))
        + 0.2 * noise(rng, (rows, columns), (3, 24))
    )
    return Sheet(
        vertices.reshape(-1, 3).astype(np.float32), _grid(rows, columns), HAIR, shade.reshape(-1)
    )


def _brim(rng: np.random.Generator, height: float) -> Sheet:
    """Return a visor or an all-round brim."""
    rows, columns = 6, 48
    reach = np.pi if rng.random() < 0.3 else np.deg2rad(rng.uniform(45, 70))
    angle = np.linspace(-reach, reach, columns, dtype=np.float32)[None]
    out = np.linspace(0, rng.uniform(2.0, 6.0), rows, dtype=np.float32)[:, None]
    fade = np.sqrt(np.clip(1 - (angle / reach) ** 4, 0.02, 1)) if reach < 3 else np.ones_like(angle)
    across, deep = 7.6 + out * fade, 9.6 + out * fade
    y = height - out * fade * rng.uniform(0.0, 0.35) + 0.3
    vertices = np.stack(
        [across * np.sin(angle), np.broadcast_to(y, across.shape), deep * np.cos(angle)], -1
    )
    return Sheet(
        vertices.reshape(-1, 3).astype(np.float32),
        _grid(rows, columns),
        BRIM,
        np.ones(rows * columns, np.float32),
    )


def _grid(rows: int, columns: int) -> NDArray[np.int32]:
    """Return two triangles per cell, and the same for the other side."""
    corner = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)[None]).reshape(-1)
    upper = np.stack([corner, corner + columns, corner + 1], 1)
    lower = np.stack([corner + 1, corner + columns, corner + columns + 1], 1)
    one_side = np.concatenate([upper, lower])
    return np.concatenate([one_side, one_side[:, ::-1]]).astype(np.int32)
