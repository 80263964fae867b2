"""The losses of normalizers, by name.

All but the last few are scaled so that the average face, or an untrained network, scores about 1. A
loss is the mean over the rows that it concerns, so that a batch can be split into parts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ....manifests.vocabularies import EMOTIONS
from ...networks.base import leaky_clamp
from ..batching import Batch, NetworkOutputs
from .label_heads import LOWER_COVERED, UPPER_COVERED
from .pair_statistics import PairStatistics, edge_error, flat_error, region_error

Frozen = Mapping[str, nn.Module]

_HEAD_WEIGHT = 0.03  # of the squared distance of a head from the prototypes
_INTENSITY_SPREAD = 1.0  # square of a typical deviation of FACS intensities, 0 to 5
_FEWEST_SCORES = 6  # in a batch, for a correlation to mean something
_LEAST_SPREAD = 1e-4  # sum of squares; a witness that says the same of all faces says nothing


class Loss(NamedTuple):
    """A loss.

    Attributes:
        of: (outputs, batch, statistics, frozen networks) → scalar.
        needs: required inputs and outputs: ``target`` (pictures drawn of the pairs), ``drawn``
            (pictures drawn of pairs and real faces), ``faces`` (real faces), ``weak`` and
            ``weak_picture`` (outputs for them, undegraded), ``again`` and ``again_picture``
            (outputs for the network's own pictures), ``labels:KIND`` (labels of real faces, and
            what ``LabelHeads`` reads), or the name of a frozen network.
    """

    of: Callable[[NetworkOutputs, Batch, PairStatistics, Frozen], Tensor]
    needs: frozenset[str] = frozenset()


def coefficients_loss(
    outputs: NetworkOutputs, batch: Batch, statistics: PairStatistics, _: Frozen
) -> Tensor:
    """Return the mean over shapes of 1 - R²: squared errors relative to each shape's variance."""
    error = _of_pairs(outputs["coefficients"], batch) - batch["expression"]
    return (error.square() * statistics.shapes).sum(1).mean()


def displacement_loss(
    outputs: NetworkOutputs, batch: Batch, statistics: PairStatistics, _: Frozen
) -> Tensor:
    """Return the mean over regions of 1 - R² of the target's landmarks.

    Shapes are nearly collinear: a wrong mixture that moves the face the same way is a small error,
    and a lip corner matters as much as a jaw.
    """
    return statistics.displacement(
        _of_pairs(outputs["coefficients"], batch) - batch["expression"]
    ).mean()


def landmarks_loss(
    outputs: NetworkOutputs, batch: Batch, statistics: PairStatistics, _: Frozen
) -> Tensor:
    """Return the squared error of the source's landmarks, relative to their variance."""
    error = _of_pairs(outputs["landmarks"], batch) - batch["landmarks"]
    return error.square().mean() / statistics.landmarks


def pose_loss(
    outputs: NetworkOutputs, batch: Batch, statistics: PairStatistics, _: Frozen
) -> Tensor:
    """Return the squared error of yaw, pitch and roll, relative to their variance."""
    error = _of_pairs(outputs["pose"], batch) - batch["pose"]
    return error.square().mean() / statistics.pose


def picture_loss(
    outputs: NetworkOutputs, batch: Batch, statistics: PairStatistics, _: Frozen
) -> Tensor:
    """Return the absolute pixel error, weighted by change, relative to the resting face's."""
    return flat_error(_picture_error(outputs, batch), statistics.change) / statistics.pixel


def edges_loss(
    outputs: NetworkOutputs, batch: Batch, statistics: PairStatistics, _: Frozen
) -> Tensor:
    """Return the same for differences between neighbouring pixels: keeps lines sharp."""
    return edge_error(_picture_error(outputs, batch), statistics.change) / statistics.edge


def regions_loss(
    outputs: NetworkOutputs, batch: Batch, statistics: PairStatistics, _: Frozen
) -> Tensor:
    """Return the same for brows, eyes and mouth, with equal weight however little they change."""
    error = region_error(_picture_error(outputs, batch), statistics.regions)
    return (error / statistics.region_pixel).mean()


def consistency_loss(
    outputs: NetworkOutputs, batch: Batch, statistics: PairStatistics, _: Frozen
) -> Tensor:
    """Compare readings of degraded and undegraded real faces; the latter get no gradient."""
    return _weak_error(outputs, batch, statistics, flipped=False)


