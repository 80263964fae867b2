"""What training minimizes: every loss by its name.

All but the last few are counted so that the average face, or a network that has learnt nothing,
scores about 1. A loss is the mean over the rows it speaks of, so that a batch may be cut into
parts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..batching import Batch, Seen
from .measures import Measures, edge_error, flat_error, region_error

Frozen = Mapping[str, nn.Module]


class Loss(NamedTuple):
    """A loss.

    Attributes:
        of: (what was seen, batch, measures, frozen networks) → scalar.
        needs: what has to be there: ``target`` (pictures of the pairs, drawn), ``drawn`` (pictures
            of pairs and real faces), ``faces`` (real faces), ``weak`` and ``weak_picture`` (a
            second look at them, undegraded), ``again`` and ``again_picture`` (a look at the
            network's own output), or the name of a frozen network.
    """

    of: Callable[[Seen, Batch, Measures, Frozen], Tensor]
    needs: frozenset[str] = frozenset()


def coefficients(seen: Seen, batch: Batch, measures: Measures, _: Frozen) -> Tensor:
    """Mean over shapes of 1 - R², as a squared error relative to each shape's variance."""
    error = _of_pairs(seen["coefficients"], batch) - batch["expression"]
    return (error.square() * measures.shapes).sum(1).mean()


def displacement(seen: Seen, batch: Batch, measures: Measures, _: Frozen) -> Tensor:
    """Mean over regions of 1 - R² of where the target's landmarks go.

    Shapes are nearly collinear: a wrong mixture that moves the face alike is a small mistake, and
    a lip corner matters no less than a jaw.
    """
    return measures.moved(_of_pairs(seen["coefficients"], batch) - batch["expression"]).mean()


def landmarks(seen: Seen, batch: Batch, measures: Measures, _: Frozen) -> Tensor:
    """Squared error of the source's landmarks, relative to their variance."""
    error = _of_pairs(seen["landmarks"], batch) - batch["landmarks"]
    return error.square().mean() / measures.landmarks


def pose(seen: Seen, batch: Batch, measures: Measures, _: Frozen) -> Tensor:
    """Squared error of yaw, pitch and roll, relative to their variance."""
    error = _of_pairs(seen["pose"], batch) - batch["pose"]
    return error.square().mean() / measures.pose


def picture(seen: Seen, batch: Batch, measures: Measures, _: Frozen) -> Tensor:
    """Absolute error of pixels, weighted where the target changes, relative to its resting face."""
    return flat_error(_picture_error(seen, batch), measures.change) / measures.pixel


def edges(seen: Seen, batch: Batch, measures: Measures, _: Frozen) -> Tensor:
    """The same of differences between neighbouring pixels: keeps lines sharp."""
    return edge_error(_picture_error(seen, batch), measures.change) / measures.edge


def regions(seen: Seen, batch: Batch, measures: Measures, _: Frozen) -> Tensor:
    """The same of brows, eyes and mouth, which count alike however little they change."""
    error = region_error(_picture_error(seen, batch), measures.regions)
    return (error / measures.region_pixel).mean()


def consistency(seen: Seen, batch: Batch, measures: Measures, _: Frozen) -> Tensor:
    """A real face, degraded, is read as it is undegraded; the undegraded side only teaches."""
    return _as_weak(seen, batch, measures, flipped=False)


def flip(seen: Seen, batch: Batch, measures: Measures, _: Frozen) -> Tensor:
    """A real face, degraded and mirrored, is read as the mirror image of its reading."""
    return _as_weak(seen, batch, measures, flipped=True)


def steadiness(seen: Seen, batch: Batch, measures: Measures, _: Frozen) -> Tensor:
    """``consistency`` of pictures: a degraded real face gives the picture it gives undegraded."""
    straight = ~batch["flipped"]
    made = _drawn_faces(seen, batch)[straight]
    error = made - seen["weak_picture"][straight].detach()
    if not len(error):
        return error.sum()
    share = len(error) / len(straight)
    return share * 2 * flat_error(error, measures.change) / measures.pixel


def idempotence(seen: Seen, batch: Batch, measures: Measures, _: Frozen) -> Tensor:
    """F(F(x)) is F(x): the network's own output, as an input, comes out unchanged."""
    error = seen["again_picture"] - seen["picture"].detach().clamp(0, 1)
    return flat_error(error, measures.change) / measures.pixel


def cycle(seen: Seen, batch: Batch, measures: Measures, _: Frozen) -> Tensor:
    """The network reads off its own output the code that it drew."""
    code = seen["coefficients"][seen["drawn"]].detach().clamp(0, 1)
    return measures.code_error(seen["again"] - code).mean()


def identity(seen: Seen, batch: Batch, measures: Measures, frozen: Frozen) -> Tensor:
    """To a frozen network, outputs look like the resting target and no more like their source.

    1 - cos(output, resting), plus what cos(output, source) exceeds cos(resting, source) by.
    """
    network = frozen["identity"]
    made = _unit(network(seen["picture"].clamp(0, 1)))
    with torch.no_grad():
        source = _unit(network(_sources(seen, batch)))
        resting = _unit(network(measures.resting))
    like = (made * source).sum(1) - (resting * source).sum(1)
    return (1 - (made * resting).sum(1)).mean() + functional.relu(like).mean()


def expression(seen: Seen, batch: Batch, measures: Measures, frozen: Frozen) -> Tensor:
    """A frozen network's features of the output are those of the source: mean squared error."""
    network = frozen["expression"]
    with torch.no_grad():
        source = network(_sources(seen, batch))
    return (network(seen["picture"].clamp(0, 1)) - source).square().mean()


#: Name in the job file → loss.
LOSSES: dict[str, Loss] = {
    "coefficients": Loss(coefficients),
    "displacement": Loss(displacement),
    "landmarks": Loss(landmarks),
    "pose": Loss(pose),
    "picture": Loss(picture, frozenset({"target"})),
    "edges": Loss(edges, frozenset({"target"})),
    "regions": Loss(regions, frozenset({"target"})),
    "consistency": Loss(consistency, frozenset({"faces", "weak"})),
    "flip": Loss(flip, frozenset({"faces", "weak"})),
    "steadiness": Loss(steadiness, frozenset({"faces", "weak", "weak_picture", "drawn"})),
    "idempotence": Loss(idempotence, frozenset({"drawn", "again", "again_picture"})),
    "cycle": Loss(cycle, frozenset({"drawn", "again"})),
    "identity": Loss(identity, frozenset({"drawn", "identity"})),
    "expression": Loss(expression, frozenset({"drawn", "expression"})),
}

#: What a decoder alone, which is given exact coefficients, can learn from.
OF_DECODERS = ("picture", "edges", "regions")


class Objective(nn.Module):
    """The weighted sum of some losses."""

    def __init__(
        self, weights: Mapping[str, float], measures: Measures, frozen: Frozen | None = None
    ) -> None:
        super().__init__()
        self.weights = dict(weights)
        self.measures = measures
        self.frozen = nn.ModuleDict(dict(frozen or {}))

    @property
    def needs(self) -> frozenset[str]:
        """Return what has to be seen for all of them."""
        return frozenset().union(*(LOSSES[name].needs for name in self.weights))

    def forward(self, seen: Seen, batch: Batch) -> dict[str, Tensor]:
        """Return every loss by name, (), unweighted, and their weighted sum as ``total``."""
        frozen = dict(self.frozen.items())
        found = {name: LOSSES[name].of(seen, batch, self.measures, frozen) for name in self.weights}
        total = torch.stack([self.weights[name] * value for name, value in found.items()]).sum()
        return {"total": total, **found}


def _of_pairs(values: Tensor, batch: Batch) -> Tensor:
    """Pairs come first in a batch, real faces behind them."""
    return values[: len(batch["expression"])]


def _drawn_faces(seen: Seen, batch: Batch) -> Tensor:
    return seen["picture"][len(seen["picture"]) - len(batch["weak"]) :]


def _sources(seen: Seen, batch: Batch) -> Tensor:
    """What the drawn pictures were made of, (D, 3, S, S) in [0, 1]."""
    return batch["images"][seen["drawn"]].float().div(255).expand(-1, 3, -1, -1)


def _picture_error(seen: Seen, batch: Batch) -> Tensor:
    target = batch["target"].float().permute(0, 3, 1, 2) / 255
    return seen["picture"][: len(target)] - target


def _as_weak(seen: Seen, batch: Batch, measures: Measures, flipped: bool) -> Tensor:
    rows = batch["flipped"] == flipped
    weak = seen["weak"].detach().clamp(0, 1)
    wanted = weak[:, measures.mirror] if flipped else weak
    error = seen["coefficients"][len(batch["expression"]) :] - wanted
    # Half of the faces are flipped; twice the sum over all is the mean over that half.
    return 2 * (measures.code_error(error) * rows).mean()


def _unit(features: Tensor) -> Tensor:
    return functional.normalize(features.float(), dim=1)
