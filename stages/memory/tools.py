"""Aligner, normalizer and its encoder in memory; the same pixels as the job's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...manifests.arrays import Floats, Pixels
from ...manifests.vocabularies import REASONS
from ...pipeline.config import validate_settings
from ...pipeline.errors import FaceError, InputError
from ...pipeline.stage import Row
from ..align import Align, AlignConfig
from ..faces.decoder import Limits
from ..faces.pixels import decode
from ..normalize import Normalize, NormalizeConfig
from ..review.face_reader import FaceReadings, open_face_reader
from .given import (
    Given,
    Picture,
    Pictures,
    as_given,
    by_batches,
    given_pictures,
    pixels_of,
    torch_threads,
)

_BATCH = 32


class Aligner:
    """Finds the faces of photographs and crops them, as the job's ``align`` stage does.

    Args:
        detector: ``opencv``, ``insightface`` (with ``pack=``), or ``none`` for faces that are
            aligned already.
        threads: pictures of a batch that are looked at in parallel.
        settings: any other setting of the table ``[align]``: ``size_px``, ``threshold``, ``pack`` …

    Raises:
        InputError: an unknown setting, or a missing pack.
    """

    def __init__(self, detector: str = "opencv", *, threads: int = 1, **settings: Any) -> None:
        values = {"detector": detector, **settings, "format": "png", "isolate": False}
        config = validate_settings(AlignConfig, values, "align").for_shards(None)
        self._threads = threads
        self._stage = Align(config, Path(), threads)
        with torch_threads(1):
            self._stage.open()

    def __call__(self, pictures: Pictures, *, all: bool = False) -> Any:
        """Return the aligned face of each picture.

        Args:
            pictures: one or several: (H, W, 3) uint8 RGB, a PIL image, a uint8 tensor (3, H, W), a
                file; or a sequence of these, of any sizes.
            all: return all faces of each picture, from left to right, as a list that may be empty.

        Returns:
            (S, S, 3) uint8 RGB; a list of these for several pictures; tensors (3, S, S) for
            tensors. The same pixels as the job's before it encodes them.

        Raises:
            FaceError: a picture without a face (unless ``all``), or not a picture; ``reason`` says
                why, as a row of the job would.
            InputError: something that is not a picture.
        """
        given = given_pictures(pictures)
        found = [self._faces(rows, all) for rows in self._rows(given.pixels, all)]
        shown = [[as_given(face, given.tensors) for face in faces] for faces in found]
        each: list[Any] = shown if all else [faces[0] for faces in shown]
        return each[0] if given.single else each

    def stream(self, pictures: Iterable[Picture]) -> Iterator[list[Pixels]]:
        """Yield a list with the face, (S, S, 3) uint8 RGB, of each of any number of pictures.

        A picture that is none, or has no face, gives an empty list. Holds one batch at a time.
        """
        for batch in by_batches(pictures, self._stage.batch_size):
            sound: dict[int, Pixels] = {}
            for place, one in enumerate(batch):
                with suppress(FaceError):
                    sound[place] = pixels_of(one)
            rows = dict(zip(sound, self._rows([*sound.values()], False), strict=True))
            yield from (_crops(rows.get(place, [])) for place in range(len(batch)))

    def _rows(self, pixels: list[Pixels], every: bool) -> list[list[Row]]:
        stage = self._stage
        if every and stage.config.faces != "all":
            stage = self._every = self._every or self._of_all_faces()
        with torch_threads(1):
            return [rows for b in by_batches(pixels, stage.batch_size) for rows in stage.rows_of(b)]

    _every: Align | None = None

    def _of_all_faces(self) -> Align:
        config = self._stage.config.model_copy(update={"faces": "all"})
        stage = Align(config, Path(), self._threads)
        stage.open()
        return stage

    def _faces(self, rows: list[Row], every: bool) -> list[Pixels]:
        found = _crops(rows)
        if not found and not every:
            raise FaceError(rows[0]["reason"], REASONS[rows[0]["reason"]][1])
        return found


class Normalizer:
    """Shows the expression of aligned faces on one face.

    A network of the job's ``normalize`` stage. The same batch size, device and precision give the
    same pixels as the job.

    Args:
        weights: a shipped name (``compact``, ``compact-0.1.0``), a file that ``normpipe
            fit-normalizer`` wrote (``.safetensors``), or an ``.onnx`` file.
        device: ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:N``.
        precision: ``fp32`` or ``bf16``.
        batch_size: faces that the network gets at once. Fewer are padded to it, so that results do
            not depend on their number; 1 answers single faces sooner.
        threads: of torch on a CPU. Sums may depend on it in the last bit; the job uses 1.
        settings: any other setting of the table ``[normalize]``: ``network`` (of another installed
            package; ``weights=""`` if it has no file), ``input_range`` …

    Raises:
        InputError: unknown or damaged weights, or a missing device.
    """

    def __init__(
        self,
        weights: str | Path = "compact",
        *,
        device: str = "auto",
        precision: Literal["fp32", "bf16"] = "fp32",
        batch_size: int = _BATCH,
        threads: int = 1,
        **settings: Any,
    ) -> None:
        values = {
            "network": "",
            "weights": str(weights),
            "variant": "memory",
            "device": device,
            "precision": precision,
            "batch_size": batch_size,
            **settings,
        }
        config = validate_settings(NormalizeConfig, values, "normalize")
        self._threads = threads
        self._stage = Normalize(config, threads if config.is_onnx else None)
        with torch_threads(threads):
            self._stage.open()

    @property
    def weights_sha256(self) -> str:
        """The sha256 of the weights, as in the column ``weights_sha256`` of a dataset."""
        return self._stage.digests()["weights"]

    @property
    def device(self) -> str:
        """What it computes on: ``cpu`` or ``cuda``."""
        return self._stage.device_class

    def __call__(self, faces: Pictures) -> Any:
        """Return the normalized face of each aligned face.

        Args:
            faces: one or several, all of one size, as :class:`Aligner` makes them: (H, W, 3) uint8
                RGB, a PIL image, a uint8 tensor (3, H, W), a file; or a sequence of these.

        Returns:
            (S, S, 3) uint8 RGB, or (N, S, S, 3) for several; tensors (3, S, S) for tensors.

        Raises:
            InputError: something that is not a face, or faces of different sizes.
            FaceError: the network gave no finite picture.
        """
        given = given_pictures(faces)
        _require_one_size(given.pixels)
        found = [
            face for batch in by_batches(given.pixels, self._batch) for face in self._run(batch)
        ]
        if not found:
            raise InputError("no faces: give at least one")
        return given.back(np.stack(found))

    def stream(self, faces: Iterable[Picture]) -> Iterator[Pixels]:
        """Yield the normalized face, (S, S, 3) uint8 RGB, of each of any number of faces, in order.

        Holds one batch at a time. Raises as a call.
        """
        for batch in by_batches(faces, self._batch):
            pixels = given_pictures(batch).pixels
            _require_one_size(pixels)
            yield from self._run(pixels)

    @property
    def _batch(self) -> int:
        return self._stage.batch_size

    def _run(self, faces: list[Pixels]) -> list[Pixels]:
        with torch_threads(self._threads):
            found = self._stage.compute(faces)
        for place, face in enumerate(found):
            if face is None:
                raise FaceError("not_finite_output", f"face {place} of {len(faces)}")
        return [face for face in found if face is not None]


class ExpressionEncoder:
    """Reads expression coefficients, action units and head pose off aligned faces.

    How good the readings are: docs/models/, and ``normpipe measure`` says it with its table.

    Args:
        weights: as for :class:`Normalizer`, without ``.onnx``.
        device: as for :class:`Normalizer`.
        threads: of torch on a CPU.

    Raises:
        InputError: unknown weights, weights that do not name their shapes, or a missing device.
    """

    def __init__(
        self, weights: str | Path = "compact", *, device: str = "auto", threads: int = 1
    ) -> None:
        self._threads = threads
        with torch_threads(threads):
            self._reader = open_face_reader(weights, device)

    @property
    def names(self) -> tuple[str, ...]:
        """The E coefficients, such as ``browDown_L``."""
        return self._reader.names

    @property
    def units(self) -> tuple[str, ...]:
        """The U action units that these shapes perform, such as ``AU12``."""
        return self._reader.units

    def __call__(self, faces: Pictures) -> Floats:
        """Return coefficients in [0, 1], float32: (E,) of one face, (N, E) of several.

        ``faces`` and errors as for :class:`Normalizer`.
        """
        given = given_pictures(faces)
        found = self._read(given).coefficients
        return found[0] if given.single else found

    def read(self, faces: Pictures) -> FaceReadings:
        """Return coefficients (N, E), yaw and pitch (N,) in degrees of one or several faces."""
        return self._read(given_pictures(faces))

    def action_units(self, coefficients: Floats) -> Floats:
        """Return action units in [0, 1]: (U,) of coefficients (E,), (N, U) of (N, E)."""
        rows = np.atleast_2d(coefficients)
        found = self._reader.action_units(rows)
        return found[0] if np.ndim(coefficients) == 1 else found

    def _read(self, given: Given) -> FaceReadings:
        _require_one_size(given.pixels)
        if not given.pixels:
            raise InputError("no faces: give at least one")
        with torch_threads(self._threads):
            each = [self._reader.read(np.stack(b)) for b in by_batches(given.pixels, _BATCH)]
        return FaceReadings(*(np.concatenate(part) for part in zip(*each, strict=True)))


def _crops(rows: list[Row]) -> list[Pixels]:
    """Return the crops of rows that have one."""
    return [decode(row["image"]["bytes"], Limits()) for row in rows if row.get("image")]


def _require_one_size(faces: list[Pixels]) -> None:
    """Raise InputError unless all faces are squares of one size."""
    sizes = sorted({face.shape[:2] for face in faces})
    if len(sizes) > 1:
        raise InputError(
            f"faces of {len(sizes)} sizes ({sizes[0]}, {sizes[1]} …): align them to one size_px"
        )
    if sizes and sizes[0][0] != sizes[0][1]:
        raise InputError(
            f"a face is square, and this picture is {sizes[0][1]} x {sizes[0][0]}: align it first "
            "(normpipe.Aligner)"
        )