def flip_loss(
    outputs: NetworkOutputs, batch: Batch, statistics: PairStatistics, _: Frozen
) -> Tensor:
    """Compare readings of degraded, mirrored real faces with the mirrored reading."""
    return _weak_error(outputs, batch, statistics, flipped=True)


def steadiness_loss(
    outputs: NetworkOutputs, batch: Batch, statistics: PairStatistics, _: Frozen
) -> Tensor:
    """Compare the pictures made of degraded and undegraded real faces."""
    straight = ~batch["flipped"]
    made = _drawn_faces(outputs, batch)[straight]
    error = made - outputs["weak_picture"][straight].detach()
    if not len(error):
        return error.sum()
    share = len(error) / len(straight)
    return share * 2 * flat_error(error, statistics.change) / statistics.pixel


def idempotence_loss(
    outputs: NetworkOutputs, batch: Batch, statistics: PairStatistics, _: Frozen
) -> Tensor:
    """Compare F(F(x)) with F(x): the network should not change its own output."""
    error = outputs["again_picture"] - outputs["picture"].detach().clamp(0, 1)
    return flat_error(error, statistics.change) / statistics.pixel


def cycle_loss(
    outputs: NetworkOutputs, batch: Batch, statistics: PairStatistics, _: Frozen
) -> Tensor:
    """Compare the code read off the network's own output with the code that it drew."""
    code = outputs["coefficients"][outputs["drawn"]].detach().clamp(0, 1)
    return statistics.code_error(outputs["again"] - code).mean()


def identity_loss(
    outputs: NetworkOutputs, batch: Batch, statistics: PairStatistics, frozen: Frozen
) -> Tensor:
    """Compare identity by a frozen network: outputs resemble the resting target, not the source.

    1 - cos(output, resting), plus the excess of cos(output, source) over cos(resting, source).
    """
    network = frozen["identity"]
    made = _unit(network(outputs["picture"].clamp(0, 1)))
    with torch.no_grad():
        source = _unit(network(_sources(outputs, batch)))
        resting = _unit(network(statistics.resting))
    like = (made * source).sum(1) - (resting * source).sum(1)
    return (1 - (made * resting).sum(1)).mean() + functional.relu(like).mean()


def expression_loss(
    outputs: NetworkOutputs, batch: Batch, statistics: PairStatistics, frozen: Frozen
) -> Tensor:
    """Return the mean squared error between a frozen network's features of output and source."""
    network = frozen["expression"]
    with torch.no_grad():
        source = network(_sources(outputs, batch))
    return (network(outputs["picture"].clamp(0, 1)) - source).square().mean()


def emotions_loss(outputs: NetworkOutputs, batch: Batch, _: PairStatistics, __: Frozen) -> Tensor:
    """Compare emotions read off the code with the raters' shares (Kullback-Leibler divergence)."""
    return _emotions_error("emotions", outputs, batch, (LOWER_COVERED, UPPER_COVERED))


def emotions_upper_loss(
    outputs: NetworkOutputs, batch: Batch, _: PairStatistics, __: Frozen
) -> Tensor:
    """Return the same, read off brows, lids, cheeks and nose alone; not where they are covered.

    Happiness counts little: it is seen at the mouth, and would narrow the eyes of every smile.
    """
    return _emotions_error("emotions_upper", outputs, batch, (UPPER_COVERED,), spared="happiness")


def emotions_lower_loss(
    outputs: NetworkOutputs, batch: Batch, _: PairStatistics, __: Frozen
) -> Tensor:
    """Return the same, read off mouth and jaw alone; not where they are covered.

    Surprise counts little: it is seen at the brows, and would round every mouth that is open.
    """
    return _emotions_error("emotions_lower", outputs, batch, (LOWER_COVERED,), spared="surprise")


def occurrence_loss(outputs: NetworkOutputs, batch: Batch, _: PairStatistics, __: Frozen) -> Tensor:
    """Compare action units read off the code with labels 0 and 1 (cross-entropy), where known."""
    truth = batch["occurrence"]
    known = torch.isfinite(truth)
    error = functional.binary_cross_entropy_with_logits(
        outputs["occurrence"], truth.nan_to_num(), reduction="none"
    )
    return _mean_where(error, known)


