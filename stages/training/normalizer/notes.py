"""The note in a weights file about the target face."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from ..pictures import PairCache
from .report import write_sheet


def target_notes(pairs: PairCache, output: Path) -> dict[str, Any]:
    """Return the note on the target face of the pairs, and write the face to ``target.png``.

    ``kind`` and all else that the shards record; ``sha256`` of the resting face, as recorded or
    else of the picture written here (its RGB values, row by row).
    """
    note = dict(pairs.target_note)
    if len(pairs.target_of):
        resting = pairs.resting()
        write_sheet(resting, str(output / "target.png"))
        note.setdefault("sha256", hashlib.sha256(resting.tobytes()).hexdigest())
    return note
