"""Normalizers as safetensors files, which ``normpipe fit-normalizer`` writes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ....pipeline.errors import InputError
from ....pipeline.stage import sha256_file
from .. import NETWORKS, UNSAID
from ..base import NormalizerNetwork
from .checkpoint import find_weights, load_weights, read_notes


@dataclass(frozen=True)
class LoadedNormalizer:
    """A network ready to use, and the metadata of its file.

    Attributes:
        module: the network, in evaluation mode, on the CPU.
        network: its name in ``NETWORKS``.
        path: the file.
        digest: sha256 of the file.
        notes: the metadata in the file's header: ``network``, ``settings`` (JSON), ``target``,
            ``expression_names`` (joined by commas).
    """

    module: NormalizerNetwork
    network: str
    path: Path
    digest: str
    notes: dict[str, str]

    @property
    def expression_names(self) -> tuple[str, ...]:
        """Return the names of the shapes, in the order of the coefficients."""
        return tuple(name for name in self.notes.get("expression_names", "").split(",") if name)


def open_normalizer(name_or_path: str | Path) -> LoadedNormalizer:
    """Build the network that a weights file was trained for, and load it.

    Raises:
        InputError: no such file, or its metadata or weights fit no network.
    """
    path = find_weights(name_or_path)
    notes = read_notes(path)
    network = notes.get("network", "")
    if network not in NETWORKS:
        raise InputError(
            f"{path} does not say which network it belongs to: give weights that "
            f"normpipe fit-normalizer wrote (networks: {', '.join(sorted(NETWORKS))})"
        )
    names = [name for name in notes.get("expression_names", "").split(",") if name]
    settings = {"expressions": len(names)} if names else {}
    try:
        settings = json.loads(notes.get("settings") or json.dumps(settings))
        module = NETWORKS[network](**{**UNSAID.get(network, {}), **settings})
    except (TypeError, ValueError):
        raise InputError(
            f"{path} holds a {network} network with settings that this release of normpipe does "
            f"not know ({notes.get('settings')}): upgrade normpipe"
        ) from None
    load_weights(module, path)
    return LoadedNormalizer(module.eval(), network, path, sha256_file(path), notes)
