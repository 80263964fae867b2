"""Coordinates of faces, and transforms to the canonical aligned frame.

**Coordinates.** Points are ``(x, y)``, x to the right and y down, *continuous*: the image's top
left corner is ``(0, 0)`` and the centre of its first pixel is ``(0.5, 0.5)``. A box that covers a
whole image of width ``w`` and height ``h`` is therefore ``(0, 0, w, h)``, and scaling an image by
``s`` multiplies coordinates by ``s`` without a shift. "Original" means the upright image, after its
EXIF orientation was applied; "aligned" means the square that the stage writes.

**Transforms** are ``(2, 3)`` float64 matrices from original to aligned coordinates, always a
similarity: uniform scale, rotation, shift; never a reflection.

**The frame** is defined by the eyes and the tip of the nose. Mouth and chin are not used: they
move with the expression, and a frame that follows them would hide what is to be measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import cv2
import numpy as np
from numpy.typing import ArrayLike

from ...manifests.arrays import Floats, Matrix, Pixels, Points

Border = Literal["black", "replicate", "reflect"]

# Clockwise turns (y points down) by 0, 90, 180 and 270 degrees.
_QUARTERS: Final[Points] = np.array(
    [[[1, 0], [0, 1]], [[0, -1], [1, 0]], [[-1, 0], [0, -1]], [[0, 1], [-1, 0]]], np.float64
)

# In units of the aligned square's side; the renderer of training pairs uses the same three.
TEMPLATE: Final[Points] = np.array([[0.345, 0.40], [0.655, 0.40], [0.5, 0.585]])
TEMPLATE.setflags(write=False)

# The order of the five landmarks. "Left" is the left of the picture for an upright face.
LANDMARK_NAMES: Final = (
    "left_image_eye",
    "right_image_eye",
    "nose_tip",
    "left_image_mouth_corner",
    "right_image_mouth_corner",
)
# The same five points in a mirror image, in the order of ``LANDMARK_NAMES``.
MIRRORED: Final = [1, 0, 2, 4, 3]

# Eye centres and nose tip of the resting mean head of ICT-FaceKit Light, from its 68 landmarks;
# about cm, x to the person's left, y up, z to the viewer.
_HEAD_ANCHORS: Final = np.array([[-3.26, 3.39, -1.16], [3.26, 3.39, -1.16], [0.0, 0.36, 2.69]])

_BORDERS: Final[dict[str, int]] = {
    "black": cv2.BORDER_CONSTANT,
    "replicate": cv2.BORDER_REPLICATE,
    "reflect": cv2.BORDER_REFLECT,
}


@dataclass(frozen=True)
class BoxFrame:
    """Where the boxes of one detector are in the canonical frame, on average.

    Attributes:
        centre: (x, y) of a box's centre, in units of the aligned square's side.
        size: the square root of a box's area, in the same unit. It varies less than width or
            height, relative to the frame from eyes and nose.
    """

    centre: tuple[float, float]
    size: float


# A tight box around brow, chin and cheeks, as SCRFD draws it. Measured on 2,921 photographs (tight
# crops, mostly near frontal) in the frame from eyes and nose. Standard deviations: 0.07 across
# (large because of turned heads), 0.03 down, and 5.5 % in size.
TIGHT_BOX: Final = BoxFrame(centre=(0.504, 0.494), size=0.763)


def similarity(source: ArrayLike, target: ArrayLike) -> Matrix:
    """Return the least-squares similarity from ``source`` to ``target``.

    With points as complex numbers it is linear regression, ``target = a * source + b``, so the
    closed form is exact and cannot reflect (Umeyama 1991, eq. 40–42, in two dimensions).

    Args:
        source: (N, 2), N >= 2, any unit.
        target: (N, 2).

    Returns:
        (2, 3) float64.

    Raises:
        ValueError: wrong shapes, values that are not finite, or points that all coincide.
    """
    here, there = np.asarray(source, np.float64), np.asarray(target, np.float64)
    if here.ndim != 2 or here.shape != there.shape or here.shape[1] != 2 or len(here) < 2:
        raise ValueError(f"two or more pairs are needed, not {here.shape} and {there.shape}")
    if not (np.isfinite(here).all() and np.isfinite(there).all()):
        raise ValueError("points must be finite")
    p, q = here @ (1, 1j), there @ (1, 1j)
    centred = p - p.mean()
    spread = float((np.abs(centred) ** 2).sum())
    # The bound is relative: it means the same for pixels and for units of the square.
    if spread <= (1e-9 * (1.0 + float(np.abs(p).max()))) ** 2:
        raise ValueError("the points coincide")
    a = complex((centred.conj() * (q - q.mean())).sum() / spread)
    if a == 0:
        raise ValueError("no similarity relates these points")
    b = complex(q.mean()) - a * complex(p.mean())
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def transform_from_landmarks(landmarks: ArrayLike, size_px: int) -> Matrix:
    """Map eyes and nose tip to the template, by least squares; mouth corners are ignored.

    Args:
        landmarks: (5, 2) original coordinates in the order of ``LANDMARK_NAMES``.
        size_px: side of the aligned square.

    Raises:
        ValueError: not five points, not finite, or eyes and nose coincide.
    """
    points = np.asarray(landmarks, np.float64)
    if points.shape != (5, 2):
        raise ValueError(f"five points are needed, not {points.shape}")
    return similarity(points[:3], TEMPLATE * size_px)


def transform_from_box(
    bbox_xyxy: ArrayLike, size_px: int, frame: BoxFrame = TIGHT_BOX, turned_degrees: int = 0
) -> Matrix:
    """Return the upright frame around a box; ``frame`` is where such boxes usually are in it.

    Args:
        bbox_xyxy: (4,) original coordinates.
        size_px: side of the aligned square.
        frame: the convention of the detector that drew the box.
        turned_degrees: turns the picture clockwise: 0, 90, 180 or 270.

    Raises:
        ValueError: the box is empty or not finite.
    """
    box = np.asarray(bbox_xyxy, np.float64)
    width, height = box[2] - box[0], box[3] - box[1]
    if not np.isfinite(box).all() or width <= 0 or height <= 0:
        raise ValueError(f"not a box: {box.tolist()}")
    scale = frame.size * size_px / float(np.sqrt(width * height))
    centre = (box[:2] + box[2:]) / 2
    linear = scale * _QUARTERS[turned_degrees // 90]
    shift = np.array(frame.centre) * size_px - linear @ centre
    return np.column_stack([linear, shift])


def transform_from_whole(width_px: int, height_px: int, size_px: int) -> Matrix:
    """Return the (2, 3) float64 transform that centres the whole image, undistorted, on border."""
    scale = size_px / max(width_px, height_px)
    return np.array(
        [
            [scale, 0.0, (size_px - scale * width_px) / 2],
            [0.0, scale, (size_px - scale * height_px) / 2],
        ]
    )


def order_landmarks(landmarks: ArrayLike) -> Points:
    """Return (5, 2) float64 landmarks in the order of ``LANDMARK_NAMES``, whichever side is first.

    In lists, "left" may mean the person's left or the picture's. In the right order the nose is
    clockwise of the line from the first eye to the second; otherwise the sides are swapped. This
    works at any rotation of the face.
    """
    points = np.asarray(landmarks, np.float64)
    if points.shape != (5, 2):
        raise ValueError(f"five points are needed, not {points.shape}")
    across, down = points[1] - points[0], points[2] - (points[0] + points[1]) / 2
    mirrored = across[0] * down[1] - across[1] * down[0] < 0
    return points[MIRRORED] if mirrored else points


def apply(transform: Matrix, points: ArrayLike) -> Points:
    """Apply a (2, 3) transform to points (N, 2); return (N, 2) float64."""
    return np.asarray(points, np.float64) @ transform[:, :2].T + transform[:, 2]


def inverse(transform: Matrix) -> Matrix:
    """Return the (2, 3) transform from aligned back to original coordinates."""
    back = np.linalg.inv(transform[:, :2])
    return np.column_stack([back, -back @ transform[:, 2]]).astype(np.float64)


def quarter_turn(width_px: int, height_px: int, turned_degrees: int) -> Matrix:
    """Return the (2, 3) transform from a picture's coordinates to those of it turned clockwise.

    ``turned_degrees`` is 0, 90, 180 or 270. The turned picture's corner is again (0, 0).
    """
    linear = _QUARTERS[turned_degrees // 90]
    corner = np.minimum(linear @ (width_px, height_px), 0)
    return np.column_stack([linear, -corner])


def turned_degrees(transform: Matrix) -> int:
    """Return how far a (2, 3) transform turns clockwise, to the nearest of 0, 90, 180 and 270."""
    degrees = float(np.rad2deg(np.arctan2(transform[1, 0], transform[0, 0])))
    return round(degrees / 90) % 4 * 90


def scale_of(transform: Matrix) -> float:
    """Return aligned pixels per original pixel of a (2, 3) transform."""
    return float(np.sqrt(abs(np.linalg.det(transform[:, :2]))))


def head_rolls(transforms: ArrayLike, yaw_deg: ArrayLike, pitch_deg: ArrayLike) -> Floats:
    """Return the roll of heads in their original pictures, from how landmarks aligned them.

    Alignment turns a face until eyes and nose fit the template. For a head that looks straight
    ahead, that turn is the roll. Of a turned head the nose is beside the middle, and the template
    turns it, too: the mean head, turned as far, says by how much (11 degrees at a yaw of 30).

    Args:
        transforms: (N, 2, 3) original → aligned, of ``transform_from_landmarks``.
        yaw_deg: (N,) positive to the person's left.
        pitch_deg: (N,) positive up.

    Returns:
        (N,) degrees in [-180, 180), positive where the head leans clockwise as seen.
    """
    matrices = np.asarray(transforms, np.float64)
    turned = np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0])
    yaw, pitch = (
        np.deg2rad(np.asarray(yaw_deg)[:, None]),
        np.deg2rad(np.asarray(pitch_deg)[:, None]),
    )
    x, y, z = _HEAD_ANCHORS.T  # (3,) each; turned to (N, 3)
    depth = z * np.cos(yaw) - x * np.sin(yaw)
    right, up = x * np.cos(yaw) + z * np.sin(yaw), y * np.cos(pitch) + depth * np.sin(pitch)
    seen = right - 1j * up
    template = TEMPLATE @ (1, 1j)
    centred = seen - seen.mean(1, keepdims=True)
    fitted = np.angle((centred.conj() * (template - template.mean())).sum(1))
    return (np.rad2deg(fitted - turned) + 180) % 360 - 180


def warp(pixels_rgb_u8: Pixels, transform: Matrix, size_px: int, border: Border) -> Pixels:
    """Resample the aligned square from the image.

    Bilinear interpolation alone aliases below a scale of one half: the image is first averaged over
    blocks of ``floor(1 / scale)`` pixels; the remaining scale is between one half and one, where
    bilinear is enough. Enlarging is bilinear too (bicubic takes six times as long and adds no
    detail).

    Args:
        pixels_rgb_u8: (H, W, 3) uint8.
        transform: (2, 3), original → aligned.
        size_px: side of the result.
        border: pixels beyond the image: ``black``; ``replicate``, the nearest edge pixel;
            ``reflect``, the image mirrored at its edge.

    Returns:
        (size_px, size_px, 3) uint8, same colour order as the input.
    """
    scale = scale_of(transform)
    block = int(1 / scale) if scale < 0.5 else 1
    matrix = transform.copy()
    if block > 1:
        pixels_rgb_u8 = _averaged(pixels_rgb_u8, block)
        matrix[:, :2] *= block
    # OpenCV's origin is a pixel centre, ours a corner: shift by half a pixel, before and after.
    matrix[:, 2] += matrix[:, :2] @ (0.5, 0.5) - 0.5
    drawn = cv2.warpAffine(
        pixels_rgb_u8,
        matrix,
        (size_px, size_px),
        flags=cv2.INTER_LINEAR,
        borderMode=_BORDERS[border],
    )
    return np.asarray(drawn, np.uint8)


def _averaged(pixels: Pixels, block: int) -> Pixels:
    """Average ``block`` × ``block`` pixels; partial blocks are padded with their edge."""
    height, width = pixels.shape[:2]
    down, right = -height % block, -width % block
    if down or right:
        pixels = np.asarray(
            cv2.copyMakeBorder(pixels, 0, down, 0, right, cv2.BORDER_REPLICATE), np.uint8
        )
    size = (pixels.shape[1] // block, pixels.shape[0] // block)
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
