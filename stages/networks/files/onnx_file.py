"""Normalizers as ONNX files, which ``normpipe export-normalizer`` writes; run by ONNX Runtime."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....manifests.arrays import Float32s
from ....pipeline.errors import InputError
from ....pipeline.stage import sha256_file
from ...faces import onnx

SUFFIX = ".onnx"
INPUT, OUTPUT = "images", "faces"


@dataclass(frozen=True)
class OnnxNormalizer:
    """A normalizer that ONNX Runtime runs.

    Attributes:
        session: of ONNX Runtime.
        device_class: ``cpu`` or ``cuda``, what the session really runs on.
        notes: the file's metadata: ``network``, ``settings`` (JSON), ``target``,
            ``expression_names``, ``weights_sha256``, ``input_size``, ``output_size``.
        digest: sha256 of the file.
    """

    session: Any
    device_class: str
    notes: dict[str, str]
    digest: str

    @property
    def network(self) -> str:
        """Return the network's name."""
        return self.notes["network"]

    @property
    def input_size(self) -> int:
        """Return the side of its input faces, in pixels."""
        return int(self.notes["input_size"])

    def __call__(self, images: Float32s) -> Float32s:
        """(B, 3, H, W) float32 RGB in [0, 1] → (B, 3, S, S) float32 RGB in [0, 1].

        Raises:
            InputError: the faces have another size than the file was exported for.
        """
        if images.shape[2:] != (self.input_size, self.input_size):
            raise InputError(
                f"the ONNX file takes faces of {self.input_size} px, these are "
                f"{images.shape[3]} x {images.shape[2]}: set align.size_px={self.input_size}, or "
                f"export with --input-size {images.shape[3]}"
            )
        return self.session.run([OUTPUT], {INPUT: images})[0]


def open_onnx(
    path: Path, device: str = "auto", threads: int | None = None, stage: str = "normalize"
) -> OnnxNormalizer:
    """Start a session on an exported normalizer.

    Args:
        path: the file.
        device: auto, cpu, cuda or cuda:N.
        threads: on a CPU; None is ONNX Runtime's default.
        stage: whose setting ``device`` is, for messages.

    Raises:
        InputError: no such file, one that export-normalizer did not write, or a missing device.
    """
    if not path.is_file():
        raise InputError(f"no weights {str(path)!r}: give a file of normpipe export-normalizer")
    session, device_class = start(path, device, threads, stage)
    notes = dict(session.get_modelmeta().custom_metadata_map)
    if not {"network", "input_size", "output_size"} <= notes.keys():
        raise InputError(f"{path} was not written by normpipe export-normalizer")
    return OnnxNormalizer(session, device_class, notes, sha256_file(path))


def start(
    model: Path | bytes, device: str, threads: int | None = None, stage: str = ""
) -> tuple[Any, str]:
    """Start a session; return it and what it runs on. ``device``: auto, cpu, cuda or cuda:N."""
    import onnxruntime

    kind: Any
    kind, _, number = device.partition(":")
    resolved = onnx.resolve_device_class(device, stage=stage)
    options = onnx.session_options(threads or 0)
    options.use_deterministic_compute = True  # the same bytes every time, on a GPU too
    providers: list[Any] = [
        (name, {"device_id": int(number or 0)}) if name == onnx.CUDA else name
        for name in onnx.providers_for(resolved)
    ]
    source = model if isinstance(model, bytes) else str(model)
    try:
        session = onnxruntime.InferenceSession(source, options, providers=providers)
    except Exception as error:  # ONNX Runtime's errors share no base class
        line = str(error).strip().splitlines()[0]
        name = "the exported network" if isinstance(model, bytes) else str(model)
        raise InputError(f"ONNX Runtime cannot open {name}: {line}") from None
    return session, onnx.active_device_class(session, kind, stage)


def notes_for_file(notes: Mapping[str, object]) -> dict[str, str]:
    """Return metadata as text, as an ONNX file needs it."""
    return {
        key: value if isinstance(value, str) else json.dumps(value) for key, value in notes.items()
    }
