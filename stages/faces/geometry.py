"""Where faces lie, and how a face is brought into the canonical frame.

**Coordinates.** Points are ``(x, y)``, x to the right and y down, *continuous*: the image's top
left corner is ``(0, 0)`` and the centre of its first pixel is ``(0.5, 0.5)``. A box that covers a
whole image of width ``w`` and height ``h`` is therefore ``(0, 0, w, h)``, and scaling an image by
``s`` multiplies coordinates by ``s`` without a shift. "Original" means the upright image, after its
EXIF orientation was applied; "aligned" means the square that the stage writes.

**Transforms** are ``(2, 3)`` float64 matrices from original to aligned coordinates, always a
similarity: uniform scale, rotation, shift; never a reflection.

**The frame** is fixed by the eyes and the tip of the nose. Mouth and chin never take part: they
move with the expression, and a frame that follows them would hide the very thing that is measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import cv2
import numpy as np
from numpy.typing import ArrayLike

from ...manifests.arrays import Matrix, Pixels, Points

Border = Literal["black", "replicate", "reflect"]

# In units of the aligned square's side; the renderer of the training pairs uses the same three.
TEMPLATE: Final[Points] = np.array([[0.345, 0.40], [0.655, 0.40], [0.5, 0.585]])
TEMPLATE.setflags(write=False)

# The order of the five landmarks. "Left" is the side of the picture for an upright face.
LANDMARK_NAMES: Final = (
    "left_image_eye",
    "right_image_eye",
    "nose_tip",
    "left_image_mouth_corner",
    "right_image_mouth_corner",
)
# The same five points in a mirror image, in the order of ``LANDMARK_NAMES``.
MIRRORED: Final = [1, 0, 2, 4, 3]

_BORDERS: Final[dict[str, int]] = {
    "black": cv2.BORDER_CONSTANT,
    "replicate": cv2.BORDER_REPLICATE,
    "reflect": cv2.BORDER_REFLECT,
}


@dataclass(frozen=True)
class BoxFrame:
    """How the boxes of one detector lie in the canonical frame, on average.

    Attributes:
        centre: (x, y) of a box's centre, in units of the aligned square's side.
        size: the square root of a box's area, in the same unit. Of width, height and the root of
            the area, the last one varies least against the frame from eyes and nose.
    """

    centre: tuple[float, float]
    size: float


# A tight box around brow, chin and cheeks, as SCRFD draws it. Measured on 2,921 photographs (tight
# crops, mostly near frontal): the frame from eyes and nose puts the box there with a standard
# deviation of 0.07 across, 0.03 down, and 5.5 % in size. Turned heads make the first one large.
TIGHT_BOX: Final = BoxFrame(centre=(0.504, 0.494), size=0.763)


def similarity(source: ArrayLike, target: ArrayLike) -> Matrix:
    """The similarity that brings ``source`` closest to ``target`` in the sense of least squares.

    With points as complex numbers it is linear regression, ``target = a * source + b``, so the
    closed form is exact and cannot reflect (Umeyama 1991, eq. 40–42, in two dimensions).

    Args:
        source: (N, 2), N >= 2, any unit.
        target: (N, 2).

    Returns:
        (2, 3) float64.

    Raises:
        ValueError: other shapes, values that are not finite, or points that all coincide.
    """
    here, there = np.asarray(source, np.float64), np.asarray(target, np.float64)
    if here.ndim != 2 or here.shape != there.shape or here.shape[1] != 2 or len(here) < 2:
        raise ValueError(f"two or more pairs are needed, not {here.shape} and {there.shape}")
    if not (np.isfinite(here).all() and np.isfinite(there).all()):
        raise ValueError("points must be finite")
    p, q = here @ (1, 1j), there @ (1, 1j)
    centred = p - p.mean()
    spread = float((np.abs(centred) ** 2).sum())
    # The bound is relative, so that it means the same for pixels and for units of the square.
    if spread <= (1e-9 * (1.0 + float(np.abs(p).max()))) ** 2:
        raise ValueError("the points coincide")
    a = complex((centred.conj() * (q - q.mean())).sum() / spread)
    if a == 0:
        raise ValueError("no similarity relates these points")
    b = complex(q.mean()) - a * complex(p.mean())
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def transform_from_landmarks(landmarks: ArrayLike, size_px: int) -> Matrix:
    """Eyes and nose tip → template, by least squares; mouth corners are not looked at.

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


