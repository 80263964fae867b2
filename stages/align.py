"""align: crops the faces of photographs, all at one size and position.

Reads ``manifest``, writes ``aligned``: for each face its crop, its position, and its quality.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import cv2
import pyarrow as pa

from ..manifests.arrays import Matrix, Pixels
from ..manifests.keys import face_key
from ..manifests.schema import ALIGNED, ALIGNED_UPRIGHT
from ..manifests.vocabularies import status_of
from ..pipeline.errors import InputError, nearest
from ..pipeline.stage import (
    GPU,
    MEMORY,
    MapStage,
    Row,
    check_digest,
)
from .faces import geometry, pixels
from .faces.align_settings import AlignConfig
from .faces.detectors import (
    DETECTORS,
    Detection,
    Detector,
    DetectorSettings,
    PreparedPicture,
    choose,
    choose_listed,
    listed_face,
)
from .faces.detectors.looking import Look, Looking
from .faces.detectors.tracking import Track, TrackedFaces
from .faces.isolation import DecoderPool
from .sources.fetching import SourceReader
from .videos.frame_reader import FrameReader, frame_number


@dataclass(frozen=True)
class Picture:
    """A row's picture between ``prepare`` and ``finish``."""

    prepared: PreparedPicture
    source_sha256: str


class Align(MapStage):
    """The align stage."""

    name: ClassVar[str] = "align"
    version: ClassVar[int] = 1
    libraries: tuple[str, ...] = (
        "pyarrow",
        "pillow",
        "opencv-python",
        "numpy",
    )
    reads = ("manifest",)
    writes = "aligned"
    schema: pa.Schema = ALIGNED
    description = "Faces cut out and aligned by the eyes and the tip of the nose."

    def __init__(
        self,
        config: AlignConfig,
        root: Path,
        threads: int | None = None,
        allow_urls: bool = False,
    ) -> None:
        """Store settings and limits; nothing is read yet.

        Args:
            config: settings; ``listed`` and ``upright`` unset mean without.
            root: folder that the rows' paths are relative to, or the archive that they are in.
            threads: pictures processed in parallel.
            allow_urls: fetch rows whose path is an address.

        Raises:
            InputError: an unknown detector, or a missing pack.
        """
        self.config: AlignConfig = config
        self._reader = SourceReader(root, config.max_bytes, config.fetch_seconds, allow_urls)
        decoding = config.decoding()
        self._limits = decoding.limits
        self._decoders = DecoderPool(self._limits, decoding.bounds) if config.isolate else None
        self._frames = FrameReader(self._reader.open_file, decoding)
        self._open = False
        if config.detector == "opencv":  # its landmarks
            self.libraries = (*self.libraries, "torch")
        if config.detector == "insightface":
            self.libraries = (*self.libraries, "insightface", "onnxruntime", "onnxruntime-gpu")
        detector = make_detector(config, threads or len(os.sched_getaffinity(0)))
        self._chooses = detector.searches and config.listed == "choose"
        self._detector = _looking(detector, config)
        if config.upright:
            self.schema = ALIGNED_UPRIGHT
            if config.detector == "insightface":  # the second look
                self.libraries = (*self.libraries, "torch")

    @property
    def batch_size(self) -> int:
        """Return the rows of a batch."""
        return self.config.batch_size

    @property
    def device_class(self) -> str:
        """Return ``cpu`` or ``cuda``."""
        return self._detector.device_class

    def resources(self) -> dict[str, float]:
        """Return the memory, and a GPU if the settings request one."""
        gpu = {GPU: 1.0} if self.config.device == "cuda" else {}
        return {MEMORY: self.config.memory_gb * 1e9, **gpu}

    def digests(self) -> dict[str, str]:
        """Return the sha256 of the detector's files."""
        return self._detector.digests()

    def open(self) -> None:
        """Load the detector. Raises InputError for what the user must fix."""
        if self._open:
            return
        # Images are processed in parallel; OpenCV's own threads would compete with ours.
        cv2.setNumThreads(1)
        if self.config.pack_sha256:
            for name, digest in self.digests().items():
                check_digest(name, digest, "align.pack_sha256", self.config.pack_sha256)
        self._detector.open()
        self._reader.open()
        if self._decoders is not None:
            self._decoders.start()
        self._open = True

    def close(self) -> None:
        """End the decoding processes, and close the archive and the videos."""
        self._reader.close()
        self._frames.close()
        self._open = False
        if self._decoders is not None:
            self._decoders.close()

    def expect(self, rows: Sequence[Row]) -> None:
        """Take notice of the frames that will be read."""
        self._frames.expect(rows)

    def prepare(self, row: Row) -> Picture:
        """Read and decode a picture or a frame, and prepare it for the detector."""
        if frame_number(row["key"]) is not None:
            frame = pixels.to_pixels(self._frames.read(row))
            digest = hashlib.sha256(repr(frame.shape).encode() + frame.tobytes()).hexdigest()
            return Picture(self._detector.prepare(frame, row), digest)
        data = self._reader.read(row)
        if self._decoders is not None:
            picture = pixels.to_pixels(self._decoders.decode(data), self._limits.white)
        else:
            picture = pixels.decode(data, self._limits)
        prepared = self._detector.prepare(picture, row)
        return Picture(prepared, hashlib.sha256(data).hexdigest())

    def compute(self, items: list[Picture]) -> Sequence[list[Detection]]:
        """Return the faces of each picture, best first."""
        return self._detector.detect([item.prepared for item in items])

    def rows_of(self, pictures: Sequence[Pixels]) -> list[list[Row]]:
        """Return the rows that pictures in memory, (H, W, 3) uint8 RGB, would get."""
        nameless: Row = {"key": ""}
        items = [Picture(self._detector.prepare(one, nameless), "") for one in pictures]
        found = zip(items, self.compute(items), strict=True)
        return [self.finish(nameless, item, faces) for item, faces in found]

    def relate(
        self,
        rows: Sequence[Row],
        results: Sequence[Any],
        settled: Sequence[list[Row] | None],
        memory: dict[str, Any],
    ) -> Sequence[Any]:
        """Follow a face from frame to frame, if ``faces`` is ``track``.

        The track begins anew with each video and, as shards may be made anywhere, each shard.
        """
        if self.config.faces != "track":
            return results
        found: list[Any] = []
        for row, result, kept in zip(rows, results, settled, strict=True):
            track = memory.get("track")
            if track is None or track.path != row["path"] or frame_number(row["key"]) is None:
                track = memory["track"] = Track(row["path"])
            faces = [] if result is None else _sensible(self._seen(result))
            for out in kept or []:
                track.seen(out["bbox_xyxy"])
            followed = track.follow(faces) if faces else None
            found.append(TrackedFaces(result or [], followed) if faces else result)
        return found

    def _seen(self, found: list[Detection]) -> list[Detection]:
        return [f for f in found if f.score is None or f.score >= self.config.threshold]

    def finish(self, row: Row, item: Picture, result: list[Detection] | TrackedFaces) -> list[Row]:
        """Return one row for each chosen face, or one row with the reason why there is none."""
        tracked = result if isinstance(result, TrackedFaces) else None
        result = result.faces if isinstance(result, TrackedFaces) else result
        height, width = item.prepared.pixels.shape[:2]
        seen = self._seen(result)
        faces = _sensible(seen)
        common: Row = {
            "source_sha256": item.source_sha256,
            "source_width_px": width,
            "source_height_px": height,
            "faces_found": len(faces),
        }
        if not faces:
            best = max((f.score or 0.0 for f in result), default=None)
            reason = "no_face" if best is None else "implausible_face" if seen else "low_score"
            return [common | {"detection_score": best} | _rejected(reason)]
        chosen = self._chosen(item, row, faces, tracked)
        if isinstance(chosen, str):
            return [common | _rejected(chosen)]
        rows = [common | self._face_row(item, face) for face in chosen]
        for number, out in enumerate(rows):
            out["key"] = face_key(row["key"], number) if len(rows) > 1 else row["key"]
            if out.get("image") is not None:
                suffix = "jpg" if self.config.format == "jpeg" else "png"
                out["image"]["path"] = f"{out['key']}.{suffix}"
        return rows

    def _chosen(
        self, item: Picture, row: Row, faces: list[Detection], tracked: TrackedFaces | None
    ) -> list[Detection] | str:
        """Return the listed face, else the followed one, else those of ``align.faces``.

        Or the reason why there is none.
        """
        listed = listed_face(item.prepared.pixels, row) if self._chooses else None
        if listed is not None:
            found = choose_listed(faces, listed)
            return "no_face_in_box" if found is None else [found]
        if tracked is not None:
            return "face_lost" if tracked.followed is None else [tracked.followed]
        height, width = item.prepared.pixels.shape[:2]
        which = "largest" if self.config.faces == "track" else self.config.faces
        return choose(faces, which, width, height)

    def _face_row(self, item: Picture, face: Detection) -> Row:
        size = self.config.size_px
        transform = self._transform(item, face)
        span = size / geometry.scale_of(transform)
        columns: Row = {
            "bbox_xyxy": None if face.bbox_xyxy is None else face.bbox_xyxy.tolist(),
            "landmarks": None if face.landmarks is None else face.landmarks.tolist(),
            "landmarks_from": face.origin,
            "transform": transform.tolist(),
            "detection_score": face.score,
            "face_size_px": span,
        }
        if self.config.upright:
            columns["turned_degrees"] = geometry.turned_degrees(transform)
        if span < self.config.min_face_px:
            return columns | _rejected("face_too_small")
        crop = geometry.warp(item.prepared.pixels, transform, size, self.config.border)
        sharpness, brightness = pixels.quality_measures(crop)
        data = pixels.encode(crop, self.config.format, self.config.quality)
        return columns | {
            "image": {"bytes": data, "path": None},
            "image_sha256": hashlib.sha256(data).hexdigest(),
            "sharpness": sharpness,
            "brightness": brightness,
        }

    def _transform(self, item: Picture, face: Detection) -> Matrix:
        """Return the frame from the landmarks if known, else from the box, else the whole image."""
        size = self.config.size_px
        if face.landmarks is not None:
            return geometry.transform_from_landmarks(face.landmarks, size)
        if face.bbox_xyxy is not None:
            return geometry.transform_from_box(
                face.bbox_xyxy, size, self._detector.box_frame, face.turned_degrees
            )
        height, width = item.prepared.pixels.shape[:2]
        return geometry.transform_from_whole(width, height, size)


def make_detector(config: AlignConfig, threads: int) -> Detector:
    """Return the detector of the settings, not yet open."""
    if config.detector not in DETECTORS:
        raise InputError(
            f"unknown detector '{config.detector}'{nearest(config.detector, list(DETECTORS))}"
        )
    return DETECTORS[config.detector](
        DetectorSettings(
            pack=config.pack,
            model_root=config.model_root,
            threshold=config.threshold,
            canvases=config.canvases,
            every_canvas=config.faces == "all",
            device=config.device,
            threads=threads,
        )
    )


def _looking(detector: Detector, config: AlignConfig) -> Detector:
    """Return the detector with the further looks of the settings, if there are any."""
    close = config.look == "close"
    every = close and config.faces == "all"
    look = Look(bool(config.upright), config.listed == "choose", close, every)
    return Looking(detector, look) if detector.searches and look != Look() else detector


def _sensible(faces: list[Detection]) -> list[Detection]:
    return [face for face in faces if face.trust != "no"]


def _rejected(reason: str) -> Row:
    return {"status": status_of(reason), "reason": reason}
