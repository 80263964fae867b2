"""Masks of hair and beard on the atlas, and their strands; also of hats and scarves."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ....manifests.arrays import Floats
from ..scene.person import Person, generator
from .atlas import Atlas, Stencil, noise, smoothstep

CLOTH = ("hat", "scarf")  # styles made of cloth


@dataclass(frozen=True)
class Growth:
    """(H, W) float32 in [0, 1]: ``cover`` is painted, ``body`` is raised off the skin."""

    cover: Floats
    body: Floats


def strands(atlas: Atlas, person: Person, rng: np.random.Generator) -> Floats:
    """Return (H, W) in about [-1, 1]: light and dark strands, bent and curled like the hair."""
    shape, hair = (atlas.height, atlas.width), person.hair
    straight = noise(rng, shape, (14, shape[1] // 3), 0.6)
    straight += noise(rng, shape, (40, shape[1]), 0.4)
    if hair.curl == 0 and hair.flow == 0:
        return straight
    rng = generator(10, person.seed)
    columns = noise(rng, shape, (3, 4))
    columns *= hair.flow * 0.07 * shape[1]
    if hair.style in ("parted", "tied"):
        columns += np.sign(hair.flow) * (atlas.y - 8).clip(0) * 0.03 * shape[1]
    columns += np.arange(shape[1], dtype=np.float32)
    rows = np.repeat(np.arange(shape[0], dtype=np.float32)[:, None], shape[1], 1)
    bent = cv2.remap(straight, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    if hair.curl == 0:
        return np.asarray(bent, np.float32)
    cells = (int(shape[0] / 9), int(shape[1] / 9))
    locks = noise(rng, shape, cells, 0.7 * hair.curl)
    locks += noise(rng, shape, (cells[0] * 2, cells[1] * 2), 0.5 * hair.curl)
    locks += (1 - hair.curl) * bent
    return locks


def bristles(atlas: Atlas, person: Person) -> Floats:
    """Return (H, W) in about [-1, 1]: the short hairs of a beard."""
    shape = (atlas.height, atlas.width)
    rng = generator(12, person.seed)
    fine = noise(rng, shape, (shape[0] // 5, shape[1]), 0.6)
    fine += noise(rng, shape, (shape[0] // 11, shape[1] // 3), 0.5)
    return fine


def beard_mask(
    atlas: Atlas, person: Person, rng: np.random.Generator, lips: Stencil
) -> Floats | None:
    """Return the mask of facial hair, (H, W) in [0, 1]; None without any."""
    style = person.beard.style
    side, y = np.abs(atlas.degrees), atlas.y
    if style == "none":
        return None
    wobble = noise(rng, (atlas.height, atlas.width), (16, 24), 0.25)
    wobble += noise(rng, (atlas.height, atlas.width), (60, 110), 0.2)
    reach = rng.uniform(11, 17)
    droop = rng.uniform(0, 0.5) * (side / reach) ** 2
    moustache = smoothstep(-1.15, -1.5, y + wobble + droop) * smoothstep(-3.6, -3.0, y + droop)
    moustache = moustache * smoothstep(reach + 2, reach - 1, side + 4 * wobble)
    if rng.random() < 0.4:  # bare under the nose
        moustache = moustache * smoothstep(0.3, 2.0, side)
    chin = smoothstep(9 + 5 * rng.random(), 7, side + 4 * wobble) * smoothstep(
        -4.5, -5.2, y + wobble
    )
    # The cheek line rises from the corners of the mouth to the sideburns.
    knots = np.array([0, 12, 18, 30, 45, 58, 66, 74, 90], np.float32)
    heights = np.array([-4.6, -3.6, -2.4, -2.6, -2.2, -0.6, 2.0, 3.0, -3.0], np.float32)
    line = np.interp(side, knots, heights + rng.uniform(-0.6, 0.6)).astype(np.float32)
    jaw = smoothstep(0.5, -0.7, y - line + 1.6 * wobble) * smoothstep(88, 78, side)
    jaw = jaw * smoothstep(-10, -8, y)
    if style == "moustache":
        mask = moustache
    elif style == "goatee":
        ring = smoothstep(18, 15, side) * smoothstep(10, 13, side) * smoothstep(-1.8, -2.4, y)
        mask = np.maximum.reduce([moustache, chin, ring * smoothstep(-5.5, -5, y)])
    else:
        mask = np.maximum(moustache, jaw)
    hanging = rng.uniform(0.3, 1.0)  # thick moustaches cover the edge of the upper lip
    hold = np.where(atlas.y[lips.window[0]] > -3.25, hanging, 1.0).astype(np.float32)
    mask[lips.window] *= (1 - lips.mask * hold).clip(0, 1) ** 1.5
    return mask


def hair_growth(
    atlas: Atlas, person: Person, rng: np.random.Generator, strand: Floats
) -> Growth | None:
    """Return where hair, a hat or a scarf covers the head; None on a bald head.

    ``strand``: (H, W) in about [-1, 1], see ``strands``.
    """
    hair = person.hair
    side, y = np.abs(atlas.degrees), atlas.y
    shape = (atlas.height, atlas.width)
    if hair.style == "bald":
        return None
    if hair.style == "hat":
        tilt = rng.uniform(-0.012, 0.012) * atlas.degrees
        edge = y + tilt - min(hair.hairline - 1.2, 9.2)
        mask = np.broadcast_to(smoothstep(-0.08, 0.08, edge), shape)
        return Growth(mask, mask)
    if hair.style == "scarf":  # an oval opening for the face
        oval = (side / rng.uniform(52, 66)) ** 2 + ((y - 0.6) / rng.uniform(7.9, 8.6)) ** 2
        oval = oval + noise(rng, shape, (6, 8), 0.03)
        return Growth(smoothstep(0.98, 1.03, oval), smoothstep(0.98, 1.15, oval))
    above = y - _hairline(atlas, person, rng).astype(np.float32)
    ragged = noise(rng, shape, (4, 60), 0.6 * hair.raggedness)
    ragged += noise(rng, shape, (4, 160), 0.3 * hair.raggedness)
    edge = 0.15 + 0.5 * rng.random()
    if hair.soft == 0:
        mask = smoothstep(-edge, edge, above + ragged)
        return Growth(mask, mask)
    single = generator(14, person.seed)
    stray = noise(single, shape, (3, 34), 0.4 * hair.wisps)
    stray += noise(single, shape, (5, 150), 0.4 * hair.wisps)
    stray += above
    stray += (0.45 * hair.wisps) * strand
    if hair.style == "curly":
        stray += noise(rng, shape, (30, 44), 0.5)
    cover = smoothstep(-edge, edge + 0.3, stray)
    if hair.cover < 1:
        cover *= (hair.cover + (1 - hair.cover) * (0.4 + 0.6 * strand)).clip(0, 1)
    return Growth(cover, smoothstep(-0.2, 2.5 * hair.soft, above))


def _hairline(atlas: Atlas, person: Person, rng: np.random.Generator) -> Floats:
    """Return (1, W): the height of the hairline at every angle."""
    hair = person.hair
    side = np.abs(atlas.degrees)
    top = hair.hairline
    low = hair.style in ("bob", "long")
    ears = 4.6 if low else 2.2 + 1.5 * rng.random()
    knots = np.array([0, 14, 28, hair.temple, hair.temple + 8, 72, 80, 100, 110], np.float32)
    dent = rng.uniform(0, 1.2)  # receding corners of the forehead
    burn = rng.uniform(-1.0, 3.0)
    behind = -2.0 if hair.style == "short" else -6.0
    temples = [top, top - 0.1 + 0.3 * dent, top - 0.4 + dent, top - 1.6]
    heights = np.array([*temples, 5.2, burn, ears + 0.6, ears, behind], np.float32)
    if hair.style == "fringe":  # combed to one side
        swing = rng.uniform(-0.035, 0.035)
        heights[:3] = top + np.array([0, -0.1, -0.3])
        return np.interp(side, knots, heights) + swing * atlas.degrees * (side < 50)
    line = np.interp(side, knots, heights)
    if hair.style == "parted" or (low and hair.flow > 0.8):  # falls to one side of the forehead
        away = atlas.degrees * np.sign(hair.flow)
        fall = (1.0 + 0.9 * abs(hair.flow)) * smoothstep(-22, 34, away) * smoothstep(74, 50, side)
        line = line - fall
    return line
