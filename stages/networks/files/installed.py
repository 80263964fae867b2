"""Networks of other installed packages, by the entry points of the group ``normpipe.networks``.

An entry point names a function that builds a network::

    [project.entry-points."normpipe.networks"]
    mynet = "my_package.networks:build"

    def build(weights: Path | None) -> torch.nn.Module: ...

It is given ``normalize.weights`` (None if that is empty), and returns a module, in evaluation mode
on the CPU, that turns (B, 3, H, W) float32 RGB in [0, 1] into (B, 3, S, S) RGB in [0, 1].
"""

from __future__ import annotations

import hashlib
import inspect
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from torch import nn

from ....pipeline.errors import InputError, one_line
from ....pipeline.stage import sha256_file

GROUP = "normpipe.networks"


class InstalledNetwork(NamedTuple):
    """A network of another package.

    Attributes:
        module: in evaluation mode, on the CPU.
        digest: sha256 of the package's Python code and of the weights file.
    """

    module: nn.Module
    digest: str


def installed_names() -> list[str]:
    """Return the names of the networks of other packages."""
    return sorted({one.name for one in entry_points(group=GROUP)})


def open_installed(name: str, weights: Path | None) -> InstalledNetwork:
    """Build the network of that name.

    Raises:
        InputError: the weights are missing, several packages have the name, or its code fails.
    """
    found = {(one.value, one.dist.name if one.dist else "") for one in _called(name)}
    if len(found) > 1:
        owners = ", ".join(sorted(owner for _, owner in found))
        raise InputError(
            f"several packages have a network '{name}' ({owners}): uninstall all but one"
        )
    if weights is not None and not weights.is_file():
        raise InputError(f"no weights {str(weights)!r}: give the file of the network '{name}'")
    point = _called(name)[0]
    try:
        build = point.load()
        module = build(weights)
    except InputError:
        raise
    except Exception as error:  # whatever strangers' code raises
        kind = type(error).__name__
        raise InputError(
            f"the network '{name}' ({point.value}) cannot be built: {kind}: {one_line(error)}"
        ) from error
    if not isinstance(module, nn.Module):
        raise InputError(
            f"the network '{name}' ({point.value}) is a {type(module).__name__}, not a "
            "torch.nn.Module"
        )
    digest = hashlib.sha256()
    for one in _code_files(inspect.getmodule(build) or inspect.getmodule(type(module))):
        digest.update(f"{one.name} {sha256_file(one)}\n".encode())
    if weights is not None:
        digest.update(sha256_file(weights).encode())
    return InstalledNetwork(module.eval(), digest.hexdigest())


def _called(name: str) -> list[EntryPoint]:
    return [one for one in entry_points(group=GROUP) if one.name == name]


def _code_files(module: ModuleType | None) -> list[Path]:
    """Return the Python files of a module's package: they may change while its version stays."""
    file = getattr(module, "__file__", None)
    if module is None or file is None:
        return []
    package = module.__name__.partition(".")[0]
    path = Path(file)
    if package == module.__name__ and path.name != "__init__.py":
        return [path]
    top = next((p for p in path.parents if p.name == package), path.parent)
    return sorted(top.rglob("*.py"))
