"""insightface's model packs: known ones, those on this machine, and their recorded digests."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ...pipeline.stage import sha256_file

#: File in a pack that normpipe downloaded: its source and digests.
RECORD = "normpipe.json"
#: Where insightface looks for packs given by name, below its root.
MODELS = "models"
ROOT = "~/.insightface"
TERMS = "non-commercial research only"

State = Literal["as recorded", "not as recorded", "no digest recorded"]


@dataclass(frozen=True)
class Pack:
    """What is known about a pack.

    Attributes:
        licence: what its terms allow.
        released: whether insightface's model zoo has it under this name.
        digests: sha256 by file name, computed by us from the files, never copied.
    """

    licence: str = TERMS
    released: bool = True
    digests: dict[str, str] = field(default_factory=lambda: dict[str, str]())


#: The released ones have no digests here: we never had the files. The first download records its
#: digests; a job may pin them (align.pack_sha256).
PACKS: dict[str, Pack] = {
    "buffalo_l": Pack(),
    "buffalo_m": Pack(),
    "buffalo_s": Pack(),
    "buffalo_sc": Pack(),
    "antelopev2": Pack(),
    # The pack of our tests (NORMPIPE_TEST_ASSETS).
    "mini": Pack(
        released=False,
        digests={
            "det_500m_kps.onnx": "517cb1980c72422e676738fc45431700fb7cbee56d0f825b623ee427b3e5ce58",
            "rec_mobilefacenet_128d.onnx": (
                "0a08a264481d7c1b9fc90e9a6719207bff586a3ed21d1c7c156594a26388799e"
            ),
        },
    ),
}


@dataclass(frozen=True)
class PackFile:
    """One network of a pack on this machine."""

    pack: str
    name: str
    sha256: str
    state: State


def packs_folder(model_root: str = ROOT) -> Path:
    """Return the folder that holds packs by name."""
    return Path(model_root).expanduser() / MODELS


def pack_files(folder: Path) -> list[PackFile]:
    """Return the networks of all packs in a folder, by pack and name; none if it does not exist.

    Digests in ``PACKS`` take precedence over those that the download recorded.
    """
    found: list[PackFile] = []
    for path in sorted(folder.glob("*/*.onnx")):
        if path.parent.name.startswith("."):  # half unpacked
            continue
        known = PACKS.get(path.parent.name, Pack()).digests
        recorded = {**_downloaded(path.parent), **known}.get(path.name)
        digest = sha256_file(path)
        state: State = "no digest recorded"
        if recorded:
            state = "as recorded" if digest == recorded else "not as recorded"
        found.append(PackFile(path.parent.name, path.name, digest, state))
    return found


def _downloaded(directory: Path) -> dict[str, str]:
    try:
        record: Any = json.loads((directory / RECORD).read_bytes())
        return {str(name): str(digest) for name, digest in record["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
