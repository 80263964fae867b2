"""What made the pictures of an export: networks, weights, detectors, and their licences."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ... import __version__
from ...pipeline.store.shards import ShardFolder
from ..checks.model_files import SHIPPED, recorded_digest, shipped_licence
from ..faces.packs import PACKS, TERMS

_UNSTATED = "not stated"


@dataclass(frozen=True)
class Maker:
    """A network or detector.

    Attributes:
        role: what it did.
        name: of the network, pack or detector.
        sha256: file → hex digest.
        licence: what it may be used for.
        non_commercial: whether its licence is for non-commercial use only.
    """

    role: str
    name: str
    sha256: dict[str, str]
    licence: str
    non_commercial: bool = False


def find_makers(
    job: Mapping[str, Any], normalized: ShardFolder, aligned: ShardFolder, licence: str
) -> list[Maker]:
    """Return what made a variant's pictures, from what its datasets record.

    Args:
        job: as saved in its folder.
        normalized: the variant.
        aligned: what it was made from; it may be missing.
        licence: given by the user for weights of their own and for imported pictures.
    """
    found = [_normalizer(normalized, licence)]
    if (made := aligned.description()) is not None:
        found.append(_detector(made, job.get("align", {})))
    return found


def _normalizer(folder: ShardFolder, licence: str) -> Maker:
    made = folder.description() or {}
    digests: dict[str, str] = made.get("digests", {})
    network = made.get("settings", {}).get("network", "")
    if made.get("stage") != "normalize":
        return Maker(
            "normalized faces", f"made by others: {folder.path.name}", {}, licence or _UNSTATED
        )
    name = _shipped_name(digests.get("weights", ""))
    if name:
        return Maker(
            "normalized faces",
            name,
            {f"{name}.safetensors": digests["weights"]},
            shipped_licence(name),
        )
    return Maker(
        "normalized faces",
        f"{network or 'a network'}, weights of the user's own",
        digests,
        licence or _UNSTATED,
    )


def _detector(made: Mapping[str, Any], settings: Mapping[str, Any]) -> Maker:
    digests: dict[str, str] = dict(made.get("digests", {}))
    name = str(made.get("settings", {}).get("detector", ""))
    if name == "insightface":
        pack = Path(str(settings.get("pack", ""))).name
        if pack not in PACKS:
            return Maker(
                "aligned faces", "insightface, a pack of the user's own", digests, TERMS, True
            )
        return Maker("aligned faces", f"insightface, {pack}", digests, PACKS[pack].licence, True)
    if name == "opencv":
        licence = f"Apache-2.0 (OpenCV); landmarks: {shipped_licence('landmarks')}"
        return Maker("aligned faces", "OpenCV's cascades", digests, licence)
    return Maker("aligned faces", f"boxes or crops of the user's own ({name})", digests, _UNSTATED)


def _shipped_name(digest: str) -> str:
    """Return the name of the shipped weights with this sha256; "" if they are the user's own."""
    cards = sorted(SHIPPED.glob("*.json"))
    return next((one.stem for one in cards if digest and recorded_digest(one) == digest), "")


def code_version() -> str:
    """Return the version of normpipe, with the commit where it is a git checkout."""
    root = Path(__file__).resolve().parents[2]
    commit = ""
    if (root / ".git").exists():
        command = ["git", "-C", str(root), "rev-parse", "--short=12", "HEAD"]
        with suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
            commit = done.stdout.strip()
    return f"{__version__}, commit {commit}" if commit else __version__