def intensity_loss(outputs: NetworkOutputs, batch: Batch, _: PairStatistics, __: Frozen) -> Tensor:
    """Return the squared error of action units' intensities read off the code, where known."""
    truth = batch["intensity"]
    error = (outputs["intensity"] - truth.nan_to_num()).square() / _INTENSITY_SPREAD
    return _mean_where(error, torch.isfinite(truth))


def shapes_loss(outputs: NetworkOutputs, batch: Batch, _: PairStatistics, __: Frozen) -> Tensor:
    """Return 1 - correlation with another witness's scores, mean over shapes with some in a batch.

    Scale and zero of such scores mean nothing, so only differences between faces are compared.
    """
    truth = batch["shapes"]
    known = torch.isfinite(truth).float()
    count = known.sum(0)
    reading = _of_faces(outputs["coefficients"], batch)
    one, other = (_centred(values, known, count) for values in (reading, truth.nan_to_num()))
    size = (one.square().sum(0) * other.square().sum(0)).clamp_min(1e-12).sqrt()
    enough = (count >= _FEWEST_SCORES) & (other.square().sum(0) > _LEAST_SPREAD)
    return _mean_where(1 - (one * other).sum(0) / size, enough)


def negative_loss(outputs: NetworkOutputs, batch: Batch, _: PairStatistics, __: Frozen) -> Tensor:
    """Return the squared sum of negative readings of real faces: 0 is the least to be drawn.

    Heads would otherwise find their answers in readings that nobody sees.
    """
    reading = _of_faces(outputs["coefficients"], batch)
    return functional.relu(-reading).square().sum(1).mean()


def excess_loss(outputs: NetworkOutputs, batch: Batch, _: PairStatistics, __: Frozen) -> Tensor:
    """Return the squared sum of how far readings of real faces are above 1, which draws no more.

    A label does not say how strong a movement is, and would raise all that it is read off.
    """
    reading = _of_faces(outputs["coefficients"], batch)
    return functional.relu(reading - 1).square().sum(1).mean()


def neutral_loss(outputs: NetworkOutputs, batch: Batch, _: PairStatistics, __: Frozen) -> Tensor:
    """Return the squared sum of readings of neutral faces: a resting face is drawn at rest.

    Weighted by how far the share of neutral is above a half.
    """
    share = batch["emotions"][:, EMOTIONS.index("neutral")].nan_to_num()
    reading = leaky_clamp(_of_faces(outputs["coefficients"], batch))
    return (reading.square().sum(1) * (2 * share - 1).clamp_min(0)).mean()


#: Name in the job file → loss.
LOSSES: dict[str, Loss] = {
    "coefficients": Loss(coefficients_loss),
    "displacement": Loss(displacement_loss),
    "landmarks": Loss(landmarks_loss),
    "pose": Loss(pose_loss),
    "picture": Loss(picture_loss, frozenset({"target"})),
    "edges": Loss(edges_loss, frozenset({"target"})),
    "regions": Loss(regions_loss, frozenset({"target"})),
    "consistency": Loss(consistency_loss, frozenset({"faces", "weak"})),
    "flip": Loss(flip_loss, frozenset({"faces", "weak"})),
    "steadiness": Loss(steadiness_loss, frozenset({"faces", "weak", "weak_picture", "drawn"})),
    "idempotence": Loss(idempotence_loss, frozenset({"drawn", "again", "again_picture"})),
    "cycle": Loss(cycle_loss, frozenset({"drawn", "again"})),
    "identity": Loss(identity_loss, frozenset({"drawn", "identity"})),
    "expression": Loss(expression_loss, frozenset({"drawn", "expression"})),
    "emotions": Loss(emotions_loss, frozenset({"faces", "labels:emotions"})),
    "emotions_upper": Loss(emotions_upper_loss, frozenset({"faces", "labels:emotions"})),
    "emotions_lower": Loss(emotions_lower_loss, frozenset({"faces", "labels:emotions"})),
    "occurrence": Loss(occurrence_loss, frozenset({"faces", "labels:occurrence"})),
    "intensity": Loss(intensity_loss, frozenset({"faces", "labels:intensity"})),
    "shapes": Loss(shapes_loss, frozenset({"faces", "labels:shapes"})),
    "negative": Loss(negative_loss, frozenset({"faces", "labels"})),
    "excess": Loss(excess_loss, frozenset({"faces", "labels"})),
    "neutral": Loss(neutral_loss, frozenset({"faces", "labels:emotions"})),
}

