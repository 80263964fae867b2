"""Every loss does what its name says: where it is zero, what it moves, and what it leaves alone."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from normpipe.manifests.vocabularies import EMOTIONS
from normpipe.stages.networks import NETWORKS
from normpipe.stages.networks.compact import CompactNormalizer
from normpipe.stages.synthesis.scene.expressions import RENDERED_UNITS
from normpipe.stages.training.face_labels import FaceLabels
from normpipe.stages.training.normalizer.batches import Batches, Recipe
from normpipe.stages.training.normalizer.fit_settings import FitNormalizerConfig, LossWeights
from normpipe.stages.training.normalizer.label_heads import (
    LOWER_COVERED,
    UPPER_COVERED,
    LabelHeads,
)
from normpipe.stages.training.normalizer.losses import LOSSES, Objective
from normpipe.stages.training.normalizer.pair_statistics import PairStatistics
from normpipe.stages.training.normalizer.step_views import Views
from normpipe.stages.training.real_faces import FaceCache
from normpipe.stages.training.synthesized import load_pairs

PAIRS, DRAWN, FACES = 4, 2, 8
FROZEN = {"identity", "expression"}
#: Parts of the compact network that a loss may move, and no others.
ENCODER = {"encoder.body", "encoder.squeeze", "encoder.hidden"}
CODE = ENCODER | {"encoder.coefficients"}
ALL = CODE | {"decoder"}
MOVES = {
    "coefficients": CODE,
    "displacement": CODE,
    "landmarks": ENCODER | {"encoder.landmarks"},
    "pose": ENCODER | {"encoder.pose"},
    "picture": ALL,
    "edges": ALL,
    "regions": ALL,
    "consistency": CODE,
    "flip": CODE,
    "steadiness": ALL,
    "idempotence": ALL,
    "cycle": CODE,
    "identity": ALL,
    "expression": ALL,
    "emotions": CODE,
    "emotions_upper": CODE,
    "emotions_lower": CODE,
    "occurrence": CODE,
    "intensity": CODE,
    "shapes": CODE,
    "negative": CODE,
    "excess": CODE,
    "neutral": CODE,
}
#: (output, its rows) that a loss may pull at: pairs are rows 0-3, real faces 4-11; of the
#: drawn pictures pairs are 0-1, real faces 2-9; every second face is flipped. What heads read has
#: rows of real faces alone: the mouth of 1 is covered, brows and eyes of 2; 7 has no labels.
PULLS = {
    "coefficients": {"coefficients": [0, 1, 2, 3]},
    "displacement": {"coefficients": [0, 1, 2, 3]},
    "landmarks": {"landmarks": [0, 1, 2, 3]},
    "pose": {"pose": [0, 1, 2, 3]},
    "picture": {"picture": [0, 1]},
    "edges": {"picture": [0, 1]},
    "regions": {"picture": [0, 1]},
    "consistency": {"coefficients": [4, 6, 8, 10]},
    "flip": {"coefficients": [5, 7, 9, 11]},
    "steadiness": {"picture": [2, 4, 6, 8]},
    "idempotence": {"again_picture": [*range(10)]},
    "cycle": {"again": [*range(10)]},
    "identity": {"picture": [*range(10)]},
    "expression": {"picture": [*range(10)]},
    "emotions": {"emotions": [0, 3, 4, 5, 6]},
    "emotions_upper": {"emotions_upper": [0, 1, 3, 4, 5, 6]},
    "emotions_lower": {"emotions_lower": [0, 2, 3, 4, 5, 6]},
    "occurrence": {"occurrence": [0, 1, 2, 3, 4, 5, 6]},
    "intensity": {"intensity": [0, 1, 2, 3, 4, 5, 6]},
    "shapes": {"coefficients": [4, 5, 6, 7, 8, 9, 10]},
    "negative": {"coefficients": [4, 5, 6, 7, 8, 9, 10, 11]},
    "excess": {"coefficients": [4, 5, 6, 7, 8, 9, 10, 11]},
    "neutral": {"coefficients": [4]},
}


class Features(torch.nn.Module):
    """A frozen network: what a picture looks like on a coarse grid."""

    def __init__(self):
        super().__init__()
        self.pool = torch.nn.AdaptiveAvgPool2d(6)

    def forward(self, images):
        return self.pool(images).flatten(1) - 0.4


@pytest.fixture(scope="module")
def cache(tiny_pairs):
    return load_pairs([tiny_pairs], "train")


@pytest.fixture(scope="module")
def batch(cache):
    count = len(cache)
    faces = FaceCache(
        tuple(f"f{i}" for i in range(count)), cache.source, labels=some_labels(cache, count)
    )
    found = Batches(cache, Recipe(PAIRS, DRAWN, FACES, 112), 0, faces)[0]
    # The same rows have the same fate, whatever the order of the faces.
    order = [*range(FACES)]
    fixed = FaceLabels(*(values[order] for values in faces.labels.by_kind().values()))
    found |= {name: torch.from_numpy(values) for name, values in fixed.by_kind().items()}
    found["covered"] = torch.tensor([0, LOWER_COVERED, UPPER_COVERED, 0, 0, 0, 0, 0])
    return found


def some_labels(cache, count):
    """Labels of all kinds: the first face is neutral, the eighth has none."""
    rng = np.random.default_rng(1)
    emotions = rng.dirichlet([0.3] * len(EMOTIONS), count)
    emotions[:, 0] *= 0.4
    emotions[0] = 0
    emotions[0, 0] = 1
    emotions /= emotions.sum(1, keepdims=True)
    units, shapes = len(RENDERED_UNITS), len(cache.expression_names)
    found = FaceLabels(
        emotions.astype(np.float32),
        rng.integers(0, 2, (count, units)).astype(np.float32),
        rng.uniform(0, 1, (count, units)).astype(np.float32),
        rng.random((count, shapes)).astype(np.float32),
    )
    for values in found.by_kind().values():
        values[FACES - 1] = np.nan
    return found


@pytest.fixture(scope="module")
def statistics(cache):
    return PairStatistics(cache)


@pytest.fixture
def outputs(cache, batch):
    """Plausible outputs, all wrong."""
    torch.manual_seed(0)
    shapes, faces = len(cache.expression_names), DRAWN + FACES
    side = cache.targets([0]).shape[1]
    sizes = {
        "coefficients": (PAIRS + FACES, shapes), "landmarks": (PAIRS + FACES, 136),
        "pose": (PAIRS + FACES, 3),
        "picture": (faces, 3, side, side), "weak": (FACES, shapes),
        "weak_picture": (FACES, 3, side, side), "again": (faces, shapes),
        "again_picture": (faces, 3, side, side),
    }  # fmt: skip
    made = {name: (0.2 + 0.6 * torch.rand(size)).requires_grad_() for name, size in sizes.items()}
    with torch.no_grad():
        made["coefficients"][PAIRS:, 0] = -0.3  # nobody reads this off a photograph
        made["coefficients"][PAIRS:, 1] = 1.3  # nor this
    units, emotions = (FACES, len(RENDERED_UNITS)), (FACES, len(EMOTIONS))
    read = dict.fromkeys(("emotions", "emotions_upper", "emotions_lower"), emotions)
    read |= {"occurrence": units, "intensity": units}
    made |= {name: torch.randn(size).requires_grad_() for name, size in read.items()}
    near = {f"{name}_distance": torch.zeros(()) for name in read}
    return {**made, **near, "drawn": torch.tensor([0, 1, *range(PAIRS, PAIRS + FACES)])}


def of(name, statistics, frozen=True):
    return Objective({name: 1.0}, statistics, {n: Features() for n in FROZEN} if frozen else {})


def pulled(outputs):
    """Rows of the outputs that a gradient reached."""
    found = {}
    for name, tensor in outputs.items():
        if tensor.grad is not None:
            rows = tensor.grad.flatten(1).abs().sum(1).nonzero().flatten().tolist()
            if rows:
                found[name] = rows
    return found


def test_every_loss_has_a_weight_and_a_test():
    assert list(LOSSES) == list(LossWeights.model_fields)
    assert set(LOSSES) == set(MOVES) == set(PULLS)


@pytest.mark.parametrize("name", LOSSES)
def test_it_pulls_at_nothing_else(name, outputs, batch, statistics):
    of(name, statistics)(outputs, batch)["total"].backward()
    assert pulled(outputs) == PULLS[name]


@pytest.mark.parametrize("name", LOSSES)
def test_following_it_brings_it_down(name, outputs, batch, statistics):
    """Plain gradient descent on the outputs: the discrepancy that it names goes away."""
    objective = of(name, statistics)
    free = [outputs[part] for part in PULLS[name]]
    optimizer = torch.optim.Adam(free, lr=0.02)
    first = float(objective(outputs, batch)["total"].detach())
    for _ in range(60):
        optimizer.zero_grad()
        objective(outputs, batch)["total"].backward()
        optimizer.step()
    assert float(objective(outputs, batch)["total"].detach()) < 0.5 * first


def perfect(name, outputs, batch, statistics):
    """The outputs of a network that makes no mistake of this kind."""
    done = {part: value.detach().clone() for part, value in outputs.items()}
    target = batch["target"].float().permute(0, 3, 1, 2) / 255
    if name in ("coefficients", "displacement"):
        done["coefficients"][:PAIRS] = batch["expression"]
    elif name in ("landmarks", "pose"):
        done[name][:PAIRS] = batch[name]
    elif name in ("picture", "edges", "regions"):
        done["picture"][:DRAWN] = target
    elif name in ("consistency", "flip"):
        mirrored = done["weak"][:, statistics.mirror]
        wanted = torch.where(batch["flipped"][:, None], mirrored, done["weak"])
        done["coefficients"][PAIRS:] = wanted
    elif name == "steadiness":
        done["picture"][DRAWN:] = done["weak_picture"]
    elif name == "idempotence":
        done["again_picture"] = done["picture"]
    elif name == "cycle":
        done["again"] = done["coefficients"][done["drawn"]].clamp(0, 1)
    elif name == "identity":
        done["picture"] = statistics.resting.expand_as(done["picture"])
    elif name == "expression":
        small = batch["images"][done["drawn"]].float() / 255
        done["picture"] = small.expand(-1, 3, -1, -1)
    elif name.startswith("emotions"):
        done[name] = batch["emotions"].nan_to_num().clamp_min(1e-9).log()
    elif name == "occurrence":
        done[name] = 40 * batch[name].nan_to_num() - 20
    elif name == "intensity":
        done[name] = batch[name].nan_to_num()
    elif name == "shapes":  # another scale, another zero
        done["coefficients"][PAIRS:] = 0.3 * batch["shapes"].nan_to_num() - 1
    elif name == "negative":
        done["coefficients"].clamp_(min=0)
    elif name == "excess":
        done["coefficients"].clamp_(max=1)
    elif name == "neutral":
        done["coefficients"][PAIRS] = 0
    return done


@pytest.mark.parametrize("name", LOSSES)
def test_it_is_nothing_where_nothing_is_wrong(name, outputs, batch, statistics):
    right = perfect(name, outputs, batch, statistics)
    assert float(of(name, statistics)(right, batch)["total"]) == pytest.approx(0, abs=1e-5)
    assert float(of(name, statistics)(outputs, batch)["total"].detach()) > 1e-3


@pytest.mark.parametrize("name", ["picture", "edges", "regions"])
def test_the_resting_face_scores_one(name, cache, statistics):
    """Over all targets; so weights of losses can be compared."""
    rows = np.arange(len(cache.target_of))
    batch = {"target": torch.from_numpy(cache.targets(rows))}
    outputs = {"picture": statistics.resting.expand(len(rows), -1, -1, -1)}
    assert 0.8 < float(of(name, statistics)(outputs, batch)["total"]) < 1.1


def test_the_average_code_scores_one(cache, statistics):
    code = torch.from_numpy(cache.expression)
    outputs = {"coefficients": code.mean(0).expand(len(code), -1)}
    assert 0.3 < float(of("coefficients", statistics)(outputs, {"expression": code})["total"]) < 1.1


def test_small_regions_count_as_much_as_large_ones(statistics, outputs, batch):
    """An error in the eyes alone costs more than the same error in the background."""

    def cost(mask):
        picture = batch["target"].float().permute(0, 3, 1, 2) / 255 + 0.1 * mask
        return float(of("regions", statistics)({"picture": picture}, batch)["total"])

    brows, eyes, mouth = ((part > part.max() / 2).float() for part in statistics.regions)
    outside = (statistics.regions.sum(0) == 0).float()
    assert min(cost(brows), cost(eyes), cost(mouth)) > 20 * cost(outside)


def moved_parts(network):
    parts = set()
    for name, parameter in network.named_parameters():
        if parameter.grad is not None and parameter.grad.abs().sum() > 0:
            pieces = name.split(".")
            parts.add(pieces[0] if pieces[0] == "decoder" else ".".join(pieces[:2]))
    return parts


@pytest.mark.parametrize("name", LOSSES)
def test_only_its_parts_of_the_network_move(name, cache, batch, statistics):
    torch.manual_seed(0)
    network = CompactNormalizer(len(cache.expression_names))
    for layer in (network.decoder.flow, network.decoder.residual):
        torch.nn.init.normal_(layer.weight, std=0.02)  # or its gradients to the code are nothing
    if name == "excess":
        torch.nn.init.constant_(network.encoder.coefficients.bias, 2.0)
    objective = of(name, statistics)
    views = Views(network, objective.needs, LabelHeads(cache.expression_names)).train()
    before = [parameter.detach().clone() for parameter in network.parameters()]
    objective(views(batch), batch)["total"].backward()
    assert moved_parts(network) == MOVES[name]
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    assert network.training


@pytest.mark.parametrize("name", ["coefficients", "picture", "steadiness", "idempotence", "cycle"])
def test_a_network_that_only_learns_whole_is_shown_the_same(name, cache, batch, statistics):
    """Norface in small: no halves to take apart, pictures of its own size."""
    torch.manual_seed(0)
    side = cache.targets([0]).shape[1]
    network = NETWORKS["norface"](
        expressions=len(cache.expression_names), size="T", image_size=side, merge_depth=1,
        decoder_depth=1,
    )  # fmt: skip
    for layer in (network.painter.flow, network.painter.paint):
        torch.nn.init.normal_(layer.weight, std=0.02)  # begins as the resting face, all the same
    objective = of(name, statistics)
    terms = objective(Views(network, objective.needs).train()(batch), batch)
    terms["total"].backward()
    assert torch.isfinite(terms["total"]) and moved_parts(network)


def test_weights_are_checked_by_name():
    from normpipe.pipeline.config import validate_settings
    from normpipe.pipeline.errors import InputError

    with pytest.raises(InputError, match=r"fit_normalizer\.losses\.consistancy.*'consistency'"):
        validate_settings(FitNormalizerConfig, {"losses": {"consistancy": 1}}, "fit_normalizer")
    with pytest.raises(ValidationError):
        LossWeights(pose=-1)
