"""The skin of real people for generated ones: photographs aligned and projected on the head.

Such sets show real people's skin: do not release them without the right to.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ...manifests.arrays import Floats, Pixels
from ...manifests.vocabularies import SampleError
from ...pipeline.errors import InputError
from ...pipeline.read.exclusions import exclusions_of, is_excluded
from ...pipeline.stage import sha256_file
from ..faces.detectors import DetectorSettings, choose
from ..faces.detectors.opencv import OpenCV
from ..faces.geometry import transform_from_landmarks, warp
from ..faces.pixels import Limits, decode
from ..networks.files.checkpoint import find_weights
from ..networks.files.normalizer_file import open_normalizer
from .scene.features import Makeup, Marks
from .scene.person import Person, generator
from .scene.picture_folder import PictureFolder
from .surface.head import Head
from .surface.likeness import Detail, Fit, TexelMap, fit_head, mouth_is_open

_ALIGNED_PX = 224
_ATTEMPTS = 24  # photographs to try until one is usable
_READER = "compact"  # the shipped weights whose encoder predicts the 68 points
_WORST_FIT = 0.075  # in inter-ocular distances
_FARTHEST_YAW_DEG = 28.0


@dataclass(frozen=True)
class Portrait:
    """A photographed face: its fit and its detail on the atlas."""

    fit: Fit
    detail: Detail
    grey: bool


class PortraitReader:
    """Aligned face → portrait."""

    def __init__(self, head: Head) -> None:
        loaded = open_normalizer(_READER)
        self.digest = loaded.digest
        self._network = loaded.module
        self._names = loaded.expression_names
        self._head = head
        self._texels: TexelMap | None = None
        self._lock = threading.Lock()

    def read(self, aligned_rgb_u8: Pixels) -> Portrait | None:
        """(S, S, 3) uint8 RGB aligned face → its portrait; None if it is not usable.

        Not usable are a mouth that shows teeth, a head turned far, or points that fit no head.
        """
        size = len(aligned_rgb_u8)
        picture = torch.tensor(aligned_rgb_u8).permute(2, 0, 1)[None]
        with torch.inference_mode():
            reading = self._network.encode(picture.float() / 255)
        points = reading.landmarks[0].numpy().reshape(68, 2)
        landmarks = (points + 1) / 2 * size
        if mouth_is_open(landmarks):
            return None
        amounts = self._amounts(reading.coefficients[0].clamp(0, 1).numpy())
        fit = fit_head(self._head, landmarks, amounts)
        if fit.error > _WORST_FIT or abs(fit.yaw_deg) > _FARTHEST_YAW_DEG:
            return None
        with self._lock:
            self._texels = self._texels or TexelMap(self._head)
        detail = self._texels.extract_detail(aligned_rgb_u8, fit, amounts)
        if detail.weight.max() < 0.5:
            return None
        spread = aligned_rgb_u8.astype(np.int16)
        grey = float(np.abs(spread - spread.mean(2, keepdims=True)).mean()) < 2.0
        return Portrait(fit, detail, grey)

    def _amounts(self, coefficients: Floats) -> Floats:
        """Return the coefficients in the order of this kit."""
        known = dict(zip(self._names, coefficients.tolist(), strict=True))
        names = self._head.kit.expression_names
        return np.array([known.get(name, 0.0) for name in names], np.float32)


class Appearance:
    """Gives a share of the generated people the skin of photographed ones."""

    def __init__(self, folder: str | Path, share: float, head: Head) -> None:
        """``folder``: photographs, or a dataset of aligned faces.

        Raises:
            InputError: it has neither.
        """
        self.share = share
        self._folder = Path(folder)
        self._picture: Callable[[int], Pixels | None]
        shards = _shards(self._folder)
        if shards:
            faces = _AlignedFaces(shards)
            self._count, self._picture, self._digest = len(faces), faces.picture, faces.digest
        else:
            photographs = PictureFolder(self._folder, "--appearance")
            aligner = _Aligner(photographs)
            self._count, self._picture = len(photographs), aligner.picture
            self._digest = photographs.digest
        self.reader = PortraitReader(head)

    def digests(self) -> dict[str, str]:
        """Return the sha256 of the pictures and of the network that reads them."""
        return {"appearance": self._digest, "appearance_reader": self.reader.digest}

    def apply(self, person: Person) -> Person:
        """Return the person, possibly with the skin of a photograph; the same for the same person.

        Raises:
            InputError: none of two dozen photographs shows a usable face.
        """
        rng = generator(21, person.seed)
        if rng.random() >= self.share:
            return person
        for number in rng.integers(0, self._count, _ATTEMPTS).tolist():
            picture = self._picture(number)
            portrait = None if picture is None else self.reader.read(picture)
            if portrait is not None:
                return with_portrait_skin(person, portrait)
        raise InputError(
            f"--appearance {self._folder}: of {_ATTEMPTS} random pictures, none is a frontal face "
            "with a closed mouth: give other photographs"
        )


def with_portrait_skin(person: Person, portrait: Portrait) -> Person:
    """Return a person with a photograph's skin instead of painted brows, beard and marks."""
    return replace(
        person,
        detail=portrait.detail.factor,
        brows=replace(person.brows, density=0.0),
        beard=replace(person.beard, style="none"),
        marks=replace(Marks(), pores=0.7 * person.marks.pores, crease=person.marks.crease),
        makeup=Makeup(liner=person.makeup.liner),
        eyes=replace(person.eyes, socket=0.4 * person.eyes.socket),
        resting_wrinkles=0.3 * person.resting_wrinkles,
    )


