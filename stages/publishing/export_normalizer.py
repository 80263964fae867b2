"""export-normalizer: writes a trained normalizer as an ONNX file that gives the same pictures."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Generator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ...pipeline.errors import InputError, NormpipeError
from ...pipeline.store.commit import write_bytes
from ..networks.base import NormalizerNetwork
from ..networks.files.normalizer_file import LoadedNormalizer, open_normalizer
from ..networks.files.onnx_file import INPUT, OUTPUT, SUFFIX, notes_for_file, start

#: The largest allowed difference between the file's pictures and the network's, in [0, 1].
LARGEST_DIFFERENCE = 1e-3
#: The newest operator set with resampling implemented on a GPU.
OPSET = 20
_BATCHES = (1, 5, 10)  # sizes that the network was not traced with


@dataclass(frozen=True)
class Export:
    """A written file. ``difference``: the largest, in [0, 1], over ``faces`` faces."""

    path: Path
    difference: float
    faces: int


class FixedSize(nn.Module):
    """A normalizer for faces of one size, which it resizes by two matrix products.

    The same numbers as ``layers.resize``, with operators that every runtime has.
    """

    shrink: Tensor

    def __init__(self, network: NormalizerNetwork, input_size: int) -> None:
        super().__init__()
        self.network = network
        self.same = input_size == network.input_size
        self.register_buffer("shrink", resize_matrix(input_size, network.input_size))

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, H) RGB in [0, 1] → (B, 3, S, S) RGB in [0, 1]."""
        if not self.same:
            images = self.shrink @ images @ self.shrink.T
        return self.network(images)


def resize_matrix(before: int, after: int) -> Tensor:
    """Return (after, before) weights of every old pixel in every new one, along one side."""
    return functional.interpolate(
        torch.eye(before)[None, None],
        size=(after, before),
        mode="bilinear",
        antialias=True,
        align_corners=False,
    )[0, 0]


def export_onnx(weights: str | Path, output: Path, input_size: int = 224) -> Export:
    """Check that the exported network gives the same pictures, and write the ONNX file.

    Args:
        weights: path of a .safetensors file, or the name of shipped weights.
        output: the file to write; it takes any batch size.
        input_size: side of its input faces, in pixels (``align.size_px``).

    Raises:
        InputError: no such weights, or an output without the suffix .onnx.
        NormpipeError: the pictures differ; nothing is written.
    """
    if output.suffix != SUFFIX:
        raise InputError(f"{output} does not end in {SUFFIX}: choose a name that does")
    if input_size < 16:
        raise InputError(f"input size {input_size} is too small for faces: give align.size_px")
    loaded = open_normalizer(weights)
    network = loaded.module.requires_grad_(False)
    model = trace(FixedSize(network, input_size).eval(), input_size)
    for key, value in _notes(loaded, input_size).items():
        model.metadata_props.add(key=key, value=value)
    data: bytes = model.SerializeToString()
    difference, faces = largest_difference(network, data, input_size)
    if not difference <= LARGEST_DIFFERENCE:  # also refuses NaN
        raise NormpipeError(
            f"the exported network's pictures differ by {difference:.2g} (at most "
            f"{LARGEST_DIFFERENCE:g} in [0, 1]): {output} was not written"
        )
    write_bytes(output, data)
    return Export(output, difference, faces)


def trace(network: nn.Module, input_size: int) -> Any:
    """Return the network as an ``onnx.ModelProto`` that takes any batch size."""
    example = torch.rand(2, 3, input_size, input_size)
    with _quiet():
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            verbose=False,
        )
    assert program is not None  # it is None only if a file is given
    return program.model_proto


@contextlib.contextmanager
def _quiet() -> Generator[None, None, None]:
    """Silence the exporter's prints and its warnings about packages that we do not use."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _notes(loaded: LoadedNormalizer, input_size: int) -> dict[str, str]:
    module = loaded.module
    kept = {key: loaded.notes[key] for key in ("target", "expression_names") if key in loaded.notes}
    return notes_for_file(
        {
            "network": loaded.network,
            "settings": module.settings(),
            **kept,
            "weights_sha256": loaded.digest,
            "input_size": input_size,
            "output_size": module.output_size,
        }
    )


def largest_difference(
    network: NormalizerNetwork, model: bytes, input_size: int
) -> tuple[float, int]:
    """Return the largest difference of network and ONNX file on random faces, and their number."""
    session, _ = start(model, "cpu", threads=1)
    faces = random_faces(sum(_BATCHES), input_size)
    largest, first = 0.0, 0
    for size in _BATCHES:
        batch = faces[first : first + size]
        first += size
        with torch.inference_mode():
            wanted = network(torch.from_numpy(batch)).numpy()
        found = session.run([OUTPUT], {INPUT: batch})[0]
        # numpy's max() keeps NaN, Python's may lose it
        largest = float(np.max([largest, np.abs(found - wanted).max()]))
    return largest, first


def random_faces(count: int, size: int, seed: int = 0) -> NDArray[np.float32]:
    """Return (count, 3, size, size) RGB in [0, 1]: randomly cropped, lit and mirrored samples."""
    folder = Path(str(files("normpipe.stages") / "samples"))
    samples = [cv2.imread(str(path)) for path in sorted(folder.glob("person*.jpg"))]
    rng = np.random.default_rng(seed)
    faces = np.empty((count, 3, size, size), np.float32)
    for place in range(count):
        picture = samples[place % len(samples)]
        assert picture is not None  # they ship with the package
        side = int(min(picture.shape[:2]) * rng.uniform(0.7, 1))
        top, left = (int(rng.integers(0, length - side + 1)) for length in picture.shape[:2])
        cut = picture[top : top + side, left : left + side, ::-1]
        cut = cv2.resize(cut, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        cut = np.clip(cut * rng.uniform(0.6, 1.4) + rng.uniform(-0.1, 0.1), 0, 1)
        faces[place] = cut[:, :: rng.choice([-1, 1])].transpose(2, 0, 1)
    return faces
