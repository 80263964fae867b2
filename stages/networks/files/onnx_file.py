"""Normalizers as ONNX files, run by ONNX Runtime: ours, and other people's by a contract."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ....manifests.arrays import Float32s
from ....pipeline.errors import InputError
from ....pipeline.stage import sha256_file
from ...faces import onnx

SUFFIX = ".onnx"
INPUT, OUTPUT = "images", "faces"


#: What a file's metadata, or settings of the same names, say of other people's networks.
CONTRACT = ("input_range", "output_range", "colours", "input_size")
_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
}


@dataclass(frozen=True)
class Contract:
    """How a network wants faces, and gives them back.

    Attributes:
        input_range, output_range: the values of black and of white.
        reverse: it works in BGR.
        input_size: side of its input faces in pixels; 0: any.
        channels_last: its input and its output are (B, H, W, 3).
        dtype: of its input.
        batch: faces that it takes at once; 0: any number.
    """

    input_range: tuple[float, float] = (0.0, 1.0)
    output_range: tuple[float, float] = (0.0, 1.0)
    reverse: bool = False
    input_size: int = 0
    channels_last: tuple[bool, bool] = (False, False)
    dtype: Any = np.float32
    batch: int = 0

    def given(self, images: Float32s) -> Any:
        """Return (B, 3, H, W) float32 RGB in [0, 1] as the network wants them."""
        low, high = self.input_range
        found = images[:, ::-1] if self.reverse else images
        found = found if (low, high) == (0, 1) else found * np.float32(high - low) + np.float32(low)
        found = found.transpose(0, 2, 3, 1) if self.channels_last[0] else found
        found = np.rint(found) if self.dtype == np.uint8 else found
        return np.ascontiguousarray(found, self.dtype)

    def taken(self, faces: Any) -> Float32s:
        """Return what the network gave as (B, 3, S, S) float32 RGB, about [0, 1]."""
        low, high = self.output_range
        found = np.asarray(faces, np.float32)
        found = found.transpose(0, 3, 1, 2) if self.channels_last[1] else found
        found = found if (low, high) == (0, 1) else (found - np.float32(low)) / (high - low)
        return np.ascontiguousarray(found[:, ::-1] if self.reverse else found, np.float32)


@dataclass(frozen=True)
class OnnxNormalizer:
    """A normalizer that ONNX Runtime runs.

    Attributes:
        session: of ONNX Runtime.
        device_class: ``cpu`` or ``cuda``, what the session really runs on.
        notes: the file's metadata; of ours: ``network``, ``settings`` (JSON), ``target``,
            ``expression_names``, ``weights_sha256``, ``input_size``, ``output_size``.
        digest: sha256 of the file.
        network: its name.
        contract: how it wants faces.
    """

    session: Any
    device_class: str
    notes: dict[str, str]
    digest: str
    network: str
    contract: Contract = field(default_factory=Contract)

    @property
    def input_size(self) -> int:
        """Return the side of its input faces in pixels; 0: any."""
        return self.contract.input_size

    def __call__(self, images: Float32s) -> Float32s:
        """(B, 3, H, W) float32 RGB in [0, 1] → (B, 3, S, S) float32 RGB, about [0, 1].

        Raises:
            InputError: the faces have another size than the file takes, or it gives no faces.
        """
        side = self.input_size
        if side and images.shape[2:] != (side, side):
            again = "export-normalizer" if "output_size" in self.notes else ""
            other = f", or export with --input-size {images.shape[3]}" if again else ""
            raise InputError(
                f"the ONNX file takes faces of {side} px, these are "
                f"{images.shape[3]} x {images.shape[2]}: set align.size_px={side}{other}"
            )
        given = self.contract.given(images)
        step = self.contract.batch or len(given)
        parts = [self._run(given[at : at + step], step) for at in range(0, len(given), step)]
        faces = self.contract.taken(np.concatenate(parts))
        if faces.ndim != 4 or len(faces) != len(images) or faces.shape[1] != 3:
            raise InputError(
                f"the ONNX file turns {tuple(given.shape)} into {tuple(parts[0].shape)}: a "
                "normalizer gives a square RGB face for each"
            )
        return faces

    def _run(self, images: Any, batch: int) -> Any:
        name, wanted = self.session.get_inputs()[0].name, len(images)
        if wanted < batch:  # a network of a fixed batch
            images = np.concatenate([images, np.repeat(images[-1:], batch - wanted, 0)])
        return self.session.run([self.session.get_outputs()[0].name], {name: images})[0][:wanted]


def open_onnx(
    path: Path,
    device: str = "auto",
    threads: int | None = None,
    stage: str = "normalize",
    said: Mapping[str, Any] | None = None,
) -> OnnxNormalizer:
    """Start a session on a normalizer.

    Args:
        path: the file.
        device: auto, cpu, cuda or cuda:N.
        threads: on a CPU; None is ONNX Runtime's default.
        stage: whose setting ``device`` is, for messages.
        said: settings of ``CONTRACT`` for a file that export-normalizer did not write; those left
            out or None are taken from its metadata.

    Raises:
        InputError: no such file, one that does not say how it wants faces, one whose weights lie
            in another file, or a missing device.
    """
    if not path.is_file():
        raise InputError(f"no weights {str(path)!r}: give a file of normpipe export-normalizer")
    session, device_class = start(path, device, threads, stage)
    onnx.refuse_external_data(path)
    notes = dict(session.get_modelmeta().custom_metadata_map)
    given = {name: value for name, value in (said or {}).items() if value is not None}
    if {"network", "input_size", "output_size"} <= notes.keys():
        if given:
            raise InputError(
                f"{path} was written by normpipe export-normalizer and says how it wants faces: "
                f"leave out normalize.{next(iter(given))}"
            )
        contract, name = Contract(input_size=int(notes["input_size"])), notes["network"]
    else:
        contract, name = _contract(path, session, {**_noted(path, notes), **given}), path.stem
    return OnnxNormalizer(session, device_class, notes, sha256_file(path), name, contract)


def _noted(path: Path, notes: Mapping[str, str]) -> dict[str, Any]:
    """Return the contract in a file's metadata, where ranges are ``0,1`` or ``[0, 1]``."""
    found: dict[str, Any] = {}
    for name in (one for one in CONTRACT if one in notes):
        text = notes[name].strip()
        try:
            if name == "colours":
                found[name] = text.lower()
            elif name == "input_size":
                found[name] = int(text)
            else:
                low, high = (float(part) for part in text.strip("[]()").split(","))
                found[name] = (low, high)
        except ValueError:
            raise InputError(
                f"{path}: its metadata {name} = {text!r} is not understood: set normalize.{name}"
            ) from None
    return found


