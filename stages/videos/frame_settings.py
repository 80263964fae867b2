"""Settings of ingest about files and frames. Imports no decoder: every command reads them."""

from typing import Final, Self

from pydantic import field_validator, model_validator

from ...pipeline.stage import StageConfig, free

#: File name endings of pictures.
PICTURE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff"),
    *(".gif", ".avif", ".jp2", ".ppm", ".pgm", ".pbm", ".heic", ".heif"),
)
#: File name endings of videos.
VIDEO_SUFFIXES: Final = frozenset(
    {".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".wmv", ".mpg", ".mpeg", ".flv", ".3gp"}
    | {".mts", ".m2ts", ".ogv"}
)


class FrameSettings(StageConfig):
    """Settings of the ingest stage: which files, and which frames of videos, are inputs."""

    extensions: tuple[str, ...] = free(
        PICTURE_SUFFIXES, description="files with these endings are images"
    )
    videos: bool = free(True, description="take the frames of videos; false: skip and count videos")
    animations: bool = free(
        False, description="take the frames of animated GIF, PNG and WebP files, as of videos"
    )
    every: int = free(1, ge=1, description="take every Nth frame of a video (--every)")
    fps: float | None = free(
        None, gt=0, description="take at most so many frames of each second of a video (--fps)"
    )
    seconds: tuple[float, float] | None = free(
        None, description="take the frames of a video from … to …, in seconds from its beginning"
    )
    first_frame: int = free(
        0, ge=0, le=1, description="what a list calls the first frame of a video: 0 or 1"
    )
    max_frames: int = free(
        1_000_000, ge=1, le=8_000_000, description="videos with more frames are not read"
    )

    @field_validator("extensions")
    @classmethod
    def _with_dot(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        return tuple("." + value.lower().lstrip(".") for value in values)

    def file_endings(self) -> frozenset[str]:
        """Return the endings of the files that are inputs."""
        return frozenset(self.extensions) | (VIDEO_SUFFIXES if self.videos else frozenset())

    @model_validator(mode="after")
    def _one_rate(self) -> Self:
        if self.fps is not None and self.every > 1:
            raise ValueError("ingest.fps and ingest.every both choose frames: leave one out")
        if self.seconds is not None and not 0 <= self.seconds[0] <= self.seconds[1]:
            raise ValueError("ingest.seconds = [from, to]: two numbers from 0, the second not less")
        return self
