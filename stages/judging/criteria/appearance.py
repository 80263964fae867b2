"""Features for simple classifiers: histograms of oriented gradients, then PCA."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from ....manifests.arrays import Floats, Pixels

SIZE_PX = 96
#: Side of a HOG cell, and of the coarser cell for a second copy of a picture.
FINE_PX, COARSE_PX = 8, 12
_BINS = 9
_VARIANCE_FLOOR = 1e-6


def hog_features(images: Pixels, cell_px: int = FINE_PX) -> NDArray[np.float32]:
    """Return HOG features of grey faces (Dalal and Triggs, CVPR 2005), by OpenCV.

    Args:
        images: (N, H, W, 3) uint8 RGB; resized to 96 x 96.
        cell_px: side of a cell; divides 96.

    Returns:
        (N, D) float32, blocks of 2 x 2 cells, 9 unsigned orientations.
    """
    side, block = (SIZE_PX, SIZE_PX), (2 * cell_px, 2 * cell_px)
    cell = (cell_px, cell_px)
    hog = cv2.HOGDescriptor(side, block, cell, cell, _BINS)
    rows: list[NDArray[np.float32]] = []
    for image in images:
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        small = cv2.resize(grey, side, interpolation=cv2.INTER_AREA)
        rows.append(np.asarray(hog.compute(small), dtype=np.float32).reshape(-1))
    return np.stack(rows)


class Reduction:
    """PCA fitted on some pictures, scaled by one factor to a mean variance of 1.

    Components are not whitened: those with little variance keep little weight.

    Args:
        features: (N, D) to fit on.
        components: at most this many are kept.
    """

    def __init__(self, features: Floats, components: int = 100) -> None:
        count = max(1, min(components, len(features) - 1, features.shape[1]))
        self._pca = PCA(count, svd_solver="randomized", random_state=0)
        with np.errstate(invalid="ignore", divide="ignore"):  # pictures that are all the same
            self._pca.fit(features)
        self._scale = float(np.sqrt(max(self._pca.explained_variance_.mean(), _VARIANCE_FLOOR)))

    def __call__(self, features: Floats) -> NDArray[np.float32]:
        """(M, D) → (M, C) float32."""
        return (self._pca.transform(features) / self._scale).astype(np.float32)
