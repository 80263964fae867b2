"""What an import will do, before it does anything: whose picture is which, and what is left."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from ...manifests.keys import sample_id
from ...pipeline.errors import InputError
from ...pipeline.read.reading import damage_errors, open_parquet
from ...pipeline.stage import StageConfig, free
from ...pipeline.store.shards import ShardFolder
from ..sources.ingest_settings import IngestConfig
from .name_matching import (
    NameRule,
    Names,
    best_rule,
    by_patterns,
    by_rule,
    clash_line,
    refuse_shifted,
)
from .picture_set import PictureSet, list_pictures, listed_pairs

#: The dataset that an import reads, and the reason of a withdrawn person's rows.
ALIGNED_FACES, _WITHDRAWN = "aligned", "withdrawn"
_SHOWN = 3


class ImportConfig(StageConfig):
    """Settings of the import of a variant."""

    variant: str = free("", description="name of the output under normalized/")
    normalizer: str = free(  # its digest does
        "",
        description="what made the pictures; imports with the same text count as made by the same "
        "weights. Empty: the variant's name",
    )
    source: str = free(
        "", description="where the pictures come from, and their licence: for the dataset card"
    )
    pairs: str = free(  # its digest does
        "", description="list of originals and their pictures", path=True
    )
    original: str = Field("", description="regular expression: what of a key must be equal …")
    picture: str = Field("", description="… to what of a picture's path")
    suffixes: tuple[str, ...] = Field((), description="left out at the end of names")
    shift: int | None = Field(
        None, description="added to the number that ends an original's name; unset: none"
    )
    spelling: str = Field(
        "", description="how loosely names are compared; empty: the rule that pairs most"
    )
    depth: int = Field(0, ge=0, description="how many folders count, and the name; 0: as needed")
    endings: tuple[str, ...] = free(
        IngestConfig.model_validate({}).extensions,
        description="files with these endings are pictures",
    )
    size_px: int | None = Field(
        None, ge=16, le=4096, description="side of a picture; unset: that of most"
    )
    resize: bool = Field(False, description="resize square pictures of another size")
    format: Literal["keep", "jpeg", "png"] = Field(
        "keep",
        description="keep: plain JPEG and PNG files as they are, all else as PNG; jpeg, png",
    )
    quality: int = Field(95, ge=1, le=100, description="JPEG quality")
    min_brightness: float = Field(
        0.02, ge=0, le=1, description="below this mean (0-1) a picture is rejected as black"
    )
    min_contrast: float = Field(
        0.02, ge=0, le=1, description="below this standard deviation (0-1) it is rejected as flat"
    )
    max_saturated: float = Field(
        0.5, ge=0, le=1, description="above this share of clipped pixels it is rejected"
    )

    @property
    def made_by(self) -> str:
        """Return what made the pictures, as far as the user says."""
        return self.normalizer or self.variant


@dataclass(frozen=True)
class Original:
    """An input of the job.

    Attributes:
        key: of the input.
        face: key of the row in ``aligned`` that its picture belongs to: the largest face.
        reason: why it has no face; None if it has one.
        others: keys of its further faces.
    """

    key: str
    face: str
    reason: str | None
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImportPlan:
    """What an import will do.

    Attributes:
        config: with everything decided.
        pictures: all that there are.
        rows: key of a row in ``aligned`` → path of its picture.
        lost: keys of originals with a face and without a picture.
        spare: paths of pictures without an original.
        early: key in ``aligned`` of an original without a face, which has a picture → the reason.
        faces: keys of further faces of originals whose largest face has the picture.
        unknown: originals of a list that the job does not have.
    """

    config: ImportConfig
    pictures: PictureSet
    rows: dict[str, str]
    lost: list[str] = field(default_factory=lambda: list[str]())
    spare: list[str] = field(default_factory=lambda: list[str]())
    early: dict[str, str] = field(default_factory=lambda: dict[str, str]())
    faces: list[str] = field(default_factory=lambda: list[str]())
    unknown: list[str] = field(default_factory=lambda: list[str]())

    @property
    def usable(self) -> list[str]:
        """Return the paths of the pictures that will be read."""
        return [path for key, path in self.rows.items() if key not in self.early]

    def lines(self) -> list[str]:
        """Return what a user must know."""
        config, paired = self.config, len(self.usable)
        rule = f"by name ({config.spelling}, the last {config.depth} parts)"
        if config.pairs or config.original or config.picture:
            rule = "as listed" if config.pairs else "by the patterns"
        lines = [f"{paired} of {paired + len(self.lost)} aligned faces have a picture, {rule}"]
        shown = next((key for key in self.rows if key not in self.early), None)
        if shown is not None and not config.pairs:
            lines.append(f"such as {shown}: {sample_id(self.rows[shown])}")
        early = [f"{key} ({reason})" for key, reason in self.early.items()]
        for count, words in (
            (self.lost, "aligned faces without a picture (rejected: not_in_import)"),
            (self.spare, "pictures without an original"),
            (early, "pictures whose original has no aligned face"),
            (self.faces, "further faces of originals whose largest face has the picture"),
            (self.unknown, "listed originals that this job does not have"),
        ):
            if count:
                lines.append(f"{len(count)} {words}: {_first(count)}")
        shared = paired - len({*self.usable})
        if shared:
            lines.append(f"{shared} faces share a picture with another, as listed")
        return lines

    def table(self, name_pictures: bool) -> bytes:
        """Return all that is left over as CSV; ``name_pictures``: those without an original."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(["key", "picture", "why"])
        writer.writerows((key, "", "no picture") for key in self.lost)
        if name_pictures:
            writer.writerows(("", sample_id(path), "no original") for path in self.spare)
        writer.writerows(
            (key, sample_id(self.rows[key]), f"no aligned face: {reason}")
            for key, reason in self.early.items()
        )
        writer.writerows((key, "", "another face has the picture") for key in self.faces)
        writer.writerows((key, "", "not in this job") for key in self.unknown)
        return buffer.getvalue().encode()


