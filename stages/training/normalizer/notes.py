"""What weights say about the face they draw."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from ..pictures import PairCache
from .report import write_sheet


def target_notes(pairs: PairCache, output: Path) -> dict[str, Any]:
    """Return which target face the pairs show, and write it to ``target.png``.

    ``kind`` and what else the shards say of it; ``sha256`` of the resting face, as the shards say
    it or else of the picture written here (its RGB values, row by row).
    """
    note = dict(pairs.target_note)
    if len(pairs.target_of):
        resting = pairs.resting()
        write_sheet(resting, str(output / "target.png"))
        note.setdefault("sha256", hashlib.sha256(resting.tobytes()).hexdigest())
    return note
