"""fit-normalizer: trains a normalizer on synthesized pairs and, mixed in, real faces.

With ``method = "coefficients"`` the two halves of a network learn apart: the decoder draws exact
coefficients, the encoder reads them. With ``"direct"`` the decoder may begin so, and then the whole
network learns end to end: what is wrong in the picture flows into the encoder. All may be killed at
any time and goes on from the last saved state as if it had not been.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from lightning.fabric import Fabric

from ....pipeline.errors import InputError, nearest
from ....pipeline.stage import sha256_file
from ....pipeline.store.commit import write_json
from ...networks import NETWORKS
from ...networks.base import CodeNormalizer, Normalizer
from ...networks.compact import CompactNormalizer
from ...networks.files.checkpoint import save_tensors
from ...networks.files.mae_checkpoints import load_encoder
from ...networks.files.normalizer_file import open_normalizer
from ..pictures import mirrored
from ..trainer import make_fabric
from .course import Course
from .data import Material, load_material
from .fit_settings import FitNormalizerConfig
from .notes import target_notes
from .report import evaluate_network, sheet_of_renders, write_sheet
from .scores import degraded_set, read_all

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FitResult:
    """What training leaves behind.

    Attributes:
        weights: the file of the finished network.
        scores: on held-out people; empty in other processes than the first.
        finished: False when its minutes were over: the same command goes on.
    """

    weights: Path
    scores: dict[str, Any]
    finished: bool = True


def fit(
    config: FitNormalizerConfig,
    data: list[Path],
    output: Path,
    faces: list[Path] | None = None,
    deadline: Callable[[], bool] | None = None,
) -> FitResult:
    """Train on synthesized datasets and real faces; write weights, scores, logs and sheets.

    Args:
        config: how.
        data: outputs of ``normpipe synthesize``, those of ``config.sets`` among them.
        output: where to; a run that was stopped goes on there.
        faces: outputs of ``normpipe run``: aligned real faces, without labels.
        deadline: says when to save and stop; by default the configured minutes from now.

    Raises:
        InputError: the data are no synthesized pairs, settings do not fit each other, or ``output``
            holds another run's state.
    """
    deadline = deadline or end_of_leg(config)
    output.mkdir(parents=True, exist_ok=True)
    if config.threads:
        torch.set_num_threads(config.threads)
    cv2.setNumThreads(1)  # its own threads would only get in the way
    fabric = _fabric(config)
    fabric.launch()
    network = _empty_network(config)
    material = load_material(config, network, data, faces or [])
    fabric.seed_everything(config.seed, verbose=False)
    network = build_network(config, len(material.train.expression_names))
    if len(material.train.target_of):
        resting = material.train.resting().transpose(2, 0, 1).astype(np.float32) / 255
        network.begin_at(torch.from_numpy(resting))
    if config.begin:
        begin_from(network, config, material.train.expression_names)
    course = Course(config, network, material, fabric, output)
    weights = output / f"{config.network}.safetensors"
    if not course.run(deadline):
        return FitResult(weights, {}, finished=False)
    if not fabric.is_global_zero:
        return FitResult(weights, {})
    return finish(config, network.cpu().eval(), material, course.summary(), weights)


def check_settings(config: FitNormalizerConfig) -> None:
    """Raise InputError for what can be told before there are data, so before hours of rendering."""
    _fabric(config)
    _empty_network(config)


def _fabric(config: FitNormalizerConfig) -> Fabric:
    devices, nodes = config.devices, config.nodes
    return make_fabric(config.device, config.precision, "fit_normalizer.device", devices, nodes)


def finish(
    config: FitNormalizerConfig,
    network: Normalizer,
    material: Material,
    training: dict[str, Any],
    weights: Path,
) -> FitResult:
    """Calibrate, score on people that training never saw, and write all that is left."""
    if config.mirror and isinstance(network, CompactNormalizer):
        network.look_twice([int(place) for place in mirrored(material.train.expression_names)])
    if config.method == "coefficients":
        calibrate(network, material, config)
    scores = evaluate_network(network, material.test, material.train, config.seed)
    output = weights.parent
    if len(material.test.target_of):
        write_sheet(sheet_of_renders(network, material.test), str(output / "sheet.png"))
    target = target_notes(material.train, output)
    notes = {
        "network": config.network,
        "settings": network.settings(),
        "method": config.method,
        "expression_names": ",".join(material.train.expression_names),
        "target": target,
        "training": _without_times(training),
    }
    save_tensors(network.state_dict(), weights, notes)
    card = {
        "sha256": sha256_file(weights),
        "network": config.network,
        "settings": network.settings(),
        "target": target,
        "recipe": _recipe(config),
        "training": training,
        "scores": scores,
    }
    write_json(weights.with_suffix(".json"), card)
    return FitResult(weights, scores)


def _empty_network(config: FitNormalizerConfig) -> Normalizer:
    """The network's sizes, without memory for its weights."""
    with torch.device("meta"):
        return build_network(config.model_copy(update={"encoder": ""}), 1)


