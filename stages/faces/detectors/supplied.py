"""A detector that returns the boxes or landmarks of the dataset's own list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from ....manifests.arrays import Pixels
from ....manifests.vocabularies import SampleError
from ..geometry import order_landmarks
from .detector import Detection, Detector, PreparedPicture


class Supplied(Detector):
    """Takes each row's landmarks, or its box if it has none.

    Coordinates are upright original pixels. Boxes should be tight around brow, chin and cheeks;
    looser boxes give looser crops. If a row has both, its frame comes from the landmarks. One row
    is one face.
    """

    name: ClassVar[str] = "supplied"

    searches: ClassVar[bool] = False

    def prepare(self, pixels: Pixels, row: Mapping[str, Any]) -> PreparedPicture:
        """Check what the row supplies for a picture, (H, W, 3) uint8 RGB.

        Raises:
            SampleError: ``no_landmarks`` if the row has neither, or as ``listed_face`` says.
        """
        listed = listed_face(pixels, row)
        if listed is None:
            raise SampleError("no_landmarks", "the list gives neither landmarks nor a box")
        return PreparedPicture(pixels, listed)

    def detect(self, pictures: Sequence[PreparedPicture]) -> list[list[Detection]]:
        """Return what ``prepare`` found in each row."""
        return [[picture.payload] for picture in pictures]


def listed_face(pixels: Pixels, row: Mapping[str, Any]) -> Detection | None:
    """Return the face that a row names in a picture, (H, W, 3) uint8 RGB; None if it names none.

    Raises:
        SampleError: ``bad_supplied_box`` if numbers are missing or not finite, or the face is empty
            or wholly outside the image.
    """
    height, width = pixels.shape[:2]
    box, points = row.get("bbox_xyxy"), row.get("landmarks")
    if points is None and box is None:
        return None
    bbox = None if box is None else _numbers(box, (4,), "box")
    landmarks = None if points is None else _numbers(points, (5, 2), "landmarks")
    if landmarks is not None:
        inside = ((landmarks >= 0) & (landmarks <= (width, height))).all(axis=1)
        if np.ptp(landmarks[:3], axis=0).max() < 1 or not inside.any():
            raise SampleError("bad_supplied_box", "the landmarks are not a face in the image")
        landmarks = order_landmarks(landmarks)
    if bbox is not None:
        shown = np.minimum(bbox[2:], (width, height)) - np.maximum(bbox[:2], 0)
        if (bbox[2:] <= bbox[:2]).any() or (shown <= 0).any():
            raise SampleError("bad_supplied_box", f"{bbox.tolist()} in {width} x {height}")
    return Detection(bbox, landmarks, None, "supplied")


def _numbers(values: Any, shape: tuple[int, ...], what: str) -> np.ndarray[Any, Any]:
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise SampleError("bad_supplied_box", f"the {what} is not a list of numbers") from error
    if array.shape != shape or not np.isfinite(array).all():
        raise SampleError("bad_supplied_box", f"the {what} needs finite numbers of shape {shape}")
    return array
