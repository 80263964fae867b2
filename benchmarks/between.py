"""Compare remedies that need no training: changes of the code between encoder and decoder.

    python benchmarks/between.py compact --renders RENDERS --crossed CROSSED --faces ALIGNED \\
        --json between.json

The goals on photographs and crossed renders, measured as in ``judge-normalizer``, for:

shipped     as it is
unstretched predictions without calibration gain
still       values below 0.08 are set to 0 (a dead zone); the rest is rescaled to [0, 1]
even        left and right are averaged, so that an asymmetric resting face is not shown
mirror      predictions averaged over a picture and its mirror image
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from normpipe.stages.judging.criteria.crossed import expressions_of, probe_hits, small
from normpipe.stages.judging.criteria.synthetic import GROUPS, columns, landmark_errors, r2
from normpipe.stages.judging.criteria.transfer import measure_transfer
from normpipe.stages.judging.criteria.zero_shot import measure_zero_shot
from normpipe.stages.judging.frozen_reader import open_reader
from normpipe.stages.judging.labelled_faces import load_real
from normpipe.stages.judging.renders import load_renders, normalize_all
from normpipe.stages.judging.seen_faces import NamedCoefficients
from normpipe.stages.networks.files.normalizer_file import open_normalizer
from normpipe.stages.networks.reader import as_images
from normpipe.stages.training.pictures import mirrored

STILL = 0.08
BATCH = 64


def readings(network, pictures: NDArray, mirror: bool = False) -> NDArray:
    """(N, E), not calibrated or clamped."""
    predicted = []
    with torch.inference_mode():
        for start in range(0, len(pictures), BATCH):
            images = as_images(pictures[start : start + BATCH])
            images = images.flip(-1) if mirror else images
            predicted.append(network.encode(images).coefficients.numpy())
    return np.concatenate(predicted)


def remedies(network, names: tuple[str, ...]) -> dict[str, Callable[[NDArray, NDArray], NDArray]]:
    """Name → (readings, readings of the mirror image) → (N, E) the code to draw."""
    gain, offset = network.gain.numpy(), network.offset.numpy()
    other = np.asarray(mirrored(names))

    def stretched(raw: NDArray, by: NDArray = gain) -> NDArray:
        return ((raw - offset) * by).clip(0, 1)

    def even(code: NDArray) -> NDArray:
        return (code + code[:, other]) / 2

    return {
        "shipped": lambda raw, _: stretched(raw),
        "unstretched": lambda raw, _: stretched(raw, np.ones_like(gain)),
        "still": lambda raw, _: ((stretched(raw) - STILL) / (1 - STILL)).clip(0, 1),
        "even": lambda raw, _: even(stretched(raw)),
        "mirror": lambda raw, flipped: stretched((raw + flipped[:, other]) / 2),
    }


def drawn(network, code: NDArray) -> NDArray:
    """(N, S, S, 3) uint8 RGB, through the codec of the normalize stage."""
    waiting = iter(np.array_split(code, range(BATCH, len(code), BATCH)))

    def normalize(_: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return network.draw(torch.from_numpy(next(waiting).astype(np.float32))).clamp(0, 1)

    return normalize_all(normalize, np.zeros((len(code), 2, 2), np.uint8), BATCH)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--renders", type=Path, required=True)
    parser.add_argument("--crossed", type=Path, required=True)
    parser.add_argument("--faces", type=Path, required=True, help="aligned, with labels")
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    opened = open_normalizer(args.model)
    network, reader = opened.module, open_reader()
    renders = load_renders([args.renders], "test", None)
    crossed = load_renders([args.crossed], None)
    faces = load_real(args.faces)
    seen = {
        name: (readings(network, pictures), readings(network, pictures, mirror=True))
        for name, pictures in (
            ("renders", renders.source), ("crossed", crossed.source), ("faces", faces.images),
        )
    }  # fmt: skip
    exact = reader(renders.target)
    groups = expressions_of(crossed)
    people = len(np.unique(crossed.identity))
    found: dict[str, dict[str, float]] = {}
    for name, remedy in remedies(network, opened.expression_names).items():
        values: dict[str, float] = {}
        read = reader(drawn(network, remedy(*seen["renders"])))
        for movement, (stems, _) in GROUPS.items():
            where = columns(renders.expression_names, stems)
            truth = renders.expression[:, where]
            possible = r2(exact.coefficients[:, where], truth)
            values[movement] = r2(read.coefficients[:, where], truth) / possible
        values["landmark error, %"] = float(landmark_errors(renders, read.points).mean())
        pictures = drawn(network, remedy(*seen["crossed"]))
        for kind, features in (
            ("pixels", small(pictures)),
            ("reader", reader(pictures).coefficients),
        ):
            hits = probe_hits(features, crossed.identity, groups)
            values[f"crossed, {kind}"] = people * float(hits.mean())
        made = drawn(network, remedy(*seen["faces"]))
        codes = NamedCoefficients(reader(made).coefficients, reader.expression_names)
        figures = measure_zero_shot(faces, codes) + measure_transfer(
            faces.images, made, faces.emotions, faces.people, faces.sources, faces.parts
        )
        for figure in figures:
            if figure.goal and not figure.group:
                values[figure.name] = figure.value
        found[name] = {key: round(value, 4) for key, value in values.items()}
        print(name, json.dumps(found[name]), flush=True)
        args.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
