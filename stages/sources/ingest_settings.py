"""Settings of ingest: what is an input, what its labels mean, and which release it is."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from ...manifests.vocabularies import UNKNOWN_WORDS
from ...pipeline.stage import DIGEST, free
from ..videos.frame_settings import FrameSettings
from .lists.emotion_columns import EmotionColumns
from .lists.near_files import NameDifference
from .lists.values import missing_numbers, words_of
from .releases.opening_description import open_description


class IngestConfig(FrameSettings):
    """Settings of the ingest stage.

    Only ``shard_rows`` shapes the manifest for good. The rest decides which rows there are, and
    those are compared with the manifest at every run; labels are rewritten every time.
    """

    shard_rows: int = Field(1024, ge=1, description="inputs per shard, in every stage of the job")
    limit: int | None = free(None, description="take only the first N inputs", per_run=True, ge=1)
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
    au_missing: float | tuple[float, ...] | None = free(
        None, description="numbers that mean an unknown action unit (BP4D: 9): one, or a list"
    )
    valence_arousal_missing: float | tuple[float, ...] | None = free(
        None, description="numbers that mean unknown valence or arousal (AffectNet: -2)"
    )
    emotion_names: tuple[str, ...] = free(
        (), description="names for emotions given as numbers, starting at 0; '' for no name"
    )
    emotion_missing: tuple[str, ...] = free(
        (), description="numbers and names that mean an unknown emotion, such as -1 and none"
    )
    emotion_columns: EmotionColumns = free(
        "auto",
        description="what columns named after emotions hold: votes, one_hot (a single 1) or labels "
        "of their own; auto: by their cells, where no column gives the emotion",
    )
    unknown_words: tuple[str, ...] = free(
        UNKNOWN_WORDS, description="cells of text that mean unknown, ignoring case"
    )
    match_names: tuple[NameDifference, ...] = free(
        (),
        description="find listed files whose name differs by: folders (leading ones), aligned "
        "(_aligned before the ending), ending, case, unicode (normal form), zeros (before numbers)",
    )
    release: str = free(
        "", description="the input is a known release, such as raf_db (--release); see releases"
    )
    release_file: Path | None = free(
        None,
        description="description of a release of your own (--release my.toml)",
        path=True,
        relative_to_job_file=True,
    )
    release_sha256: str = free(
        "", pattern=DIGEST, description="sha256 of release_file; kept by normpipe run"
    )
    layout: str = free(
        "", description="which layout of the release (original for RAF-DB); '': the first that fits"
    )
    labelled_only: bool = free(
        False, description="leave out pictures of a release that no label names"
    )

    @field_validator("au_missing", "valence_arousal_missing", mode="before")
    @classmethod
    def _as_numbers(cls, value: Any) -> float | tuple[float, ...] | None:
        return missing_numbers(value)

    @field_validator("emotion_missing", "unknown_words", "match_names", mode="before")
    @classmethod
    def _as_words(cls, value: Any) -> tuple[str, ...]:
        return words_of(value)

    def dataset_name(self) -> str:
        """Return the name of the release; "" without one. Raises InputError if it is unknown."""
        if not self.release and self.release_file is None:
            return ""
        return open_description(self.release, self.release_file).name
