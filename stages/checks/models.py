"""The weights that come with the package, and the packs that lie on this machine."""

import json
import sys
from pathlib import Path

from ...pipeline.stage import sha256_file
from .finding import Finding, no, yes

#: Not by way of ``networks.checkpoint``, which imports torch: weights are looked at without it.
SHIPPED = Path(__file__).parent.parent / "networks" / "weights"
#: Where insightface puts the packs that it downloads.
PACKS = Path("~/.insightface/models")


def recorded_digest(card: Path) -> str:
    """Return the sha256 that the card (.json) of shipped weights records; empty: none."""
    try:
        return str(json.loads(card.read_text(encoding="utf-8")).get("sha256", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def check_weights(folder: Path = SHIPPED) -> list[Finding]:
    """Say of all shipped weights whether they are the recorded ones."""
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


def check_packs(folder: Path = PACKS) -> list[Finding]:
    """Say which insightface packs lie here; none is needed with the default detector."""
    files = sorted(folder.expanduser().glob("*/*.onnx"))
    if not files:
        return [yes("pack", f"none in {folder} (only align.detector=insightface needs one)")]
    return [
        yes("pack", f"{path.parent.name}/{path.name}, sha256 {sha256_file(path)}") for path in files
    ]
