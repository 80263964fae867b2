"""For images that are aligned already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from .detector import Detection, Detector, Look


class AlreadyAligned(Detector):
    """Finds one face without a box: the whole image, which is only resized.

    The image is kept whole and undistorted: its longer side fills the square, and what is missing
    beside a shorter one is border.
    """

    name: ClassVar[str] = "none"

    def detect(self, looks: Sequence[Look]) -> list[list[Detection]]:
        """One face an image."""
        return [[Detection(None, None, None, "none")] for _ in looks]
