"""A detector for images that are already aligned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from .detector import Detection, Detector, PreparedPicture


class AlreadyAligned(Detector):
    """Finds one face without a box: the whole image, which is only resized.

    The image is not cropped or distorted: its longer side fills the square, the rest is border.
    """

    name: ClassVar[str] = "none"
    searches: ClassVar[bool] = False

    def detect(self, pictures: Sequence[PreparedPicture]) -> list[list[Detection]]:
        """Return one face per image."""
        return [[Detection(None, None, None, "none")] for _ in pictures]
