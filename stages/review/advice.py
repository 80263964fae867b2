"""What a run advises where pictures have no face, by their size, or cannot be read as they are."""

import shlex
import statistics
from pathlib import Path
from typing import Any

from ...pipeline.store.shards import ShardFolder
from ..align import AlignConfig

#: Above this share of inputs without a face, there is advice.
_MANY = 0.05
_NO_FACE = ("no_face", "low_score", "implausible_face")
# Detectors see pictures at 640 px: with a longer side above twice that, faces of 40 px are lost.
_LARGE_PX = 1280
# Photographs of whole scenes are larger; crops of faces are mostly not.
_CROP_PX = 400
#: Pictures whose sizes are read, at most, and shards in which boxes are looked for.
_ENOUGH, _SHARDS = 2000, 20


def face_advice(root: Path, config: AlignConfig) -> list[str]:
    """Return lines of advice about the faces of a job's folder; mostly none.

    Args:
        root: the job's folder.
        config: the settings of its align stage, as the job has them.
    """
    aligned = ShardFolder(root / "aligned")
    records = aligned.records()
    begun = aligned.description()
    if begun is None or aligned.cleaned_path.is_file():
        return []
    unread = {
        name: sum(one.reasons.get(f"align:{name}", 0) for one in records.values())
        for name in ("heic_not_installed", "unknown_range")
    }
    lines = [_of_unread(root, name, count) for name, count in unread.items() if count]
    if config.detector in ("none", "supplied"):
        return lines
    reasons = {
        name: sum(one.reasons.get(f"align:{name}", 0) for one in records.values())
        for name in (*_NO_FACE, "no_face_in_box")
    }
    inputs = sum(one.inputs for one in records.values())
    lost = sum(reasons[name] for name in _NO_FACE)
    if lost > _MANY * inputs:
        lines.append(f"{lost} of {inputs} inputs have no face. {_remedy(root, config, aligned)}")
    if reasons["no_face_in_box"] > _MANY * inputs:
        lines.append(
            f"{reasons['no_face_in_box']} of {inputs} inputs have no face where the list has it: "
            "boxes are left, top, right, bottom in pixels of the upright picture (EXIF applied)"
        )
    if "listed" not in begun.get("settings", {}) and _has_coordinates(root):
        lines.append(
            "the list's boxes and landmarks choose no faces here, as this dataset was begun "
            f"without that: {_again(root, 'listed=choose', 'upright=true')}"
        )
    return lines


def _of_unread(root: Path, reason: str, count: int) -> str:
    if reason == "heic_not_installed":
        again = f"normpipe run {shlex.quote(str(root))} --retry-failed"
        return f"{count} pictures are HEIC: pip install pillow-heif, and then {again}"
    return (
        f"{count} pictures do not say which value is white (unknown_range): "
        f"{_again(root, 'white=4095')} if they have 12 bits in 16, 65535 if they are that dark, 1 "
        "for floating point from 0 to 1; convert colour that has 12 bits in 16 (docs/inputs.md)"
    )


def _remedy(root: Path, config: AlignConfig, aligned: ShardFolder) -> str:
    side = _median_side(aligned)
    said = f"The longer side of these pictures is {side:.0f} px (median)"
    if side > _LARGE_PX and config.look != "close":
        return f"{said}. To look for small faces in them: {_again(root, 'look=close')}"
    if 0 < side <= _CROP_PX:
        return f"{said}. If all are aligned crops of faces: {_again(root, 'detector=none')}"
    if config.detector == "opencv":
        return (
            "An insightface pack finds more, such as faces that are not frontal: normpipe models "
            "lists packs, and docs/running.md says how to use one"
        )
    return f"To take less certain ones, too: {_again(root, 'threshold=0.3')}"


def _again(root: Path, *settings: str) -> str:
    sets = " ".join(f"--set align.{one}" for one in settings)
    return f"normpipe run {shlex.quote(str(root))} --overwrite {sets}"


def _median_side(aligned: ShardFolder) -> float:
    """Return the median of the longer sides of pictures without a face, in pixels."""
    sides: list[int] = []
    for number in aligned.records():
        table = aligned.read(number, ["reason", "source_width_px", "source_height_px"])
        for row in table.to_pylist():
            if row["reason"] in _NO_FACE and row["source_width_px"]:
                sides.append(max(row["source_width_px"], row["source_height_px"]))
        if len(sides) >= _ENOUGH:
            break
    return statistics.median(sides) if sides else 0.0


def _has_coordinates(root: Path) -> bool:
    """Return whether the job's list gives boxes or landmarks."""
    manifest = ShardFolder(root / "manifest")
    for number in list(manifest.records())[:_SHARDS]:
        columns: Any = manifest.read(number, ["bbox_xyxy", "landmarks"]).columns
        if any(column.null_count < len(column) for column in columns):
            return True
    return False
