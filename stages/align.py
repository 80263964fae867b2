"""align: crops the faces of photographs, all at one size and position.

Reads ``manifest``, writes ``aligned``: for each face its crop, its position, and its quality.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import cv2
from pydantic import Field, model_validator

from ..manifests.arrays import Matrix
from ..manifests.keys import face_key
from ..manifests.schema import ALIGNED
from ..manifests.vocabularies import status_of
from ..pipeline.errors import InputError, nearest
from ..pipeline.stage import DIGEST, GPU, MEMORY, MapStage, Row, StageConfig, check_digest, free
from .faces import geometry, pixels
from .faces.decoder import PILLOW_MAX_PIXELS, Limits
from .faces.detectors import (
    DETECTORS,
    Detection,
    Detector,
    DetectorSettings,
    PreparedPicture,
    choose,
)
from .faces.detectors.tracking import Track, TrackedFaces
from .faces.isolation import DecoderPool, ProcessLimits
from .sources.fetching import SourceReader
from .videos.frame_process import Decoding
from .videos.frame_reader import FrameReader, frame_number


class AlignConfig(StageConfig):
    """Settings of the align stage."""

    detector: str = Field("opencv", description="opencv, insightface, supplied or none")
    pack: str = free(
        "",
        description="insightface model pack: a name below model_root/models, or a directory",
        path=True,
    )
    pack_sha256: str = free(
        "",
        pattern=DIGEST,
        description="insightface: required sha256 of the pack's detection network; empty: any",
    )
    model_root: str = free(
        "~/.insightface",
        description="folder that holds models/<pack>, for packs given by name",
        path=True,
    )
    device: Literal["auto", "cpu", "cuda"] = free(  # the device class does
        "auto",
        description="insightface: auto (CUDA if ONNX Runtime has it), cpu or cuda",
    )
    threshold: float = Field(
        0.5, ge=0.2, le=1, description="minimum detection score (opencv, insightface)"
    )
    canvases: tuple[float, ...] = Field(
        (2.0, 1.0, 3.0),
        min_length=1,
        description="insightface: paddings to try in turn; 2 shows the picture at half the canvas",
    )
    faces: Literal["largest", "centre", "all", "track"] = Field(
        "largest",
        description="which of several faces: largest, centre (nearest to it), all, or track: in a "
        "video the same from frame to frame, elsewhere the largest",
    )
    min_face_px: int = Field(
        0, ge=0, description="reject faces whose crop spans fewer original pixels than this"
    )
    size_px: int = Field(224, ge=32, le=2048, description="side of the square crop")
    border: Literal["black", "replicate", "reflect"] = Field(
        "black",
        description="pixels of the crop beyond the picture: black, replicate or reflect",
    )
    format: Literal["jpeg", "png"] = Field("jpeg", description="jpeg or png")
    quality: int = Field(95, ge=1, le=100, description="JPEG quality")
    max_pixels: int = Field(
        64_000_000, ge=1, le=PILLOW_MAX_PIXELS, description="larger images are not decoded"
    )
    max_bytes: int = Field(64 * 2**20, ge=1, description="larger files are not read")
    fetch_seconds: float = free(
        30.0,
        gt=0,
        description="ingest.allow_urls: time limit for one address",
    )
    memory_gb: float = free(
        4.0,
        gt=0,
        description="memory of this stage, requested if cluster workers declare MEMORY; enough for "
        "photographs of 12 megapixels",
    )
    isolate: bool = free(
        True,
        description="decode in separate processes, which may hang or die; false: trusted files",
    )
    decode_seconds: float = free(
        30.0,
        gt=0,
        description="isolate: time limit for decoding a file; it fails after two timeouts",
    )
    decode_memory_mb: int = free(
        2048,
        ge=64,
        description="isolate: memory of a decoding process, one for each of run.threads",
    )
    batch_size: int = Field(
        16, ge=1, description="images passed to the detector at once; they do not affect each other"
    )

    def decoding(self) -> Decoding:
        """Return how files from strangers are decoded."""
        bounds = ProcessLimits(self.decode_seconds, self.decode_memory_mb * 2**20)
        return Decoding(Limits(self.max_pixels, self.max_bytes), bounds, self.isolate)

    @model_validator(mode="after")
    def _pin_of_a_pack(self) -> Self:
        if self.pack_sha256 and self.detector != "insightface":
            raise ValueError("align.pack_sha256 pins a pack: set align.detector=insightface")
        return self


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
    schema = ALIGNED
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
            config: settings.
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
        self._detector = make_detector(config, threads or len(os.sched_getaffinity(0)))

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
            picture = pixels.to_pixels(self._decoders.decode(data))
        else:
            picture = pixels.decode(data, self._limits)
        prepared = self._detector.prepare(picture, row)
        return Picture(prepared, hashlib.sha256(data).hexdigest())

    def compute(self, items: list[Picture]) -> Sequence[list[Detection]]:
        """Return the faces of each picture, best first."""
        return self._detector.detect([item.prepared for item in items])

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
            faces = [] if result is None else self._faces(result)
            for out in kept or []:
                track.seen(out["bbox_xyxy"])
            followed = track.follow(faces) if faces else None
            found.append(TrackedFaces(result or [], followed) if faces else result)
        return found

    def _faces(self, found: list[Detection]) -> list[Detection]:
        return [f for f in found if f.score is None or f.score >= self.config.threshold]

    def finish(self, row: Row, item: Picture, result: list[Detection] | TrackedFaces) -> list[Row]:
        """Return one row for each chosen face, or one row with the reason why there is none."""
        tracked = result if isinstance(result, TrackedFaces) else None
        result = result.faces if isinstance(result, TrackedFaces) else result
        height, width = item.prepared.pixels.shape[:2]
        faces = self._faces(result)
        common: Row = {
            "source_sha256": item.source_sha256,
            "source_width_px": width,
            "source_height_px": height,
            "faces_found": len(faces),
        }
        if not faces:
            best = max((f.score or 0.0 for f in result), default=None)
            reason = "no_face" if best is None else "low_score"
            return [common | {"detection_score": best} | _rejected(reason)]
        if tracked is None:
            which = "largest" if self.config.faces == "track" else self.config.faces
            chosen = choose(faces, which, width, height)
        elif tracked.followed is None:
            return [common | _rejected("face_lost")]
        else:
            chosen = [tracked.followed]
        rows = [common | self._face_row(item, face) for face in chosen]
        for number, out in enumerate(rows):
            out["key"] = face_key(row["key"], number) if len(rows) > 1 else row["key"]
            if out.get("image") is not None:
                suffix = "jpg" if self.config.format == "jpeg" else "png"
                out["image"]["path"] = f"{out['key']}.{suffix}"
        return rows

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
            return geometry.transform_from_box(face.bbox_xyxy, size, self._detector.box_frame)
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


def _rejected(reason: str) -> Row:
    return {"status": status_of(reason), "reason": reason}