#: Losses that can train a decoder alone, from exact coefficients.
DECODER_LOSSES = ("picture", "edges", "regions")


class Objective(nn.Module):
    """The weighted sum of some losses."""

    def __init__(
        self, weights: Mapping[str, float], statistics: PairStatistics, frozen: Frozen | None = None
    ) -> None:
        super().__init__()
        self.weights = dict(weights)
        self.statistics = statistics
        self.frozen = nn.ModuleDict(dict(frozen or {}))

    @property
    def needs(self) -> frozenset[str]:
        """Return all that the losses need."""
        return frozenset().union(*(LOSSES[name].needs for name in self.weights))

    def forward(self, outputs: NetworkOutputs, batch: Batch) -> dict[str, Tensor]:
        """Return every loss by name, (), unweighted, and their weighted sum as ``total``."""
        frozen = dict(self.frozen.items())
        found = {
            name: LOSSES[name].of(outputs, batch, self.statistics, frozen) for name in self.weights
        }
        total = torch.stack([self.weights[name] * value for name, value in found.items()]).sum()
        return {"total": total, **found}


def _of_pairs(values: Tensor, batch: Batch) -> Tensor:
    """Return the rows of pairs, which precede the real faces in a batch."""
    return values[: len(batch["expression"])]


def _of_faces(values: Tensor, batch: Batch) -> Tensor:
    """Return the rows of real faces."""
    return values[len(batch["expression"]) :]


def _emotions_error(
    name: str, outputs: NetworkOutputs, batch: Batch, hidden: tuple[int, ...], spared: str = ""
) -> Tensor:
    """Return the mean divergence over all real faces; 0 for faces unlabelled or with it hidden.

    Faces weigh less, the larger their share of the emotion ``spared``.
    """
    shares = batch["emotions"]
    shown = torch.isfinite(shares).all(1)
    for part in hidden:
        shown = shown & (batch["covered"] != part)
    if spared:
        shown = shown * (1 - shares[:, EMOTIONS.index(spared)].nan_to_num())
    log_read = functional.log_softmax(outputs[name].float(), 1)
    error = functional.kl_div(log_read, shares.nan_to_num(), reduction="none").sum(1)
    return (error * shown).mean() + _HEAD_WEIGHT * outputs[f"{name}_distance"]


def _mean_where(error: Tensor, known: Tensor) -> Tensor:
    """Return the mean of ``error`` (...) where ``known`` (...); 0 where nothing is."""
    return (error * known).sum() / known.sum().clamp_min(1)


def _centred(values: Tensor, known: Tensor, count: Tensor) -> Tensor:
    """(R, E) → (R, E) minus the mean of the known values of each column, 0 where unknown."""
    return (values - (values * known).sum(0) / count.clamp_min(1)) * known


def _drawn_faces(outputs: NetworkOutputs, batch: Batch) -> Tensor:
    return outputs["picture"][len(outputs["picture"]) - len(batch["weak"]) :]


def _sources(outputs: NetworkOutputs, batch: Batch) -> Tensor:
    """Return the sources of the drawn pictures, (D, 3, S, S) in [0, 1]."""
    return batch["images"][outputs["drawn"]].float().div(255).expand(-1, 3, -1, -1)


def _picture_error(outputs: NetworkOutputs, batch: Batch) -> Tensor:
    target = batch["target"].float().permute(0, 3, 1, 2) / 255
    return outputs["picture"][: len(target)] - target


def _weak_error(
    outputs: NetworkOutputs, batch: Batch, statistics: PairStatistics, flipped: bool
) -> Tensor:
    rows = batch["flipped"] == flipped
    weak = outputs["weak"].detach().clamp(0, 1)
    wanted = weak[:, statistics.mirror] if flipped else weak
    error = outputs["coefficients"][len(batch["expression"]) :] - wanted
    # Half of the faces are flipped; twice the sum over all is the mean over that half.
    return 2 * (statistics.code_error(error) * rows).mean()


def _unit(features: Tensor) -> Tensor:
    return functional.normalize(features.float(), dim=1)
