"""Projects a photograph on the head: fits pose and shape to 68 points, then fills the atlas.

Only the photograph's detail is kept, as a factor about 1 on the colour of skin: pores, brows,
stubble, folds. Light and colour are divided out, so it fits any skin colour.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ....manifests.arrays import Floats, Pixels
from .atlas import Atlas, polygon, smoothstep
from .head import SKIN, Head

MODES = 14  # identity modes that 68 points can determine
_NOISE = 0.035  # of the points, in inter-ocular distances
_ROUNDS = 4
_CONTOUR = 0.25  # weight of the jaw's points, which slide along it as the head turns
_BRIGHTNESS = np.array([0.2126, 0.7152, 0.0722], np.float32)  # of linear RGB (ITU-R BT.709)
_LIGHT_REACH = 2.6  # head units over which light changes
_EYES = (slice(36, 42), slice(42, 48))
_INNER_LIPS = slice(60, 68)


@dataclass(frozen=True)
class Fit:
    """The head fitted to a photographed one.

    Attributes:
        identity: (I,) float32 coefficients of the kit's modes, 0 beyond ``MODES``.
        frame: (3, 3) float32 rotation from head axes to image right, image up, towards the camera.
        scale: pixels per head unit.
        shift: (2,) float32 pixels of the head's origin.
        error: root mean square error of the points, in inter-ocular distances.
        yaw_deg: the head's yaw.
    """

    identity: Floats
    frame: Floats
    scale: float
    shift: Floats
    error: float
    yaw_deg: float

    def project(self, points: Floats) -> Floats:
        """Head coordinates (N, 3) → pixels (N, 2), y down."""
        flat = self.scale * (points @ self.frame[:2].T)
        return (flat * np.array([1, -1], np.float32) + self.shift).astype(np.float32)


def fit_head(head: Head, landmarks: Floats, amounts: Floats) -> Fit:
    """Fit pose, scale and a few regularized identity modes by alternating least squares.

    Args:
        head: the mean head and its modes.
        landmarks: (68, 2) pixels, iBUG order.
        amounts: (E,) the expression in the photograph.
    """
    kit = head.kit
    places = kit.landmarks68
    seen = landmarks.astype(np.float64) * [1, -1]
    apart = float(np.linalg.norm(seen[36:42].mean(0) - seen[42:48].mean(0)))
    weight = np.ones(68)
    weight[:17] = _CONTOUR
    base = (kit.neutral + head.movement(amounts))[places].astype(np.float64)
    modes = kit.identity[:MODES, places].astype(np.float64)  # (M, 68, 3)
    code = np.zeros(len(modes))
    heavy = np.sqrt(weight)[:, None]
    ridge = (_NOISE * apart) ** 2 * np.eye(len(modes))
    for _ in range(_ROUNDS):
        points = base + np.tensordot(code, modes, 1)
        rotation, scale, shift = _pose(points, seen, weight)
        rest = ((seen - shift - scale * base @ rotation[:2].T) * heavy).reshape(-1)
        columns = (scale * modes @ rotation[:2].T * heavy).reshape(len(modes), -1)
        code = np.linalg.solve(columns @ columns.T + ridge, columns @ rest)
    points = base + np.tensordot(code, modes, 1)
    rotation, scale, shift = _pose(points, seen, weight)
    left = (seen - shift - scale * points @ rotation[:2].T) * heavy
    identity = np.zeros(len(kit.identity), np.float32)
    identity[: len(code)] = code.clip(-2.5, 2.5)
    return Fit(
        identity=identity,
        frame=rotation.astype(np.float32),
        scale=float(scale),
        shift=(shift * np.array([1, -1])).astype(np.float32),
        error=float(np.sqrt((left**2).sum() / weight.sum()) / apart),
        yaw_deg=float(np.rad2deg(np.arctan2(-rotation[2, 0], rotation[2, 2]))),
    )


def _pose(points: Floats, seen: Floats, weight: Floats) -> tuple[Floats, float, Floats]:
    """Return the scaled orthographic pose: the least-squares affine camera, orthogonalized."""
    centre = (points * weight[:, None]).sum(0) / weight.sum()
    middle = (seen * weight[:, None]).sum(0) / weight.sum()
    heavy = np.sqrt(weight)[:, None]
    affine = np.linalg.lstsq((points - centre) * heavy, (seen - middle) * heavy, rcond=None)[0].T
    left, sizes, right = np.linalg.svd(affine, full_matrices=False)
    rows = left @ right
    scale = float(sizes.mean())
    rotation = np.concatenate([rows, np.cross(rows[0], rows[1])[None]])
    return rotation, scale, middle - scale * rows @ centre


class TexelMap:
    """The triangle of the skin at every texel of an atlas; slow to compute, so computed once."""

    def __init__(self, head: Head) -> None:
        self.head = head
        atlas = head.atlas
        texel, corner, weights = _unwrap(head)
        self._texel, self._corners, self._weights = texel, corner, weights
        self._shape = (atlas.height, atlas.width)
        self._window = _window(atlas) * _openings(head)

    def to_atlas(self, values: Floats) -> Floats:
        """Interpolate vertex values (V, C) over the atlas, (H, W, C) float32; 0 off the skin."""
        result = np.zeros((self._shape[0] * self._shape[1], values.shape[1]), np.float32)
        result[self._texel] = (values[self._corners] * self._weights[..., None]).sum(1)
        return result.reshape(*self._shape, -1)

    def extract_detail(self, photo_rgb_u8: Pixels, fit: Fit, amounts: Floats) -> Detail:
        """Project a photograph (S, S, 3) on the atlas; black borders do not count."""
        head, atlas = self.head, self.head.atlas
        vertices = head.shape(fit.identity) + head.movement(amounts)
        facing = head.normals(vertices) @ fit.frame[2]
        flat = np.concatenate([fit.project(vertices) - 0.5, facing[:, None]], 1)
        placed = self.to_atlas(flat.astype(np.float32))
        photo = np.power(photo_rgb_u8.astype(np.float32) / 255, 2.2)
        colour = _look_up(photo, placed[..., :2])
        shown = _look_up(_inside(photo_rgb_u8), placed[..., :2])
        weight = self._window * smoothstep(0.3, 0.65, placed[..., 2]) * (shown > 0.95)
        return _divide_light(atlas, colour, weight)


@dataclass(frozen=True)
class Detail:
    """The detail of a photograph on the atlas.

    Attributes:
        factor: (H, W, 3) float32, about 1, on the colour of skin.
        weight: (H, W) float32 in [0, 1], where the photograph shows it.
        tone: (3,) float32 linear RGB, the median colour of what shows.
    """

    factor: Floats
    weight: Floats
    tone: Floats


def _divide_light(atlas: Atlas, colour: Floats, weight: Floats) -> Detail:
    """Remove low frequencies, drop what is not skin, fill gaps from the mirrored side."""
    bright = colour @ _BRIGHTNESS
    sure = weight > 0.5
    middle = float(np.median(bright[sure])) if sure.any() else 0.2
    # Brows, nostrils and stubble are dark, not badly lit: they do not count as light.
    counted = weight * (bright > 0.45 * middle)
    small = (atlas.width // 4, atlas.height // 4)
    stack = np.concatenate([colour * counted[..., None], counted[..., None]], -1)
    stack = cv2.resize(stack, small, interpolation=cv2.INTER_AREA)
    sigma = _LIGHT_REACH * atlas.texels_per_unit / 4
    stack = cv2.GaussianBlur(stack, (0, 0), sigma)
    stack = cv2.resize(stack, (atlas.width, atlas.height), interpolation=cv2.INTER_LINEAR)
    light = stack[..., :3] / np.maximum(stack[..., 3:], 1e-3)
    floor = 0.04 * middle + 1e-3
    factor = ((colour + floor) / (light + floor)).clip(0.25, 1.8)
    # Lamps of several colours leave coloured highlights: keep half of the colour.
    even = (factor @ _BRIGHTNESS)[..., None]
    factor = even + 0.5 * (factor - even)
    # Hair, scarves and the background differ from skin in brightness over wide areas.
    lit = light @ _BRIGHTNESS / max(middle, 1e-3)
    weight = weight * smoothstep(0.2, 0.4, lit) * smoothstep(3.5, 2.5, lit)
    weight = weight * smoothstep(0.02, 0.12, stack[..., 3].astype(np.float32))
    weight = atlas.blur(cv2.erode(weight, np.ones((5, 5), np.uint8)).astype(np.float32), 0.25)
    mirrored = 0.9 * (1 - weight) * weight[:, ::-1]
    filled = weight + mirrored
    own, other = weight[..., None], mirrored[..., None]
    factor = 1 + own * (factor - 1) + other * (factor[:, ::-1] - 1)
    tone = np.median(colour[sure], 0) if sure.any() else np.full(3, 0.2)
    return Detail(factor.astype(np.float32), filled.astype(np.float32), tone.astype(np.float32))


def mouth_is_open(landmarks: Floats) -> bool:
    """Return whether teeth may show between the lips of (68, 2) points."""
    inner = landmarks[_INNER_LIPS]
    wide = np.linalg.norm(landmarks[54] - landmarks[48])
    gap = np.linalg.norm(inner[[1, 2, 3]] - inner[[7, 6, 5]], axis=1).mean()
    return bool(gap > 0.06 * wide)


def _look_up(picture: Floats, places: Floats) -> Floats:
    sampled = cv2.remap(
        picture,
        places.astype(np.float32),
        np.empty(0, np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
    )
    return np.asarray(sampled, np.float32)


def _inside(photo_rgb_u8: Pixels) -> Floats:
    """Return (S, S): 1 within the photograph, 0 on the black border of an aligned crop."""
    dark = (photo_rgb_u8.max(2) < 10).astype(np.uint8)
    framed = cv2.copyMakeBorder(dark, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=1)
    mask = np.zeros((framed.shape[0] + 2, framed.shape[1] + 2), np.uint8)
    filled = framed.copy()
    cv2.floodFill(filled, mask, (0, 0), 2)
    outside = (filled[1:-1, 1:-1] == 2).astype(np.uint8)
    return 1 - cv2.dilate(outside, np.ones((5, 5), np.uint8)).astype(np.float32)


def _window(atlas: Atlas) -> Floats:
    """Return (H, W): 1 on the face, fading to 0 before ears, hair and neck."""
    across = smoothstep(64, 50, np.abs(atlas.degrees))
    return across * smoothstep(-8.4, -7.4, atlas.y) * smoothstep(9.4, 8.2, atlas.y)


def _openings(head: Head) -> Floats:
    """Return (H, W): 0 on eyes and lids, which never fit a photograph exactly; else 1."""
    atlas = head.atlas
    mask = atlas.blank()
    points = head.kit.neutral[head.kit.landmarks68]
    for eye in _EYES:
        outline = points[eye]
        middle = outline.mean(0)
        polygon(mask, atlas.texel(middle + (outline - middle) * [1.25, 1.9, 1]))
    return 1 - atlas.blur(mask.astype(np.float32) / 255, 0.12)


def _unwrap(head: Head) -> tuple[NDArray[np.int64], NDArray[np.int32], Floats]:
    """Return texels (M,), corners (M, 3) and weights (M, 3) of the outermost triangle at each."""
    atlas = head.atlas
    owner = np.full((atlas.height, atlas.width), -1, np.int64)
    height = np.full((atlas.height, atlas.width), -np.inf, np.float32)
    share = np.zeros((atlas.height, atlas.width, 3), np.float32)
    skin = head.triangles[head.parts == SKIN]
    column, row = head.texels.astype(int).T
    column, row = column.clip(0, atlas.width - 1), row.clip(0, atlas.height - 1)
    shown = _window(atlas)[row, column] > 0
    triangles = skin[shown[skin].any(1)]
    out = np.linalg.norm(head.kit.neutral[:, [0, 2]], axis=1)
    for number, corners in enumerate(triangles):
        a, b, c = head.texels[corners].astype(float)
        area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
        low = np.ceil(np.minimum(np.minimum(a, b), c)).astype(int).clip(0)
        high = np.floor(np.maximum(np.maximum(a, b), c)).astype(int)
        if abs(area) < 1e-6 or (high < low).any() or high[0] - low[0] > atlas.width // 4:
            continue
        x, y = np.meshgrid(np.arange(low[0], high[0] + 1), np.arange(low[1], high[1] + 1))
        second = ((x - a[0]) * (c[1] - a[1]) - (y - a[1]) * (c[0] - a[0])) / area
        third = ((b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0])) / area
        weights = np.stack([1 - second - third, second, third], -1)
        tall = weights @ out[corners]
        place = (slice(low[1], high[1] + 1), slice(low[0], high[0] + 1))
        if place[0].stop > atlas.height or place[1].stop > atlas.width:
            continue
        wins = (weights >= -1e-6).all(-1) & (tall > height[place])
        owner[place][wins] = number
        height[place][wins] = tall[wins]
        share[place][wins] = weights[wins]
    texel = np.flatnonzero(owner >= 0)
    return texel, triangles[owner.reshape(-1)[texel]], share.reshape(-1, 3)[texel]
