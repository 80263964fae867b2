"""Pictures as people hold them (NumPy, PIL, torch, files) as arrays, and back."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps

from ...manifests.arrays import Pixels
from ...manifests.vocabularies import SampleError
from ...pipeline.errors import FaceError, InputError
from ..faces.decoder import Limits, Undecodable, upright
from ..faces.pixels import decode, to_pixels

#: A picture: (H, W, 3) or (H, W) uint8 RGB or grey, a PIL image, a uint8 tensor (3, H, W), a file's
#: path, or a file's bytes.
Picture = Pixels | Image.Image | torch.Tensor | str | Path | bytes
#: One picture or several: a sequence, (N, H, W, 3) uint8 or a uint8 tensor (N, 3, H, W).
Pictures = Picture | Sequence[Picture]
Item = TypeVar("Item")


class Given(NamedTuple):
    """What a caller gave.

    Attributes:
        pixels: each picture, (H, W, 3) uint8 RGB.
        single: one picture, not a sequence of one.
        tensors: they were tensors, so that results should be.
    """

    pixels: list[Pixels]
    single: bool
    tensors: bool

    def back(self, results: Pixels) -> Any:
        """Return pictures (N, S, S, 3) uint8 in the form of what was given."""
        found = as_given(results, self.tensors)
        return found[0] if self.single else found


def given_pictures(pictures: Pictures) -> Given:
    """Return what a caller gave as arrays.

    Raises:
        FaceError: a file that is no sound picture, with its ``reason``.
        InputError: anything that is not a picture.
    """
    if isinstance(pictures, torch.Tensor | np.ndarray):
        tensors = isinstance(pictures, torch.Tensor)
        several = pictures.ndim == 4
        each = list(pictures) if several else [pictures]
        return Given([pixels_of(one) for one in each], not several, tensors)
    if isinstance(pictures, str | Path | bytes | Image.Image):
        return Given([pixels_of(pictures)], True, False)
    try:
        each = list(pictures)
    except TypeError:
        raise InputError(_wrong(pictures)) from None
    tensors = bool(each) and all(isinstance(one, torch.Tensor) for one in each)
    return Given([pixels_of(one) for one in each], False, tensors)


def as_given(pixels: Pixels, tensors: bool) -> Any:
    """Return pictures (…, S, S, 3) uint8 as they are, or as a tensor (…, 3, S, S)."""
    return torch.from_numpy(np.moveaxis(pixels, -1, -3).copy()) if tensors else pixels


def pixels_of(picture: Picture) -> Pixels:
    """Return one picture as (H, W, 3) uint8 RGB, upright; errors as ``given_pictures``."""
    try:
        if isinstance(picture, str | Path):
            return decode(_read(Path(picture)), Limits())
        if isinstance(picture, bytes):
            return decode(picture, Limits())
        if isinstance(picture, Image.Image):
            return to_pixels(upright(ImageOps.exif_transpose(picture)))
    except Undecodable as error:
        raise FaceError(error.reason, error.detail) from None
    except SampleError as error:
        raise FaceError(error.reason, error.detail) from None
    found: Any = picture
    if isinstance(picture, torch.Tensor):
        found = picture.detach().cpu().numpy()
        if found.ndim == 3:
            found = found.transpose(1, 2, 0)  # (C, H, W) → (H, W, C)
    if not isinstance(found, np.ndarray) or found.dtype != np.uint8:
        raise InputError(_wrong(picture))
    if found.ndim == 2:
        found = np.repeat(found[..., None], 3, 2)
    if found.ndim != 3 or found.shape[2] != 3 or 0 in found.shape:
        raise InputError(_wrong(picture))
    return np.ascontiguousarray(found)


def by_batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield lists of ``size`` items, the last one shorter, holding one list at a time."""
    left = iter(items)
    while batch := list(islice(left, size)):
        yield batch


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None


def _wrong(found: object) -> str:
    shape = getattr(found, "shape", None)
    what = type(found).__name__
    if shape is not None:
        what += f" {tuple(shape)} of {getattr(found, 'dtype', '?')}"
    return (
        f"a picture is (H, W, 3) uint8 RGB, a uint8 tensor (3, H, W), a PIL image or a file, not "
        f"{what}"
    )


@contextmanager
def torch_threads(count: int) -> Generator[None]:
    """Let torch compute with so many threads, and then as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
