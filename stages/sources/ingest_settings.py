"""Settings of the ingest stage."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from ...pipeline.stage import StageConfig, free

_EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff"),
    *(".gif", ".avif", ".jp2", ".ppm", ".pgm", ".pbm", ".heic", ".heif"),
)


class IngestConfig(StageConfig):
    """Settings of the ingest stage.

    Only ``shard_rows`` shapes the manifest for good. The rest decides which rows there are, and
    those are compared with the manifest at every run; labels are rewritten every time.
    """

    shard_rows: int = Field(1024, ge=1, description="inputs per shard, in every stage of the job")
    limit: int | None = free(None, description="take only the first N inputs", per_run=True, ge=1)
    extensions: tuple[str, ...] = free(
        _EXTENSIONS, description="files with these endings are images"
    )
    follow_symlinks: bool = free(False, description="follow links to folders within the input")
    allow_urls: bool = free(
        False,
        description="fetch the http and https addresses of a list (--allow-urls); else they fail",
    )
    class_per_folder: bool = free(
        False, description="each image's folder is named after its emotion"
    )
    root: Path | None = free(
        None,
        description="folder or archive that a list's paths are relative to; unset: the list's own "
        "folder",
        path=True,
        relative_to_job_file=True,
    )
    path_column: str = free(
        "path", description="column of the list with the paths, or of Parquet files with pictures"
    )
    columns: dict[str, str] = free(
        {}, description="normpipe's name = the list's, for columns with other names"
    )
    au_columns: Literal["occurrence", "intensity"] = free(
        "occurrence", description="what a column named AU12 holds: 0 or 1, or levels 0 to 5"
    )
    au_missing: float | None = free(
        None, description="the number that means an unknown action unit (BP4D: 9)"
    )
    valence_arousal_missing: float | None = free(
        None, description="the number that means unknown valence or arousal (AffectNet: -2)"
    )
    emotion_names: tuple[str, ...] = free(
        (), description="names for emotions given as numbers, starting at 0; '' for no name"
    )

    @field_validator("extensions")
    @classmethod
    def _with_dot(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        return tuple("." + value.lower().lstrip(".") for value in values)
