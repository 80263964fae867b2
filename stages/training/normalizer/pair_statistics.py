"""Statistics of the training pairs that normalize the losses: how much they vary, and where."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from ....manifests.arrays import Floats
from ..pictures import POSE_UNIT_DEG, PairCache, mirrored

# Parts of the face with equal weight, however little they move (iBUG numbering).
REGIONS = {
    "jaw": slice(0, 17),
    "brows": slice(17, 27),
    "nose": slice(27, 36),
    "eyes": slice(36, 48),
    "mouth": slice(48, 68),
}
_PAINTED = {
    "brows": (slice(17, 22), slice(22, 27)),
    "eyes": (slice(36, 42), slice(42, 48)),
    "mouth": (slice(48, 68),),
}
_MIN_VARIANCE = 0.006  # rare shapes would otherwise outweigh all others


class PairStatistics(nn.Module):
    """Statistics of training pairs, relative to which losses are measured.

    Attributes:
        shapes: (E,) weights of squared errors of coefficients; the average face scores about 1.
        gram: (E, E) matrix of the squared displacement of the face's regions; scaled likewise.
        landmarks: () variance of source landmarks.
        pose: () variance of yaw, pitch and roll in their unit.
        mirror: (E,) index of each shape's mirror image.
        resting: (1, 3, T, T) the target face at rest; empty without target pictures.
        change: (1, 1, T, T) how much each pixel of the target changes, 1 on average.
        regions: (3, 1, T, T) brows, eyes and mouth of the target; each adds up to 1.
        pixel, edge: () mean error of the resting face, weighted by ``change``.
        region_pixel: (3,) mean error of the resting face in each region.
    """

    shapes: Tensor
    gram: Tensor
    landmarks: Tensor
    pose: Tensor
    mirror: Tensor
    resting: Tensor
    change: Tensor
    regions: Tensor
    pixel: Tensor
    edge: Tensor
    region_pixel: Tensor

    def __init__(self, pairs: PairCache) -> None:
        super().__init__()
        count = pairs.expression.shape[1]
        self._set("shapes", 1 / np.maximum(pairs.expression.var(0), _MIN_VARIANCE) / count)
        self._set("gram", region_gram(pairs))
        side = len(pairs.source[0])
        self._set("landmarks", (pairs.landmarks * 2 / side).var(0).mean() + 1e-3)
        self._set("pose", (pairs.pose_deg / POSE_UNIT_DEG).var(0).mean() + 1e-3)
        self.register_buffer("mirror", torch.from_numpy(mirrored(pairs.expression_names)))
        if pairs.target is not None:
            self._measure_targets(pairs)

    def _set(self, name: str, value: Floats) -> None:
        self.register_buffer(name, torch.from_numpy(np.asarray(value, np.float32)))

    def _measure_targets(self, pairs: PairCache) -> None:
        rows = np.arange(0, len(pairs.target_of), max(1, len(pairs.target_of) // 256))
        sample = pairs.targets(rows).astype(np.float32) / 255  # (n, T, T, 3)
        change = sample.std(0).mean(-1)
        change = (0.4 + 0.6 * change / max(float(change.mean()), 1e-6)).clip(0, 6)
        self._set("change", change[None, None])
        self._set("regions", region_masks(pairs.target_landmarks[rows], sample.shape[1])[:, None])
        self._set("resting", pairs.resting().transpose(2, 0, 1)[None] / 255)
        pictures = torch.from_numpy(sample).permute(0, 3, 1, 2)
        error = pictures - self.resting
        self.register_buffer("pixel", flat_error(error, self.change) + 1e-3)
        self.register_buffer("edge", edge_error(error, self.change) + 1e-3)
        self.register_buffer("region_pixel", region_error(error, self.regions) + 1e-3)

    def code_error(self, error: Tensor) -> Tensor:
        """(B, E) difference of two codes → (B,) error, about 1 for unrelated codes."""
        shapes = (error.square() * self.shapes).sum(1)
        return 0.5 * (shapes + self.displacement(error))

    def displacement(self, error: Tensor) -> Tensor:
        """(B, E) difference of two codes → (B,) squared displacement of the face, by region."""
        return ((error @ self.gram) * error).sum(1)


def flat_error(error: Tensor, change: Tensor) -> Tensor:
    """(B, 3, T, T) difference of pictures → mean absolute error, weighted."""
    return (error.abs() * change).mean()


def edge_error(error: Tensor, change: Tensor) -> Tensor:
    """(B, 3, T, T) difference of pictures → mean absolute error of their gradients, weighted."""
    across = error[..., :, 1:] - error[..., :, :-1]
    down = error[..., 1:, :] - error[..., :-1, :]
    return (across.abs() * change[..., 1:]).mean() + (down.abs() * change[..., 1:, :]).mean()


def region_error(error: Tensor, regions: Tensor) -> Tensor:
    """(B, 3, T, T) difference of pictures, (R, 1, T, T) masks → (R,) mean absolute errors."""
    return torch.einsum("bchw,rhw->r", error.abs(), regions[:, 0]) / (len(error) * 3)


def region_masks(points: Floats, size: int) -> Floats:
    """(N, 68, 2) landmarks → (3, T, T) masks of all positions of brows, eyes, mouth; sums 1."""
    masks = np.zeros((len(_PAINTED), size, size), np.float32)
    margin = max(1, round(0.04 * size))
    for mask, parts in zip(masks, _PAINTED.values(), strict=True):
        covered = np.zeros((size, size), np.uint8)
        for face in points:
            for part in parts:
                hull = cv2.convexHull(face[part].round().astype(np.int32))
                cv2.fillConvexPoly(covered, hull, 255)
        grown = cv2.dilate(covered, np.ones((margin, margin), np.uint8))
        mask[:] = cv2.GaussianBlur(grown, (0, 0), 0.02 * size).astype(np.float32)
        mask /= max(float(mask.sum()), 1.0)
    return masks


def displacement_basis(pairs: PairCache) -> Floats:
    """Return (136, E) the movement of the target's landmarks per coefficient, fitted on renders."""
    code = pairs.expression[pairs.target_of].astype(np.float64)
    points = pairs.target_landmarks.reshape(len(code), -1).astype(np.float64)
    basis = np.linalg.lstsq(code - code.mean(0), points - points.mean(0), rcond=1e-6)[0]
    return basis.T.astype(np.float32)


def region_gram(pairs: PairCache) -> Floats:
    """Return the (E, E) quadratic form of the mean over regions of the relative squared error."""
    count = pairs.expression.shape[1]
    gram = np.zeros((count, count), np.float64)
    if len(pairs.target_of) <= count:  # too few targets to fit: coefficients alone
        weights = 1 / np.maximum(pairs.expression.var(0), _MIN_VARIANCE) / count
        return np.diag(weights).astype(np.float32)
    basis = displacement_basis(pairs).reshape(68, 2, count)
    spread = np.cov(pairs.expression.T)
    for region in REGIONS.values():
        part = basis[region].reshape(-1, count).astype(np.float64)
        own = part.T @ part
        gram += own / max(float((own * spread).sum()), 1e-9) / len(REGIONS)
    return gram.astype(np.float32)