def transform_from_box(bbox_xyxy: ArrayLike, size_px: int, frame: BoxFrame = TIGHT_BOX) -> Matrix:
    """An upright frame around a box, where ``frame`` says how such boxes usually lie in it.

    Args:
        bbox_xyxy: (4,) original coordinates.
        size_px: side of the aligned square.
        frame: the convention of whoever drew the box.

    Raises:
        ValueError: the box is empty or not finite.
    """
    box = np.asarray(bbox_xyxy, np.float64)
    width, height = box[2] - box[0], box[3] - box[1]
    if not np.isfinite(box).all() or width <= 0 or height <= 0:
        raise ValueError(f"not a box: {box.tolist()}")
    scale = frame.size * size_px / float(np.sqrt(width * height))
    centre = (box[:2] + box[2:]) / 2
    shift = np.array(frame.centre) * size_px - scale * centre
    return np.array([[scale, 0.0, shift[0]], [0.0, scale, shift[1]]])


def transform_of_whole(width_px: int, height_px: int, size_px: int) -> Matrix:
    """(2, 3) float64: the whole image, centred in the square undistorted; the rest is border."""
    scale = size_px / max(width_px, height_px)
    return np.array(
        [
            [scale, 0.0, (size_px - scale * width_px) / 2],
            [0.0, scale, (size_px - scale * height_px) / 2],
        ]
    )


def ordered(landmarks: ArrayLike) -> Points:
    """(5, 2) float64 landmarks in the order of ``LANDMARK_NAMES``, whichever side comes first.

    Lists name "left" after the person as often as after the picture. For an upright reading the
    nose lies clockwise of the line from the first eye to the second; where it does not, the two
    sides are swapped. This holds at any rotation of the face in the picture.
    """
    points = np.asarray(landmarks, np.float64)
    if points.shape != (5, 2):
        raise ValueError(f"five points are needed, not {points.shape}")
    across, down = points[1] - points[0], points[2] - (points[0] + points[1]) / 2
    mirrored = across[0] * down[1] - across[1] * down[0] < 0
    return points[MIRRORED] if mirrored else points


def apply(transform: Matrix, points: ArrayLike) -> Points:
    """Points (N, 2) through a (2, 3) transform, (N, 2) float64."""
    return np.asarray(points, np.float64) @ transform[:, :2].T + transform[:, 2]


def inverse(transform: Matrix) -> Matrix:
    """The (2, 3) transform from aligned back to original coordinates."""
    back = np.linalg.inv(transform[:, :2])
    return np.column_stack([back, -back @ transform[:, 2]]).astype(np.float64)


def scale_of(transform: Matrix) -> float:
    """Aligned pixels per original pixel, of a (2, 3) transform."""
    return float(np.sqrt(abs(np.linalg.det(transform[:, :2]))))


def warp(pixels_rgb_u8: Pixels, transform: Matrix, size_px: int, border: Border) -> Pixels:
    """Draw the aligned square.

    Shrinking below one half would alias under bilinear interpolation alone: the image is first
    averaged over blocks of ``floor(1 / scale)`` pixels, after which the rest of the way is between
    one half and one and bilinear is enough. Enlarging is bilinear too (bicubic takes six times as
    long and adds nothing that the photograph has).

    Args:
        pixels_rgb_u8: (H, W, 3) uint8.
        transform: (2, 3), original → aligned.
        size_px: side of the result.
        border: what stands where the square reaches beyond the image: ``black``; ``replicate``,
            the nearest edge pixel; ``reflect``, the image mirrored at its edge.

    Returns:
        (size_px, size_px, 3) uint8, same colour order as the input.
    """
    scale = scale_of(transform)
    block = int(1 / scale) if scale < 0.5 else 1
    matrix = transform.copy()
    if block > 1:
        pixels_rgb_u8 = _averaged(pixels_rgb_u8, block)
        matrix[:, :2] *= block
    # OpenCV counts from pixel centres: half a pixel off our corners, before and after.
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
    """Means over ``block`` × ``block`` pixels; a last partial block is filled up by its edge."""
    height, width = pixels.shape[:2]
    down, right = -height % block, -width % block
    if down or right:
        pixels = np.asarray(
            cv2.copyMakeBorder(pixels, 0, down, 0, right, cv2.BORDER_REPLICATE), np.uint8
        )
    size = (pixels.shape[1] // block, pixels.shape[0] // block)
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
