"""fit-normalizer: trains a normalizer on synthesized pairs and, optionally, real faces.

With ``method = "coefficients"`` the two halves of a network are trained separately: the decoder
draws exact coefficients, the encoder reads them. With ``"direct"`` the decoder may be pretrained
this way; then the whole network is trained end to end, and errors in the picture propagate to the
encoder. A killed run resumes from the last checkpoint, with the same result.
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
from ...networks.base import NormalizerNetwork, is_separable
from ...networks.compact import CompactDecoder
from ...networks.files.checkpoint import save_tensors
from ...networks.files.mae_checkpoints import load_encoder
from ...networks.files.normalizer_file import open_normalizer
from ...networks.norface import NorfaceNormalizer
from ..pictures import mirrored
from ..trainer import make_fabric
from .data import TrainingData, load_training_data
from .fit_settings import FitNormalizerConfig
from .phases import TrainingPhases
from .report import evaluate_network, sheet_of_renders, target_notes, write_sheet
from .scores import degraded_set, read_coefficients

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FitResult:
    """The result of training.

    Attributes:
        weights: the file of the finished network.
        scores: on held-out people; empty except in the first process.
        finished: False if its minutes ran out: the same command resumes it.
    """

    weights: Path
    scores: dict[str, Any]
    finished: bool = True


def fit(
    config: FitNormalizerConfig,
    sets: list[Path],
    output: Path,
    faces: list[Path] | None = None,
    labels: list[Path] | None = None,
    deadline: Callable[[], bool] | None = None,
) -> FitResult:
    """Train on synthesized datasets and real faces; write weights, scores, logs and sheets.

    Args:
        config: settings.
        sets: outputs of ``normpipe synthesize``, including those of ``config.sets``.
        output: output folder; a stopped run resumes there.
        faces: outputs of ``normpipe run``: aligned real faces.
        labels: lists with their labels, or outputs of ``normpipe run``; None: unlabelled.
        deadline: returns True when it is time to save and stop; by default after the configured
            minutes.

    Raises:
        InputError: the data are not synthesized pairs, settings conflict, or ``output`` holds
            another run's checkpoint.
    """
    deadline = deadline or make_deadline(config)
    output.mkdir(parents=True, exist_ok=True)
    if config.threads:
        torch.set_num_threads(config.threads)
    cv2.setNumThreads(1)  # its own threads would compete with ours
    fabric = _fabric(config)
    fabric.launch()
    network = _empty_network(config)
    data = load_training_data(config, network, sets, faces or [], labels)
    fabric.seed_everything(config.seed, verbose=False)
    network = build_normalizer(config, len(data.train.expression_names))
    if len(data.train.target_of):
        resting = data.train.resting().transpose(2, 0, 1).astype(np.float32) / 255
        network.init_target(torch.from_numpy(resting))
    if config.begin:
        load_initial_weights(network, config, data.train.expression_names)
    phases = TrainingPhases(config, network, data, fabric, output)
    weights = output / f"{config.network}.safetensors"
    if not phases.run(deadline):
        return FitResult(weights, {}, finished=False)
    if not fabric.is_global_zero:
        return FitResult(weights, {})
    return finish_training(config, network.cpu().eval(), data, phases.summary(), weights)


def check_settings(config: FitNormalizerConfig) -> None:
    """Raise InputError for settings that are wrong whatever the data: before hours of rendering."""
    _fabric(config)
    _empty_network(config)
    if config.begin_share and not config.begin:
        raise InputError("fit_normalizer.begin_share needs weights to begin with: set begin")


def _fabric(config: FitNormalizerConfig) -> Fabric:
    devices, nodes = config.devices, config.nodes
    return make_fabric(config.device, config.precision, "fit_normalizer.device", devices, nodes)


def finish_training(
    config: FitNormalizerConfig,
    network: NormalizerNetwork,
    data: TrainingData,
    training: dict[str, Any],
    weights: Path,
) -> FitResult:
    """Calibrate, score on people never trained on, and write weights, card and sheet."""
    if config.mirror and is_separable(network):
        network.set_mirror([int(place) for place in mirrored(data.train.expression_names)])
    if config.method == "coefficients":
        calibrate(network, data, config)
    scores = evaluate_network(network, data.test, data.train, config.seed)
    output = weights.parent
    if len(data.test.target_of):
        write_sheet(sheet_of_renders(network, data.test), str(output / "sheet.png"))
    target = target_notes(data.train, output)
    notes = {
        "network": config.network,
        "settings": network.settings(),
        "method": config.method,
        "expression_names": ",".join(data.train.expression_names),
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


def _empty_network(config: FitNormalizerConfig) -> NormalizerNetwork:
    """Build the network on the meta device: its sizes, without memory for weights."""
    with torch.device("meta"):
        return build_normalizer(config.model_copy(update={"encoder": ""}), 1)


def build_normalizer(config: FitNormalizerConfig, expressions: int) -> NormalizerNetwork:
    """Build the configured network for a number of coefficients; load its encoder if given."""
    name = config.network
    if name not in NETWORKS:
        raise InputError(f"unknown network '{name}'{nearest(name, list(NETWORKS))}")
    try:
        network = NETWORKS[name](**{"expressions": expressions, **config.network_settings})
    except (TypeError, ValueError) as error:
        raise InputError(f"fit_normalizer.network_settings are wrong for {name}: {error}") from None
    if not is_separable(network) and config.method != "direct":
        raise InputError(
            f"{name} with more than coefficients between its halves can only be trained end to "
            "end: set fit_normalizer.method = 'direct', or "
            "fit_normalizer.network_settings.residual_tokens = 0"
        )
    if config.encoder:
        if not isinstance(network, NorfaceNormalizer):
            raise InputError(f"fit_normalizer.encoder is for norface, not for {name}")
        load_encoder(network.get_submodule("encoder"), Path(config.encoder), interpolate=True)  # type: ignore[arg-type]
    return network


def load_initial_weights(
    network: NormalizerNetwork, config: FitNormalizerConfig, names: Sequence[str]
) -> None:
    """Load trained weights to start from, without their calibration.

    Of a decoder of another kind, all but the last layers.

    Raises:
        InputError: they are of another network or of other shapes.
    """
    found = open_normalizer(config.begin)
    settings, wanted = _sizes(found.module), _sizes(network)
    decoders = settings.pop("decoder", None), wanted.pop("decoder", None)
    if found.network != config.network or settings != wanted:
        raise InputError(
            f"{found.path} holds a {found.network} with {settings}, not the "
            f"{config.network} with {wanted} that is to be trained"
        )
    if found.expression_names != tuple(names):
        raise InputError(f"{found.path} reads other expression shapes than the pairs have")
    if decoders[0] == decoders[1]:
        network.load_state_dict(found.module.state_dict())
    elif is_separable(network) and is_separable(found.module):
        if not config.decoder_steps:
            raise InputError(
                f"{found.path} has the decoder '{decoders[0]}', not '{decoders[1]}', which must be "
                "trained: set fit_normalizer.decoder_steps above 0"
            )
        (encoder, decoder), (known, like) = network.halves(), found.module.halves()
        encoder.load_state_dict(known.state_dict())
        if isinstance(decoder, CompactDecoder) and isinstance(like, CompactDecoder):
            decoder.begin_like(like)
    if is_separable(network):
        # The calibration belongs to the finished weights.
        network.get_buffer("offset").zero_()
        network.get_buffer("gain").fill_(1.0)


def _sizes(network: NormalizerNetwork) -> dict[str, Any]:
    """Return a network's settings without ``mirror``, which only finished networks have."""
    return {name: value for name, value in network.settings().items() if name != "mirror"}


