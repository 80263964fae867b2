"""A folder of the user's pictures, listed once and decoded on demand."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from pathlib import Path
from threading import Lock

import cv2
import numpy as np

from ....manifests.arrays import Pixels
from ....manifests.vocabularies import SampleError
from ....pipeline.errors import InputError
from ....pipeline.stage import sha256_file
from ...faces.pixels import Limits, decode

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
_LARGEST_PX = 640  # cached pictures are shrunk to this longest side
_KEPT = 48


class PictureFolder:
    """The pictures below a folder, in the order of their paths.

    Attributes:
        files: their paths.
        digest: sha256 of the list of relative paths and of every file's bytes.
    """

    def __init__(self, folder: str | Path, option: str) -> None:
        """``option``: the command-line option that names the folder, for messages.

        Raises:
            InputError: no such folder, or no pictures in it.
        """
        root = Path(folder)
        if not root.is_dir():
            raise InputError(f"{option} {root}: no such folder of pictures")
        self._option = option
        self.files = tuple(sorted(f for f in root.rglob("*") if f.suffix.lower() in EXTENSIONS))
        if not self.files:
            raise InputError(f"{option} {root}: no pictures ({', '.join(sorted(EXTENSIONS))})")
        listed = hashlib.sha256()
        for file in self.files:
            try:
                content = sha256_file(file)
            except OSError as error:
                raise InputError(f"{option}: cannot read {file}: {error.strerror}") from error
            listed.update(f"{file.relative_to(root).as_posix()}\0{content}\n".encode())
        self.digest = listed.hexdigest()
        self._lock = Lock()
        self._kept: OrderedDict[int, Pixels] = OrderedDict()

    def __len__(self) -> int:
        return len(self.files)

    def read(self, number: int) -> Pixels:
        """Return a picture, (H, W, 3) uint8 RGB. Raises InputError if it cannot be read."""
        file = self.files[number]
        try:
            return decode(file.read_bytes(), Limits())
        except OSError as error:
            raise InputError(f"{self._option}: cannot read {file}: {error.strerror}") from error
        except SampleError as error:
            raise InputError(
                f"{self._option}: {file} is not a usable picture ({error}): remove it"
            ) from error

    def read_small(self, number: int) -> Pixels:
        """Return a picture, (H, W, 3) uint8 RGB, shrunk to at most 640 pixels a side; cached."""
        with self._lock:
            if number in self._kept:
                self._kept.move_to_end(number)
                return self._kept[number]
        picture = self.read(number)
        longest = max(picture.shape[:2])
        if longest > _LARGEST_PX:
            scale = _LARGEST_PX / longest
            picture = np.asarray(
                cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA),
                np.uint8,
            )
        with self._lock:
            self._kept[number] = picture
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return picture