def read_portrait(path: Path, head: Head) -> Portrait:
    """Return the portrait of one photograph of one face.

    Raises:
        InputError: it cannot be read, or shows no usable face.
    """
    try:
        picture = align_face(decode(path.read_bytes(), Limits()))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except SampleError as error:
        raise InputError(f"{path} is not a usable picture ({error})") from error
    portrait = None if picture is None else PortraitReader(head).read(picture)
    if portrait is None:
        raise InputError(
            f"{path} shows no face that can be used: give a frontal face with a closed mouth"
        )
    return portrait


def portrait_digest(path: Path) -> str:
    """Return the sha256 of a portrait's sources: the photograph's bytes and the network."""
    parts = (sha256_file(path), sha256_file(find_weights(_READER)))
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def align_face(pixels_rgb_u8: Pixels) -> Pixels | None:
    """Align the largest face, as the align stage does with its default detector; None without one.

    (H, W, 3) uint8 RGB → (224, 224, 3) uint8 RGB.
    """
    detector = OpenCV(DetectorSettings())
    detector.open()
    try:
        found = detector.detect([detector.prepare(pixels_rgb_u8, {})])[0]
    finally:
        detector.close()
    sure = [face for face in found if (face.score or 0) >= detector.settings.threshold]
    if not sure:
        return None
    height, width = pixels_rgb_u8.shape[:2]
    landmarks = choose(sure, "largest", width, height)[0].landmarks
    if landmarks is None:
        return None
    matrix = transform_from_landmarks(landmarks, _ALIGNED_PX)
    return warp(pixels_rgb_u8, matrix, _ALIGNED_PX, "black")


class _Aligner:
    """The faces of a folder of photographs, aligned on demand."""

    def __init__(self, photographs: PictureFolder) -> None:
        self._photographs = photographs

    def picture(self, number: int) -> Pixels | None:
        return align_face(self._photographs.read(number))


class _AlignedFaces:
    """The pictures of a dataset of aligned faces, by index."""

    def __init__(self, shards: list[Path]) -> None:
        self._places: list[tuple[Path, int]] = []
        listed = hashlib.sha256()
        exclusions = exclusions_of(shards[0].parent)
        for shard in shards:
            columns = pq.read_schema(shard).names
            if not {"image", "status"} <= {*columns}:
                raise InputError(f"--appearance {shard}: no pictures: give aligned faces")
            wanted = [name for name in ("key", "parent_key", "status") if name in columns]
            table = pq.read_table(shard, columns=wanted)
            gone = is_excluded(exclusions, table)
            status = table["status"].to_pylist()
            good = [row for row, word in enumerate(status) if word == "ok" and not gone[row]]
            self._places += [(shard, row) for row in good]
            listed.update(f"{shard.name}\0{sha256_file(shard)}\n".encode())
            if gone.any():
                listed.update(repr(good).encode())
        if not self._places:
            raise InputError(f"--appearance {shards[0].parent}: it has no ok rows")
        self.digest = listed.hexdigest()
        self._group = lru_cache(maxsize=4)(self._read_group)

    def __len__(self) -> int:
        return len(self._places)

    def picture(self, number: int) -> Pixels | None:
        shard, row = self._places[number]
        for group, (first, count) in enumerate(_groups(shard)):
            if first <= row < first + count:
                data: Any = self._group(shard, group)[row - first].as_py()
                return decode(data["bytes"], Limits())
        raise InputError(f"{shard} changed while it was read: run the same command again")

    def _read_group(self, shard: Path, group: int) -> pa.ChunkedArray:
        with pq.ParquetFile(shard) as file:
            return file.read_row_group(group, columns=["image"])["image"]


@lru_cache(maxsize=256)
def _groups(shard: Path) -> list[tuple[int, int]]:
    """Return the first row and the number of rows of each row group."""
    facts = pq.read_metadata(shard)
    counts = [facts.row_group(i).num_rows for i in range(facts.num_row_groups)]
    return [(sum(counts[:i]), count) for i, count in enumerate(counts)]


def _shards(folder: Path) -> list[Path]:
    inner = folder / "aligned"
    return sorted((inner if inner.is_dir() else folder).glob("shard-*.parquet"))
