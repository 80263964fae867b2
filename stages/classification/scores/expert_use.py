"""How a mixture used its experts: numbers, a plot, and a warning if it collapsed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ....manifests.arrays import Floats
from ....pipeline.store.commit import write_json
from .plots import draw_experts

#: An expert with less than this part of an equal share is idle; a mixture in which one expert has
#: more than this share has collapsed.
_IDLE, _COLLAPSED = 0.1, 0.9


@dataclass(frozen=True)
class ExpertUse:
    """The gates' weights on a test set.

    Attributes:
        names: of the L labels.
        input_load: (E,) shares of the input mixture's weights; (1,) without a mixture.
        output_gates: (N, L, E) weights of the output mixture, by face and label.
    """

    names: tuple[str, ...]
    input_load: Floats
    output_gates: Floats

    @property
    def by_label(self) -> Floats:
        """Return (L, E) mean weights of the output mixture."""
        if not len(self.output_gates):
            return np.zeros(self.output_gates.shape[1:])
        return self.output_gates.mean(0)

    def warnings(self) -> list[str]:
        """Return one line for each mixture that has collapsed or has idle experts."""
        found: list[str] = []
        for where, load in (("input", self.input_load), ("output", self.by_label.mean(0))):
            if len(load) < 2:
                continue
            if load.max() > _COLLAPSED:
                found.append(
                    f"the {where} mixture has collapsed: expert {int(load.argmax()) + 1} has "
                    f"{load.max():.0%} of the weight"
                )
            idle = np.flatnonzero(load < _IDLE / len(load)) + 1
            if len(idle) and load.max() <= _COLLAPSED:
                numbers = ", ".join(map(str, idle.tolist()))
                found.append(f"in the {where} mixture, these experts are hardly used: {numbers}")
        return found


def write_experts(output: Path, use: ExpertUse) -> None:
    """Write ``experts.json`` and ``experts.png`` (a row per label); nothing for a dense head."""
    if len(use.input_load) < 2:
        for name in ("experts.json", "experts.png"):  # of an earlier model
            (output / name).unlink(missing_ok=True)
        return
    values = {
        "input_load": _plain(use.input_load),
        "output_gates": {
            name: _plain(row) for name, row in zip(use.names, use.by_label, strict=True)
        },
        "warnings": use.warnings(),
    }
    write_json(output / "experts.json", values)
    draw_experts(use, output / "experts.png")


def _plain(shares: Floats) -> list[float]:
    return np.asarray(shares, np.float64).round(4).tolist()
