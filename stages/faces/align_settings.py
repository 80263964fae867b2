"""Settings of the align stage. Imports no detector: every command reads them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from ...pipeline.stage import DIGEST, StageConfig, added, free
from ..videos.frame_process import Decoding
from .decoder import PILLOW_MAX_PIXELS, Limits
from .isolation import ProcessLimits

_DAY_S = 86_400.0


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
    canvases: tuple[Annotated[float, Field(ge=1, le=16)], ...] = Field(
        (2.0, 1.0, 3.0),
        min_length=1,
        description="insightface: paddings to try in turn; 2 shows the picture at half the canvas",
    )
    faces: Literal["largest", "centre", "all", "track"] = Field(
        "largest",
        description="which of several faces: largest, centre (nearest to it), all, or track: in a "
        "video the same from frame to frame, elsewhere the largest",
    )
    listed: Literal["choose", "ignore"] | None = added(
        None,
        description="choose: a list's box or landmarks choose the face (opencv, insightface); "
        "ignore; unset: choose, unless the shards were begun without",
    )
    upright: bool | None = added(
        None,
        description="faces that make no sense are looked for in the turned picture, then rejected "
        "(opencv, insightface); unset: true, unless the shards were begun without",
    )
    look: Literal["whole", "close"] = added(
        "whole",
        description="close: where no face is found, look at parts of large pictures (opencv, "
        "insightface); with faces=all, always",
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
    max_bytes: int = Field(64 * 2**20, ge=1, le=2**32, description="larger files are not read")
    white: float | None = added(
        None,
        gt=0,
        le=1e9,
        description="value of white where a picture does not say it: 4095 for 12 bits stored in "
        "16, 65535 for dark 16-bit pictures, 1 for floating point",
    )
    fetch_seconds: float = free(
        30.0,
        gt=0,
        le=_DAY_S,
        description="ingest.allow_urls: time limit for one address",
    )
    memory_gb: float = free(
        4.0,
        gt=0,
        le=1e6,
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
        le=_DAY_S,
        description="isolate: time limit for decoding a file; it fails after two timeouts",
    )
    decode_memory_mb: int = free(
        2048,
        ge=64,
        le=2**20,
        description="isolate: memory of a decoding process, one for each of run.threads",
    )
    batch_size: int = Field(
        16, ge=1, description="images passed to the detector at once; they do not affect each other"
    )

    def decoding(self) -> Decoding:
        """Return how files from strangers are decoded."""
        bounds = ProcessLimits(self.decode_seconds, self.decode_memory_mb * 2**20)
        return Decoding(Limits(self.max_pixels, self.max_bytes, self.white), bounds, self.isolate)

    @model_validator(mode="after")
    def _pin_of_a_pack(self) -> Self:
        if self.pack_sha256 and self.detector != "insightface":
            raise ValueError("align.pack_sha256 pins a pack: set align.detector=insightface")
        return self

    @model_validator(mode="after")
    def _look_of_a_detector(self) -> Self:
        if self.look == "close" and self.detector in ("supplied", "none"):
            raise ValueError(
                f"align.detector={self.detector} does not look for faces: leave align.look out, or "
                "set align.detector to opencv or insightface"
            )
        return self

    def for_shards(self, begun: dict[str, Any] | None) -> Self:
        """Return the settings with ``listed`` and ``upright`` decided.

        Args:
            begun: what the dataset says of itself (``stage.json``), None for a new one. One of
                release 0.1.0 goes on without them.
        """
        made = None if begun is None else begun.get("settings", {})
        defaults = {"listed": "choose", "upright": True}
        unset = {name: value for name, value in defaults.items() if getattr(self, name) is None}
        return self.model_copy(
            update={n: value for n, value in unset.items() if made is None or n in made}
        )
