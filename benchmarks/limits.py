"""What keeps a normalizer from its goals? R² on held-out renders, by difficulty.

    python benchmarks/limits.py compact --renders RENDERS
    python benchmarks/limits.py compact fit/compact.safetensors --renders RENDERS --json limits.json

R² of the predicted coefficients, averaged over the shapes of a movement, on: all pictures; heads
turned little (yaw within 15, pitch within 10 degrees); heads turned far (yaw beyond 30); all
pictures with each person's resting offset known (the mean error on pictures without the movement is
subtracted), which can be estimated from several pictures of a person, but not from one.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

import normpipe
from normpipe.stages.networks.files.normalizer_file import open_normalizer

MOVEMENTS = {
    "jaw": ["jawOpen"],
    "smile": ["mouthSmile_L", "mouthSmile_R"],
    "brow raise": ["browInnerUp_L", "browInnerUp_R", "browOuterUp_L", "browOuterUp_R"],
    "brow down": ["browDown_L", "browDown_R"],
    "blink": ["eyeBlink_L", "eyeBlink_R"],
    "eyeWide": ["eyeWide_L", "eyeWide_R"],
    "press": ["mouthPress_L", "mouthPress_R"],
    "dimple": ["mouthDimple_L", "mouthDimple_R"],
    "frown": ["mouthFrown_L", "mouthFrown_R"],
}
STILL = 0.02


def r2(truth: NDArray, predicted: NDArray, rows: NDArray) -> float:
    spread = ((truth[rows] - truth[rows].mean(0)) ** 2).sum(0)
    error = ((predicted[rows] - truth[rows]) ** 2).sum(0)
    return float((1 - error / np.maximum(spread, 1e-9)).mean())


def without_resting(truth: NDArray, predicted: NDArray, people: NDArray) -> NDArray:
    freed = predicted.copy()
    for who in np.unique(people):
        mine = people == who
        for shape in range(truth.shape[1]):
            still = mine & (truth[:, shape] < STILL)
            if still.sum() >= 2:
                freed[mine, shape] -= (predicted[still, shape] - truth[still, shape]).mean()
    return freed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--renders", type=Path, required=True, help="a held-out set")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    columns = ["image", "expression", "identity", "yaw_deg", "pitch_deg"]
    rows = normpipe.open_dataset(args.renders / "pairs", columns=columns)
    shard = next((args.renders / "pairs").glob("shard-*.parquet"))
    names = pq.read_schema(shard).metadata[b"expression_names"].decode().split(",")
    items = rows.__getitems__(list(range(len(rows))))
    truth_all = np.array([item["expression"] for item in items])
    people = np.array([item["identity"] for item in items])
    yaw = np.abs([item["yaw_deg"] for item in items])
    pitch = np.abs([item["pitch_deg"] for item in items])
    everyone = np.ones(len(items), bool)
    groups = {
        "all": everyone,
        "turned little": (yaw < 15) & (pitch < 10),
        "turned far": yaw > 30,
        "resting known": everyone,
    }
    print(f"{len(items)} pictures of {len({*people})} people;", end=" ")
    print(", ".join(f"{name}: {int(of.sum())}" for name, of in groups.items()))
    found: dict[str, dict[str, dict[str, float]]] = {}
    for model in args.models:
        network = open_normalizer(model).module
        batches = []
        with torch.inference_mode():
            for start in range(0, len(items), 64):
                images = torch.stack([item["image"] for item in items[start : start + 64]])
                batches.append(network.read(images.float() / 255).numpy())
        predicted_all = np.concatenate(batches)
        found[model] = {}
        print(f"\n{model}\n{'':12}" + "".join(f"{name:>15}" for name in groups))
        for movement, shapes in MOVEMENTS.items():
            wanted = [names.index(shape) for shape in shapes]
            truth, predicted = truth_all[:, wanted], predicted_all[:, wanted]
            freed = without_resting(truth, predicted, people)
            values = {
                name: r2(truth, freed if name == "resting known" else predicted, of)
                for name, of in groups.items()
            }
            found[model][movement] = values
            print(f"{movement:12}" + "".join(f"{value:15.2f}" for value in values.values()))
    if args.json:
        args.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
