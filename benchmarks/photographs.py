"""What the shipped weights read off real photographs, zero-shot. Two commands:

    normpipe run --input ../shared/faces/labels.csv --output OUT --until align \
        --set ingest.root=../shared/faces/images --set align.detector=insightface \
        --set align.pack=../shared/insightface/models/mini
    python benchmarks/photographs.py OUT [--split test] [--source lfw] [--weights FILE]

AUC of one expression coefficient between an emotion and neutral, with a 95 % interval from
resampling people. Coefficients are read from the network's code, not from its pictures. The
emotion labels of faces/ are noisy; disgust and sadness come mostly from one source, so a source is
looked at alone.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchmetrics.functional.classification import binary_auroc

import normpipe
from normpipe.stages.networks.checkpoint import find_weights, load_weights, read_notes
from normpipe.stages.networks.compact import CompactNormalizer

RESULTS = Path(__file__).parent / "results" / "photographs.json"
#: Emotion, and the shapes whose mean (left and right) is added up to read it.
QUESTIONS = (
    ("happiness", ("mouthSmile",)),
    ("surprise", ("jawOpen",)),
    ("surprise", ("browInnerUp", "browOuterUp")),
    ("anger", ("browDown",)),
    ("anger", ("noseSneer",)),
    ("sadness", ("browInnerUp",)),
    ("sadness", ("mouthFrown",)),
)
BATCH = 64
RESAMPLES = 1000


def auc(scores: np.ndarray, truth: np.ndarray) -> float:
    return float(binary_auroc(torch.from_numpy(scores), torch.from_numpy(truth.astype(np.int64))))


def interval(
    scores: np.ndarray, truth: np.ndarray, people: np.ndarray, rng: np.random.Generator
) -> tuple[float, float]:
    """95 % interval of the AUC when people, not pictures, are drawn anew."""
    names = np.unique(people)
    of = {name: np.flatnonzero(people == name) for name in names}
    found: list[float] = []
    for _ in range(RESAMPLES):
        rows = np.concatenate([of[name] for name in rng.choice(names, len(names))])
        if 0 < truth[rows].sum() < len(rows):
            found.append(auc(scores[rows], truth[rows]))
    return float(np.quantile(found, 0.025)), float(np.quantile(found, 0.975))


def read(
    job: Path, weights: Path, split: str
) -> tuple[np.ndarray, list[str], list[dict[str, Any]]]:
    """(N, E) coefficients, the shapes' names, and each face's labels."""
    names = read_notes(weights)["expression_names"].split(",")
    network = CompactNormalizer(len(names)).eval()
    load_weights(network, weights)
    faces = normpipe.open_dataset(job / "aligned")
    rows = [i for i in range(len(faces)) if faces[i]["split"] == split]
    codes: list[np.ndarray] = []
    labels: list[dict[str, Any]] = []
    for start in range(0, len(rows), BATCH):
        items = [faces[i] for i in rows[start : start + BATCH]]
        images = torch.stack([item.pop("image") for item in items]).float() / 255
        with torch.inference_mode():
            codes.append(network.read(images).numpy())
        labels += items
    return np.concatenate(codes), names, labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("job", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--source", default="lfw")
    parser.add_argument("--weights", default="compact")
    parser.add_argument("--json", type=Path, default=RESULTS)
    given = parser.parse_args()
    codes, names, labels = read(given.job, find_weights(given.weights), given.split)
    emotions, people, sources = (
        np.array([label[name] for label in labels]) for name in ("emotion", "subject", "source")
    )
    rng = np.random.default_rng(0)
    lines: list[dict[str, Any]] = []
    print(f"{len(codes)} faces of split {given.split}, {(sources == given.source).sum()} here")
    print(f"{'emotion':<11}{'coefficient':<26}{'n':>5}{'neutral':>9}   AUC")
    for emotion, shapes in QUESTIONS:
        here = (sources == given.source) & np.isin(emotions, [emotion, "neutral"])
        columns = [[i for i, name in enumerate(names) if name.startswith(s)] for s in shapes]
        scores = sum(codes[:, places].mean(1) for places in columns)[here]
        truth = emotions[here] == emotion
        low, high = interval(scores, truth, people[here], rng)
        line = {
            "emotion": emotion, "coefficient": "+".join(shapes), "positives": int(truth.sum()),
            "neutral": int((~truth).sum()), "auc": auc(scores, truth), "low": low, "high": high,
        }  # fmt: skip
        lines.append(line)
        print(
            f"{emotion:<11}{line['coefficient']:<26}{line['positives']:>5}{line['neutral']:>9}"
            f"   {line['auc']:.3f} [{low:.3f}, {high:.3f}]"
        )
    given.json.parent.mkdir(exist_ok=True)
    given.json.write_text(json.dumps({"split": given.split, "source": given.source, "rows": lines}))


if __name__ == "__main__":
    main()