def calibrate(network: NormalizerNetwork, data: TrainingData, config: FitNormalizerConfig) -> None:
    """Subtract from each reading what the encoder reads off resting faces, plus a margin.

    The margin, ``config.still``, keeps asymmetric or heavy resting faces from passing as
    expressions. ``config.most_gain`` above 1 stretches readings, which a squared error shrinks
    towards the mean, back to the truth's spread: livelier pictures, larger errors. Only if encoder
    and decoder were trained separately: otherwise the decoder has adapted to the readings.
    """
    images, truth = degraded_set(data.held_out, config.seed)
    reading = read_coefficients(network, images)
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


def make_deadline(config: FitNormalizerConfig) -> Callable[[], bool]:
    """Return a function that tells whether the configured minutes, from now on, are over."""
    if config.minutes is None:
        return lambda: False
    end = time.monotonic() + 60 * config.minutes
    return lambda: time.monotonic() >= end


def _recipe(config: FitNormalizerConfig) -> dict[str, Any]:
    """Return the settings for the card: of the sets only what affects them, and no local paths."""
    sets = {name: one.shaping() for name, one in config.sets.items()}
    return {**config.model_dump(mode="json", exclude={"sets"}), "sets": sets}


def _without_times(training: dict[str, Any]) -> dict[str, Any]:
    """Return the summary without times, so that equal weights give equal files."""
    parts = {name: {"steps": part["steps"]} for name, part in training["parts"].items()}
    return {name: v for name, v in training.items() if name != "cpu_seconds"} | {"parts": parts}