def _first(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    listed = ", ".join(sample_id(name) for name in names[:_SHOWN])
    return listed + (f" and {more} more" if more > 0 else "")


def read_originals(root: Path) -> dict[str, Original]:
    """Return the inputs of a job that have rows in ``aligned``, by key without the dataset.

    Withdrawn ones are left out. Raises InputError if nothing is aligned yet.
    """
    folder = ShardFolder(root / ALIGNED_FACES)
    rows: dict[str, list[dict[str, Any]]] = {}
    for number in folder.records():
        path = folder.shard(number)
        with open_parquet(path) as file, damage_errors(path):
            table = file.read(["key", "parent_key", "status", "reason", "face_size_px"])
        for row in table.to_pylist():
            if row["reason"] != _WITHDRAWN:
                rows.setdefault(row["parent_key"], []).append(row)
    if not rows:
        raise InputError(
            f"{folder.path} has no aligned faces, which an import gives pictures to: run the job "
            "first, with normpipe run … --until align"
        )
    return {key.partition("/")[2]: _original(key, of_one) for key, of_one in rows.items()}


def _original(key: str, rows: list[dict[str, Any]]) -> Original:
    good = [row for row in rows if row["status"] == "ok"]
    if not good:
        return Original(key, rows[0]["key"], rows[0]["reason"])
    face = max(good, key=lambda row: row["face_size_px"] or 0.0)
    return Original(key, face["key"], None, tuple(r["key"] for r in good if r is not face))


def plan_import(config: ImportConfig, root: Path, folder: Path) -> ImportPlan:
    """Decide whose picture is which; reads names and keys, and opens no picture.

    Args:
        config: as given; what it leaves open is decided, but for ``size_px``.
        root: the job's folder.
        folder: of the pictures, or their archive.

    Raises:
        InputError: names that fit two files, no match at all, or a list that contradicts itself.
    """
    originals = read_originals(root)
    pictures = list_pictures(folder, config.endings)
    unknown: list[str] = []
    if config.pairs:
        listed = listed_pairs(Path(config.pairs), _by_any_name(originals), pictures)
        rows, unknown = listed.found, listed.unknown
    else:
        by_name = pictures.by_name()
        config, found = _paired(config, originals, by_name)
        rows = {originals[name].face: by_name[picture] for name, picture in found.items()}
    plan = ImportPlan(config, pictures, rows, unknown=unknown)
    used = {*rows.values()}
    plan.spare.extend(path for path in pictures.facts if path not in used)
    for one in originals.values():
        if one.reason is not None and one.face in rows:
            plan.early[one.face] = one.reason
        faces = () if one.reason is not None else (one.face, *one.others)
        left = [key for key in faces if key not in rows]
        (plan.faces if len(left) < len(faces) else plan.lost).extend(left)
    return plan


def _by_any_name(originals: dict[str, Original]) -> dict[str, str]:
    """Return every name that a list may use for a row in ``aligned`` → its key."""
    found: dict[str, str] = {}
    for name, one in originals.items():
        found |= {key: key for key in one.others}
        found |= {one.face: one.face, one.key: one.face, name: one.face}
    return found


def _paired(
    config: ImportConfig, originals: dict[str, Original], by_name: dict[str, str]
) -> tuple[ImportConfig, dict[str, str]]:
    """Return the settings with the rule that was found, and original → picture, by name."""
    shift = config.shift or 0
    if config.original or config.picture:
        patterns = (config.original, config.picture)
        found = by_patterns(originals, by_name, patterns, shift)
        if not found.found:
            raise InputError(
                "the patterns pair no picture with an original: --original is searched in names "
                f"such as {next(iter(originals))}, --picture in {next(iter(by_name))}"
            )
        return config, found.found
    ours = Names(originals, config.endings, config.suffixes, shift)
    theirs = Names(by_name, config.endings, config.suffixes)
    if config.spelling and config.depth:
        rule = NameRule(config.spelling, config.depth)
        found = by_rule(ours, theirs, rule)
        if found.clash is not None:
            raise InputError(clash_line(found.clash))
    else:
        rule, found = best_rule(ours, theirs)
    if config.shift is None:
        refuse_shifted(ours, theirs, rule)
    decided = {"spelling": rule.spelling, "depth": rule.depth}
    return config.model_copy(update=decided), found.found
