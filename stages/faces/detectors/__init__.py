"""Detectors by name. To add one: a module here, and a line in ``DETECTORS``."""

from typing import Final

from .detector import (
    Canvas,
    Detection,
    Detector,
    DetectorSettings,
    PreparedPicture,
    choose,
    choose_listed,
)
from .insightface import InsightFace
from .none import AlreadyAligned
from .opencv import OpenCV
from .supplied import Supplied, listed_face

DETECTORS: Final[dict[str, type[Detector]]] = {
    "opencv": OpenCV,
    "insightface": InsightFace,
    "supplied": Supplied,
    "none": AlreadyAligned,
}

__all__ = [
    "DETECTORS",
    "Canvas",
    "Detection",
    "Detector",
    "DetectorSettings",
    "PreparedPicture",
    "choose",
    "choose_listed",
    "listed_face",
]