def build_network(config: FitNormalizerConfig, expressions: int) -> Normalizer:
    """Build the configured network for so many coefficients, its encoder as asked for."""
    name = config.network
    if name not in NETWORKS:
        raise InputError(f"unknown network '{name}'{nearest(name, list(NETWORKS))}")
    try:
        network = NETWORKS[name](**{"expressions": expressions, **config.network_settings})
    except (TypeError, ValueError) as error:
        raise InputError(f"fit_normalizer.network_settings do not fit {name}: {error}") from None
    if not isinstance(network, CodeNormalizer) and config.method != "direct":
        raise InputError(f"{name} learns end to end only: set fit_normalizer.method = 'direct'")
    if config.encoder:
        if isinstance(network, CodeNormalizer):
            raise InputError(f"fit_normalizer.encoder is for norface, not for {name}")
        load_encoder(network.get_submodule("encoder"), Path(config.encoder), interpolate=True)  # type: ignore[arg-type]
    return network


def begin_from(network: Normalizer, config: FitNormalizerConfig, names: Sequence[str]) -> None:
    """Load weights that were trained before, without their calibration.

    Raises:
        InputError: they are another network's, or speak of other shapes.
    """
    found = open_normalizer(config.begin)
    settings, wanted = _sizes(found.module), _sizes(network)
    if found.network != config.network or settings != wanted:
        raise InputError(
            f"{found.path} holds a {found.network} with {settings}, not the "
            f"{config.network} with {wanted} that is to be trained"
        )
    if found.expression_names != tuple(names):
        raise InputError(f"{found.path} reads other expression shapes than the pairs have")
    network.load_state_dict(found.module.state_dict())
    if isinstance(network, CodeNormalizer):
        # What the readings were stretched by belongs to the finished weights.
        network.get_buffer("offset").zero_()
        network.get_buffer("gain").fill_(1.0)


def _sizes(network: Normalizer) -> dict[str, Any]:
    """Its settings but for the mirror, which is the finished network's."""
    return {name: value for name, value in network.settings().items() if name != "mirror"}


def calibrate(network: Normalizer, material: Material, config: FitNormalizerConfig) -> None:
    """Free readings of what the encoder reads off faces that do not move so, and a little more.

    The little, ``config.still``, keeps crooked or heavy resting faces from passing as expressions.
    ``config.most_gain`` above 1 stretches readings, which a squared error draws towards the mean,
    back to the truth's spread: livelier pictures, larger errors. Only where encoder and decoder
    learnt apart: otherwise the decoder knows what it is given.
    """
    images, truth = degraded_set(material.held_out, config.seed)
    reading = read_all(network, images)
    offset, gain = np.zeros(truth.shape[1], np.float32), np.ones(truth.shape[1], np.float32)
    for shape in range(truth.shape[1]):
        resting = truth[:, shape] < 0.02
        if resting.sum() >= 8:
            offset[shape] = np.clip(np.median(reading[resting, shape]), 0, 0.15)
        spread = reading[:, shape].std()
        if spread > 1e-3:
            gain[shape] = np.clip(truth[:, shape].std() / spread, 1.0, config.most_gain)
    # ((r - offset) * gain - still) / (1 - still), as one offset and one gain.
    network.get_buffer("offset").copy_(torch.from_numpy(offset + config.still / gain))
    network.get_buffer("gain").copy_(torch.from_numpy(gain / (1 - config.still)))


def end_of_leg(config: FitNormalizerConfig) -> Callable[[], bool]:
    """Return what says whether the configured minutes, from now on, are over."""
    if config.minutes is None:
        return lambda: False
    end = time.monotonic() + 60 * config.minutes
    return lambda: time.monotonic() >= end


def _recipe(config: FitNormalizerConfig) -> dict[str, Any]:
    """The settings for the card; of the sets what shapes them, and no paths of this machine."""
    sets = {name: one.shaping() for name, one in config.sets.items()}
    return {**config.model_dump(mode="json", exclude={"sets"}), "sets": sets}


def _without_times(training: dict[str, Any]) -> dict[str, Any]:
    """What was done, but for how long it took: equal weights are to be equal files."""
    parts = {name: {"steps": part["steps"]} for name, part in training["parts"].items()}
    return {name: v for name, v in training.items() if name != "cpu_seconds"} | {"parts": parts}
