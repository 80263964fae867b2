"""Checks the weights that ship with the package, and the packs on this machine."""

import json
import sys
from pathlib import Path

from ...pipeline.stage import sha256_file
from ..faces.packs import pack_files, packs_folder
from .finding import Finding, no, warn, yes

#: Not taken from ``networks.files.checkpoint``, which imports torch; this check needs none.
SHIPPED = Path(__file__).parent.parent / "networks" / "weights"

#: Licences of the weights that ship; the model cards (docs/models) say what they learnt from.
_LICENCE = "Apache-2.0, trained on renders of ICT-FaceKit Light (MIT)"
_LICENCES = {
    "compact": f"{_LICENCE} and on photographs of FER2013 with the votes of FER+ (MIT)",
}


def shipped_licence(name: str) -> str:
    """Return the licence of weights that ship with the package."""
    return _LICENCES.get(name, _LICENCE)


def recorded_digest(card: Path) -> str:
    """Return the sha256 that the card (.json) of shipped weights records; empty: none."""
    try:
        return str(json.loads(card.read_text(encoding="utf-8")).get("sha256", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def check_weights(folder: Path = SHIPPED) -> list[Finding]:
    """Compare the digests of all shipped weights with the recorded ones."""
    remedy = f"install normpipe again ({sys.executable} -m pip install --force-reinstall .)"
    findings: list[Finding] = []
    for card in sorted(folder.glob("*.json")):
        weights, recorded = card.with_suffix(".safetensors"), recorded_digest(card)
        if not weights.is_file():
            findings.append(no("weights", f"{weights.name} is not there", remedy))
        elif (digest := sha256_file(weights)) != recorded:
            found = f"{weights.name} has sha256 {digest}, recorded is {recorded or 'none'}"
            findings.append(no("weights", found, remedy))
        else:
            findings.append(yes("weights", f"{weights.name} as recorded, sha256 {digest}"))
    return findings or [no("weights", f"none in {folder}", remedy)]


def check_packs(folder: Path | None = None) -> list[Finding]:
    """List the insightface packs on this machine; the default detector needs none.

    Args:
        folder: holds packs by name; None: where insightface downloads packs to.
    """
    folder = folder or packs_folder()
    findings: list[Finding] = []
    for file in pack_files(folder):
        found = f"{file.pack}/{file.name}, {file.state}, sha256 {file.sha256}"
        remedy = f"the file has changed: remove {folder / file.pack} and download the pack again"
        changed = file.state == "not as recorded"
        findings.append(warn("pack", found, remedy) if changed else yes("pack", found))
    none = yes("pack", f"none in {folder} (only align.detector=insightface needs one)")
    return findings or [none]
