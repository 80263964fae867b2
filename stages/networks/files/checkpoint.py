"""Weights on disk, in safetensors files only, so that loading never runs code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from ....pipeline.errors import InputError, OutputError
from ....pipeline.stage import sha256_file
from ....pipeline.store.commit import write_bytes

WEIGHTS_FOLDER = Path(__file__).parents[1] / "weights"
_SUFFIX = ".safetensors"


def find_weights(name_or_path: str | Path) -> Path:
    """Return the file of shipped weights (``compact``) or of weights given by path.

    Raises:
        InputError: no shipped weights and no file of that name.
    """
    path = Path(name_or_path)
    if path.suffix == _SUFFIX and path.is_file():
        return path
    shipped = WEIGHTS_FOLDER / f"{name_or_path}{_SUFFIX}"
    if len(path.parts) == 1 and shipped.is_file():
        return shipped
    known = ", ".join(sorted(file.stem for file in WEIGHTS_FOLDER.glob(f"*{_SUFFIX}"))) or "none"
    raise InputError(
        f"no weights {str(name_or_path)!r}: give the path of a {_SUFFIX} file "
        f"or a shipped name ({known})"
    )


def shipped_weights() -> dict[str, str]:
    """Return the sha256 of each file of shipped weights, by name."""
    return {file.stem: sha256_file(file) for file in sorted(WEIGHTS_FOLDER.glob(f"*{_SUFFIX}"))}


def load_weights(module: nn.Module, path: Path, device: str = "cpu") -> None:
    """Load weights into a network; all names and shapes must match.

    Raises:
        InputError: the file is no safetensors file, or has other names or shapes.
    """
    found = read_tensors(path, device)
    expected = module.state_dict()
    missing = [name for name in expected if name not in found]
    unknown = [name for name in found if name not in expected]
    shapes = [
        f"{name} is {tuple(found[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in found and found[name].shape != tensor.shape
    ]
    if missing or unknown or shapes:
        parts = [
            f"{len(missing)} missing (first {missing[0]})" if missing else "",
            f"{len(unknown)} unknown (first {unknown[0]})" if unknown else "",
            f"{len(shapes)} of another shape (first: {shapes[0]})" if shapes else "",
        ]
        what = "; ".join(part for part in parts if part)
        raise InputError(f"{path} does not fit the network {type(module).__name__}: tensors {what}")
    module.load_state_dict(found)


def read_tensors(path: Path, device: str = "cpu") -> dict[str, Tensor]:
    """Return all tensors of a safetensors file by name, each (...) as saved."""
    try:
        return load_file(path, device=device)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} cannot be read as a safetensors file: {error}") from error


def read_notes(path: Path) -> dict[str, str]:
    """Return the metadata in the header of a safetensors file."""
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} cannot be read as a safetensors file: {error}") from error


def save_tensors(tensors: Mapping[str, Tensor], path: Path, notes: Mapping[str, object]) -> None:
    """Write tensors (...) and metadata to a safetensors file, atomically.

    The same tensors and metadata give the same bytes.
    """
    text = {
        key: value if isinstance(value, str) else json.dumps(value) for key, value in notes.items()
    }
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    try:
        # Not with save_file, whose files are readable by their owner alone.
        write_bytes(path, _in_order(save(plain, metadata=text)))
    except (OSError, SafetensorError) as error:
        raise OutputError(f"weights cannot be written to {path}: {error}") from error


def _in_order(data: bytes) -> bytes:
    """Return a safetensors file with sorted metadata; the library writes it in random order.

    The format: the header's length (8 bytes, little endian), the header (JSON, padded with spaces
    to a multiple of 8), the tensors.
    """
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    if "__metadata__" in header:
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[start:]