def _contract(path: Path, session: Any, said: Mapping[str, Any]) -> Contract:
    """Return the contract of other people's network, from its graph and what is said of it."""
    missing = [name for name in CONTRACT[:3] if name not in said]
    if missing:
        example = {
            "input_range": "[0, 1]",
            "output_range": "[0, 1]",
            "colours": "rgb",
        }
        options = " ".join(f"--set 'normalize.{one}={example[one]}'" for one in missing)
        raise InputError(
            f"{path} was not written by normpipe export-normalizer and does not say how it wants "
            f"faces: give {options} (as it is right for this network), or write "
            f"{', '.join(missing)} into its metadata"
        )
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or inputs[0].type not in _TYPES:
        raise InputError(
            f"{path} takes {len(inputs)} inputs ({', '.join(one.type for one in inputs)}): a "
            "normalizer takes one, of float, float16 or uint8"
        )
    if said["colours"] not in ("rgb", "bgr"):
        raise InputError(f"{path}: colours = {said['colours']!r} is neither rgb nor bgr")
    for name in CONTRACT[:2]:
        low, high = said[name]
        if not low < high:
            raise InputError(f"{path}: {name} = [{low:g}, {high:g}]: black is below white")
    last = _channels_last(path, inputs[0].shape), _channels_last(path, outputs[0].shape)
    batch, *sides = inputs[0].shape
    side = sides[0] if last[0] else sides[1]
    return Contract(
        input_range=said["input_range"],
        output_range=said["output_range"],
        reverse=said["colours"] == "bgr",
        input_size=side if isinstance(side, int) else int(said.get("input_size") or 0),
        channels_last=last,
        dtype=_TYPES[inputs[0].type],
        batch=batch if isinstance(batch, int) else 0,
    )


def _channels_last(path: Path, shape: list[Any]) -> bool:
    """Return whether a shape is (B, H, W, 3), and not (B, 3, H, W)."""
    if len(shape) == 4 and 3 in (shape[1], shape[3]):
        return shape[1] != 3
    if len(shape) == 4 and not any(isinstance(one, int) for one in shape[1:]):
        return False
    raise InputError(f"{path}: {shape} is no batch of RGB pictures: (B, 3, H, W) or (B, H, W, 3)")


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
