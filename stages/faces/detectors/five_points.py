"""Five landmarks inside a rough box, by the small network that comes with the package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ....pipeline.errors import InputError
from ....pipeline.stage import sha256_file
from ..geometry import (
    MIRRORED,
    BoxFrame,
    Matrix,
    Points,
    apply,
    inverse,
    transform_from_box,
    transform_from_landmarks,
    warp,
)

if TYPE_CHECKING:  # torch takes seconds, which nobody should pay who opens no detector
    from ...networks.landmarks import LandmarkNet

WEIGHTS: Final = Path(__file__).parents[2] / "networks/weights/landmarks.safetensors"
# Eyes nearer than this share of the crop are a guess that no second look can mend.
_LEAST_APART: Final = 0.1


class Face(NamedTuple):
    """What the network makes of a box.

    Attributes:
        landmarks: (5, 2) float64 original coordinates in the order of ``LANDMARK_NAMES``.
        score: how surely it is a face, 0-1.
    """

    landmarks: Points
    score: float


class FivePoints:
    """Looks twice: about the box, then about the eyes and nose that the first look gave."""

    def __init__(self, box_frame: BoxFrame, weights: Path = WEIGHTS) -> None:
        """``box_frame``: how the boxes lie in the aligned frame."""
        self._box_frame = box_frame
        self._weights = weights
        self._network: LandmarkNet | None = None

    def digest(self) -> str:
        """Sha256 of the weights; readable before ``open``."""
        try:
            return sha256_file(self._weights)
        except OSError as error:
            raise InputError(f"no landmark weights {self._weights}: install normpipe anew") from (
                error
            )

    def open(self) -> None:
        """Load the network. Raises InputError for weights that do not fit."""
        from torch import nn
        from torch.nn.utils.fusion import fuse_conv_bn_eval

        from ...networks.files.checkpoint import load_weights
        from ...networks.landmarks import LandmarkNet

        network = LandmarkNet()
        load_weights(network, self._weights)
        network.eval()
        for block in network.blocks.children():  # half the layers of a network that runs one crop
            for conv, norm in (("down", "first_norm"), ("keep", "second_norm")):
                fused = fuse_conv_bn_eval(block.get_submodule(conv), block.get_submodule(norm))  # type: ignore[type-var]
                setattr(block, conv, fused)
                setattr(block, norm, nn.Identity())
        self._network = network.requires_grad_(False)

    def find(self, grey: NDArray[np.uint8], box: Points) -> Face:
        """The face that a box is drawn about.

        Args:
            grey: (H, W) uint8, the whole picture.
            box: (4,) float64, x and y of two corners, original coordinates.
        """
        from ...networks.landmarks import INPUT_SIZE

        first = self._look(grey, transform_from_box(box, INPUT_SIZE, self._box_frame), False)
        apart = np.linalg.norm(first.landmarks[1] - first.landmarks[0])
        if apart < _LEAST_APART * (box[2] - box[0]) / self._box_frame.size:
            return Face(first.landmarks, 0.0)
        return self._look(grey, transform_from_landmarks(first.landmarks, INPUT_SIZE), True)

    def _look(self, grey: NDArray[np.uint8], transform: Matrix, mirrored: bool) -> Face:
        """One crop, or the mean of it and its mirror image; no other picture is in the batch."""
        import torch

        from ...networks.landmarks import INPUT_SIZE

        assert self._network is not None, "open() comes first"
        crop = warp(grey, transform, INPUT_SIZE, "black")
        crops = np.stack([crop, crop[:, ::-1]] if mirrored else [crop])[:, None]
        with torch.inference_mode():
            found = self._network(torch.from_numpy(crops).float() / 255)
            points = self._network.marks(found.points68).double().numpy()
            score = float(torch.sigmoid(found.face.mean()))
        five = (points[0] + points[-1][MIRRORED] * [-1, 1]) / 2 if mirrored else points[0]
        return Face(apply(inverse(transform), (five + 1) * INPUT_SIZE / 2), score)
