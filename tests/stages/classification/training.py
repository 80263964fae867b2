"""Faces whose label anybody can see, and short trainings. As a script, it trains and tests."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from normpipe.stages.classification.listing import Listing
from normpipe.stages.classification.protocol import Partition
from normpipe.stages.classification.protocol_run import run_protocol
from normpipe.stages.classification.settings import ClassifyConfig, EvaluateConfig
from normpipe.stages.classification.tasks import Task
from normpipe.stages.classify import TrainResult, plan_partitions, train

from .faces import opened

EMOTIONS = ("neutral", "happiness", "surprise")
TINY: dict[str, Any] = {
    "task": "emotion", "device": "cpu", "precision": "fp32", "threads": 1, "workers": 0,
    "epochs": 1, "least_steps": 4, "batch_size": 8, "save_every": 100, "warmup_steps": 2,
    "learning_rate": 0.002, "preset": "small",
}  # fmt: skip


def settings(**change: Any) -> ClassifyConfig:
    return ClassifyConfig.model_validate({**TINY, **change})


def easy_faces(people: int = 15) -> list[tuple[str, dict[str, Any], np.ndarray, np.ndarray]]:
    """(key, labels, original, normalized): two thirds of the people train."""
    rng = np.random.default_rng(0)
    found: list[tuple[str, dict[str, Any], np.ndarray, np.ndarray]] = []
    for who in range(people):
        for k in range(4):
            emotion, strength = EMOTIONS[(who + k) % 3], rng.uniform(3, 5)
            smiles = emotion == "happiness"
            labels = {
                "subject": f"p{who:02}",
                "split": "train" if 3 * who < 2 * people else "test",
                "emotion": emotion,
                "AU1": float(emotion == "surprise"),
                "AU12": float(smiles),
                "AU12_intensity": strength if smiles else 0.0,
            }
            pixels = (drawn(emotion, strength, rng), drawn(emotion, strength, rng))
            found.append((f"d/{who:02}-{k}.png", labels, *pixels))
    return found


def drawn(emotion: str, strength: float, rng: np.random.Generator) -> np.ndarray:
    """(64, 64) noise with a bright mouth or bright eyes."""
    pixels = rng.normal(100, 15, (64, 64))
    if emotion == "happiness":
        pixels[42:54, 16:48] += 20 * strength
    if emotion == "surprise":
        pixels[14:24, 10:24] += 20 * strength
        pixels[14:24, 40:54] += 20 * strength
    return pixels.clip(0, 255)


def run(config: ClassifyConfig, folder: Path, output: Path, **more: Any) -> TrainResult:
    """Train the only part."""
    listing, task, parts = plan_partitions(config, opened(folder))
    return train(config, listing, task, parts[0], output, **more)


def planned(config: ClassifyConfig, folder: Path) -> tuple[Listing, Task, Partition]:
    listing, task, parts = plan_partitions(config, opened(folder))
    return listing, task, parts[0]


if __name__ == "__main__":
    data, output = map(Path, sys.argv[2:])
    given = ClassifyConfig(**json.loads(sys.argv[1]))
    scoring = EvaluateConfig.model_validate({"device": "cpu"})
    run_protocol(given, scoring, plan_partitions(given, opened(data)), output)
