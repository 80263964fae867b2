"""Keys: ``dataset/sample_id[#frameN][#faceN]``, readable and stable when the root moves."""

import os
import re
from dataclasses import dataclass
from typing import Any

from natsort import natsort_keygen

_TAIL = re.compile(r"^(?P<base>.*?)(?:#frame(?P<frame>\d+))?(?:#face(?P<face>\d+))?$", re.DOTALL)

#: Sort key for natural order: ``frame2`` before ``frame10``.
natural_order: Any = natsort_keygen()


@dataclass(frozen=True)
class Key:
    """The parts of a key. ``sample_id`` is the path below the root, escaped."""

    dataset: str
    sample_id: str
    frame: int | None = None
    face: int | None = None

    def __str__(self) -> str:
        frame = "" if self.frame is None else f"#frame{self.frame}"
        face = "" if self.face is None else f"#face{self.face}"
        return f"{self.dataset}/{self.sample_id}{frame}{face}"


def parse_key(text: str) -> Key:
    """Parse a key; the inverse of ``str(Key)``. Raises ValueError if it is not a key."""
    dataset, slash, rest = text.partition("/")
    match = _TAIL.match(rest)
    if not slash or not dataset or match is None or not match["base"] or "#" in match["base"]:
        raise ValueError(f"{text!r} is not a key: expected dataset/sample_id[#frameN][#faceN]")
    frame, face = match["frame"], match["face"]
    return Key(
        dataset,
        match["base"],
        None if frame is None else int(frame),
        None if face is None else int(face),
    )


def face_key(parent_key: str, face: int) -> str:
    """Return the key of one of several faces in the image ``parent_key``."""
    return f"{parent_key}#face{face}"


def pair_key(key: str, variant: str) -> str:
    """Return the key of a pair if a face has pairs with several normalized variants."""
    return f"{key}@{variant}"


def belongs_to(key: str, parent: str) -> bool:
    """Return whether a key is the parent's own, or that of a frame or a face in it."""
    return key == parent or key.startswith(f"{parent}#")


def sample_id(path: str) -> str:
    """Escape a relative path for use in a key.

    ``#`` and ``%`` are percent-encoded, because ``#`` ends a sample's name; so are control
    characters and the bytes of a file name that is not UTF-8 (Python's surrogate escapes).
    """
    pieces: list[str] = []
    for char in path.replace(os.sep, "/"):
        code = ord(char)
        if 0xDC80 <= code <= 0xDCFF:
            pieces.append(f"%{code - 0xDC00:02X}")
        elif char in "#%" or code < 0x20 or 0xD800 <= code <= 0xDFFF:
            pieces.append("".join(f"%{b:02X}" for b in char.encode("utf-8", "surrogatepass")))
        else:
            pieces.append(char)
    return "".join(pieces)
