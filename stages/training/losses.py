"""What training minimizes."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ..networks.base import Reading
from .pictures import PairCache

FloatArray = NDArray[np.floating]

# Parts of the face that count alike, however little they move (iBUG numbering).
REGIONS = {
    "jaw": slice(0, 17),
    "brows": slice(17, 27),
    "nose": slice(27, 36),
    "eyes": slice(36, 48),
    "mouth": slice(48, 68),
}
_LEAST_VARIANCE = 0.006  # rare shapes would otherwise outweigh all others


class ExpressionLoss(nn.Module):
    """Errors of coefficients and of what they do to the face, each relative to its spread.

    Half of it is the mean over shapes of 1 - R², half the mean over regions of 1 - R² of landmark
    displacement: shapes are nearly collinear, so a wrong mixture that moves the face alike is a
    small mistake, and a lip corner matters no less than a jaw. Landmarks and pose of the source
    are aids.
    """

    weight: Tensor
    gram: Tensor

    def __init__(
        self, cache: PairCache, landmark_share: float = 15.0, pose_share: float = 0.1
    ) -> None:
        super().__init__()
        count = cache.expression.shape[1]
        weight = 1 / np.maximum(cache.expression.var(0), _LEAST_VARIANCE) / count
        self.register_buffer("weight", torch.from_numpy(weight.astype(np.float32)))
        self.register_buffer("gram", torch.from_numpy(region_gram(cache)))
        self.landmark_share = landmark_share
        self.pose_share = pose_share

    def forward(self, reading: Reading, batch: dict[str, Tensor]) -> Tensor:
        """Mean loss of a batch; about 1 for the average face."""
        error = reading.coefficients.float() - batch["expression"]  # (B, E)
        shapes = (error.square() * self.weight).sum(1).mean()
        moved = ((error @ self.gram) * error).sum(1).mean()
        landmarks = functional.mse_loss(reading.landmarks.float(), batch["landmarks"])
        pose = functional.mse_loss(reading.pose.float(), batch["pose"])
        return 0.5 * (shapes + moved) + self.landmark_share * landmarks + self.pose_share * pose


def displacement_basis(cache: PairCache) -> FloatArray:
    """(136, E) how the target's landmarks move with each coefficient, fitted on the renders."""
    code = cache.expression[cache.target_of].astype(np.float64)
    points = cache.target_landmarks.reshape(len(code), -1).astype(np.float64)
    basis = np.linalg.lstsq(code - code.mean(0), points - points.mean(0), rcond=1e-6)[0]
    return basis.T.astype(np.float32)


def region_gram(cache: PairCache) -> FloatArray:
    """(E, E) matrix whose quadratic form is the mean over regions of the relative squared error."""
    count = cache.expression.shape[1]
    gram = np.zeros((count, count), np.float64)
    if len(cache.target_of) <= count:  # too few targets to tell: coefficients alone
        return np.diag(1 / np.maximum(cache.expression.var(0), _LEAST_VARIANCE) / count).astype(
            np.float32
        )
    basis = displacement_basis(cache).reshape(68, 2, count)
    spread = np.cov(cache.expression.T)
    for region in REGIONS.values():
        part = basis[region].reshape(-1, count).astype(np.float64)
        own = part.T @ part
        gram += own / max(float((own * spread).sum()), 1e-9) / len(REGIONS)
    return gram.astype(np.float32)


class PictureLoss(nn.Module):
    """Absolute error of pixels and of their gradients, weighted where the face changes."""

    weight: Tensor

    def __init__(self, cache: PairCache) -> None:
        super().__init__()
        sample = cache.target[:: max(1, len(cache.target) // 512)].astype(np.float32) / 255
        change = sample.std(0).mean(-1)
        weight = 0.4 + 0.6 * change / max(float(change.mean()), 1e-6)
        self.register_buffer("weight", torch.from_numpy(weight.clip(0, 6))[None, None])

    def forward(self, picture: Tensor, target: Tensor) -> Tensor:
        """(B, 3, S, S) twice → mean weighted error."""
        error = picture - target
        across = error[..., :, 1:] - error[..., :, :-1]
        down = error[..., 1:, :] - error[..., :-1, :]
        flat = (error.abs() * self.weight).mean()
        edges = (across.abs() * self.weight[..., 1:]).mean() + (
            down.abs() * self.weight[..., 1:, :]
        ).mean()
        return flat + 0.7 * edges
