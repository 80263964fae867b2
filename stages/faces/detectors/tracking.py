"""Follows one person's face from frame to frame of a video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from .detector import Detection, choose, intersection_over_union

#: Overlap with the last box, as intersection over union, from which on a face is the same one.
LEAST_OVERLAP: Final = 0.2


@dataclass(frozen=True)
class TrackedFaces:
    """The faces of a frame, and the one that is followed; None if it is not among them."""

    faces: list[Detection]
    followed: Detection | None


class Track:
    """The face that is followed in a video, while its frames pass in order.

    The first frame with faces begins with the largest. From then on, a frame's only face is taken;
    of several, the one that overlaps the last one most, if by at least ``LEAST_OVERLAP``. If none
    does, the face is lost in that frame, and the box where it was last is kept.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._box: Any = None

    def seen(self, box: Sequence[float] | None) -> None:
        """Note where the face is: (4,) left, top, right, bottom in pixels; None: unknown."""
        if box is not None:
            # As rows store it, so that rows of an earlier run lead on to the same face.
            self._box = np.asarray(box, np.float32).astype(np.float64)

    def follow(self, faces: Sequence[Detection]) -> Detection | None:
        """Return the face to follow among the faces of the next frame, or None if it is lost."""
        if self._box is None or len(faces) == 1:
            found = choose(faces, "largest", 0, 0)[0]
        else:
            boxes = np.array([face.bbox_xyxy for face in faces], np.float64)
            overlaps = intersection_over_union(self._box, boxes)
            best = int(np.argmax(overlaps))
            found = faces[best] if overlaps[best] >= LEAST_OVERLAP else None
        if found is not None:
            self.seen(None if found.bbox_xyxy is None else found.bbox_xyxy.tolist())
        return found
