"""The skin of real people for drawn ones: photographs read, aligned and laid on the head.

Sets drawn with it show real people's skin. Whoever lacks the right to show it must not release
them.
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
from ...pipeline.stage import sha256_file
from ..faces.detectors import DetectorSettings, choose
from ..faces.detectors.opencv import OpenCV
from ..faces.geometry import transform_from_landmarks, warp
from ..faces.pixels import Limits, decode
from ..networks.files.checkpoint import find_weights
from ..networks.files.normalizer_file import open_normalizer
from .scene.features import Makeup, Marks
from .scene.person import Person, generator
from .scene.picture_folder import Photographs
from .surface.head import Head
from .surface.likeness import Detail, Fit, Unwrapped, fit_head, mouth_is_open

_ALIGNED_PX = 224
_TRIES = 24  # photographs looked at until one is usable
_READER = "compact"  # the shipped weights whose encoder finds the 68 points
_WORST_FIT = 0.075  # in inter-ocular distances
_FARTHEST_YAW_DEG = 28.0


@dataclass(frozen=True)
class Portrait:
    """A photographed face, understood: its fit and its detail on the atlas."""

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
        self._unwrapped: Unwrapped | None = None
        self._lock = threading.Lock()

    def read(self, aligned_rgb_u8: Pixels) -> Portrait | None:
        """(S, S, 3) aligned face; None where nothing can be laid on a head.

        That is a mouth that shows teeth, a head turned far, or points that fit no head.
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
            self._unwrapped = self._unwrapped or Unwrapped(self._head)
        detail = self._unwrapped.detail(aligned_rgb_u8, fit, amounts)
        if detail.weight.max() < 0.5:
            return None
        spread = aligned_rgb_u8.astype(np.int16)
        grey = float(np.abs(spread - spread.mean(2, keepdims=True)).mean()) < 2.0
        return Portrait(fit, detail, grey)

    def _amounts(self, coefficients: Floats) -> Floats:
        """Coefficients as read, in the order of this kit."""
        read = dict(zip(self._names, coefficients.tolist(), strict=True))
        names = self._head.kit.expression_names
        return np.array([read.get(name, 0.0) for name in names], np.float32)


class Appearance:
    """Dresses a share of the drawn people in the skin of photographed ones."""

    def __init__(self, folder: str | Path, share: float, head: Head) -> None:
        """``folder``: photographs, or a dataset of aligned faces.

        Raises:
            InputError: neither is there.
        """
        self.share = share
        self._folder = Path(folder)
        self._picture: Callable[[int], Pixels | None]
        shards = _shards(self._folder)
        if shards:
            faces = _AlignedFaces(shards)
            self._count, self._picture, self._digest = len(faces), faces.picture, faces.digest
        else:
            photographs = Photographs(self._folder, "--appearance")
            aligner = _Aligner(photographs)
            self._count, self._picture = len(photographs), aligner.picture
            self._digest = photographs.digest
        self.reader = PortraitReader(head)

    def digests(self) -> dict[str, str]:
        """Return the sha256 of the pictures and of the network that reads them."""
        return {"appearance": self._digest, "appearance_reader": self.reader.digest}

    def dress(self, person: Person) -> Person:
        """The person as they are, or in the skin of a photograph; follows from who they are.

        Raises:
            InputError: none of two dozen photographs shows a face that can be used.
        """
        rng = generator(21, person.seed)
        if rng.random() >= self.share:
            return person
        for number in rng.integers(0, self._count, _TRIES).tolist():
            picture = self._picture(number)
            portrait = None if picture is None else self.reader.read(picture)
            if portrait is not None:
                return dressed(person, portrait)
        raise InputError(
            f"--appearance {self._folder}: {_TRIES} pictures drawn, none of them a frontal face "
            "with a closed mouth: give other photographs"
        )


def dressed(person: Person, portrait: Portrait) -> Person:
    """A person with a photograph's skin in place of drawn brows, beard and marks."""
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
    """The portrait of one photograph of one face.

    Raises:
        InputError: it cannot be read, shows no face, or no face that can be used.
    """
    try:
        picture = align_face(decode(path.read_bytes(), Limits()))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except SampleError as error:
        raise InputError(f"{path} is no picture that can be used ({error})") from error
    portrait = None if picture is None else PortraitReader(head).read(picture)
    if portrait is None:
        raise InputError(
            f"{path} shows no face that can be used: give a frontal face with a closed mouth"
        )
    return portrait


def portrait_digest(path: Path) -> str:
    """Sha256 of what a portrait is made of: a photograph's bytes, the network that reads it."""
    parts = (sha256_file(path), sha256_file(find_weights(_READER)))
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def align_face(pixels_rgb_u8: Pixels) -> Pixels | None:
    """The largest face, aligned as the align stage does with its own detector; None without one.

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
    """Faces of photographs, aligned when they are asked for."""

    def __init__(self, photographs: Photographs) -> None:
        self._photographs = photographs

    def picture(self, number: int) -> Pixels | None:
        return align_face(self._photographs.whole(number))


class _AlignedFaces:
    """The pictures of a dataset of aligned faces, by number."""

    def __init__(self, shards: list[Path]) -> None:
        self._places: list[tuple[Path, int]] = []
        listed = hashlib.sha256()
        for shard in shards:
            columns = pq.read_schema(shard).names
            if not {"image", "status"} <= {*columns}:
                raise InputError(f"--appearance {shard}: no pictures: give aligned faces")
            status = pq.read_table(shard, columns=["status"])["status"].to_pylist()
            self._places += [(shard, row) for row, word in enumerate(status) if word == "ok"]
            listed.update(f"{shard.name}\0{sha256_file(shard)}\n".encode())
        if not self._places:
            raise InputError(f"--appearance {shards[0].parent}: no face is ok in it")
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
    """First row and number of rows of each row group."""
    facts = pq.read_metadata(shard)
    counts = [facts.row_group(i).num_rows for i in range(facts.num_row_groups)]
    return [(sum(counts[:i]), count) for i, count in enumerate(counts)]


def _shards(folder: Path) -> list[Path]:
    inner = folder / "aligned"
    return sorted((inner if inner.is_dir() else folder).glob("shard-*.parquet"))
