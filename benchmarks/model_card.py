"""Print the tables and draw the picture of a model card, from the files of training and judging.

    python benchmarks/model_card.py units FIT/compact.json
    python benchmarks/model_card.py judged before=judged-1/judge.json now=judged-2/judge.json
    python benchmarks/model_card.py photographs MEASURED.parquet LABELS --card CARD --set WORDS
    python benchmarks/model_card.py angles MEASURED.parquet RENDERS --card CARD --set WORDS
    python benchmarks/model_card.py sheet FIT/compact.safetensors --renders RENDERS --output FILE

``units``: R² of the action units and landmark errors measured by fit-normalizer, for the card
(docs/models/compact.md). ``judged``: figures of several models side by side as Markdown, met goals
in bold; the shipped model's are for the card, the comparison with ``--all`` for the lab book
(docs/lab/compact.md). Only models judged on the same pictures are comparable. ``photographs`` and
``angles`` write into the card beside weights (compact.json) what ``normpipe measure`` says of its
readings: how well a shape tells an emotion from neutral on labelled photographs, and how far angles
of renders are off (docs/running.md says how MEASURED.parquet is made). ``sheet``: 24
rendered people of a test split in two bands, each the people, the network's results and the exact
targets. People are in order, with the first picture of each.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import normpipe
from normpipe.pipeline.store.commit import write_json
from normpipe.pipeline.store.labels import label_rows, read_labels, vote_shares
from normpipe.stages.judging.criteria.zero_shot import QUESTIONS, measure_zero_shot
from normpipe.stages.judging.renders import load_renders, normalize_all
from normpipe.stages.judging.seen_faces import NamedCoefficients, RealFaces
from normpipe.stages.networks.files.checkpoint import read_notes
from normpipe.stages.networks.files.normalizer_file import open_normalizer
from normpipe.stages.synthesis.surface.gaze import gaze_angles
from normpipe.stages.training.synthesized import expression_names, synthesized_shards

TILE_PX, ACROSS = 128, 12


def units(file: Path) -> None:
    scores = json.loads(file.read_text())["scores"]
    clean, poor = scores["clean"], scores["degraded"]
    print(f"{scores['pairs']} pictures of {scores['identities']} people")
    print("| action unit | clean | degraded |\n|---|---|---|")
    for name in sorted(clean["action_units"], key=lambda unit: int(unit[2:])):
        print(f"| {name} | {clean['action_units'][name]:.2f} | {poor['action_units'][name]:.2f} |")
    mean, none = "action_units", "average_face"
    print(f"| **mean** | **{clean['mean'][mean]:.3f}** | **{poor['mean'][mean]:.3f}** |")
    print(f"| average face | {clean['mean'][none]:.2f} | {poor['mean'][none]:.2f} |")
    for name, value in poor["landmarks_percent"].items():
        constant = poor["average_face_landmarks_percent"][name]
        print(f"landmarks, degraded, {name}: {value:.2f} % (average face {constant:.2f})")
    print("pixels that move, of 255:", scores.get("pictures"))


def _key(figure: dict[str, Any]) -> tuple[str, str, str]:
    return figure["section"], figure["name"], figure["group"]


def _cell(figure: dict[str, Any] | None) -> str:
    if figure is None or figure["value"] is None:
        return "–"
    cell = f"{figure['value']:.3f}"
    if figure["low"] is not None:
        cell += f" [{figure['low']:.3f}, {figure['high']:.3f}]"
    return f"**{cell}**" if figure["met"] else cell


def judged(models: list[str], every: bool) -> None:
    names = [model.partition("=")[0] for model in models]
    pages = [json.loads(Path(model.partition("=")[2]).read_text())["figures"] for model in models]
    found = [{_key(figure): figure for figure in page} for page in pages]
    print(f"| measure | {' | '.join(names)} | goal |\n|---|{'---|' * len(names)}---|")
    for key in dict.fromkeys(key for page in found for key in page):
        here = [page.get(key) for page in found]
        goal = next((figure["goal"] for figure in here if figure), "")
        if goal or every:
            cells = " | ".join(map(_cell, here))
            print(f"| {', '.join(part for part in key if part)} | {cells} | {goal} |")
    for name, page in zip(names, pages, strict=True):
        goals = [figure["met"] for figure in page if figure["goal"]]
        print(f"{name}: {goals.count(True)} of {len(goals)} goals met")


def _measured(table: Path, card: Path) -> tuple[pa.Table, dict[str, Any], tuple[str, ...]]:
    """Return the faces of a table of measurements, the card of its weights, and their shapes."""
    rows, about = pq.read_table(table), json.loads(card.read_text())
    read_by = json.loads(rows.schema.metadata[b"normpipe_measure"])["weights_sha256"]
    if read_by != about["sha256"]:
        raise SystemExit(f"{table} was read by other weights than those of {card}")
    names = read_notes(card.with_suffix(".safetensors"))["expression_names"].split(",")
    return rows.filter(pc.equal(rows["status"], "ok")), about, tuple(names)


def photographs(table: Path, labels: Path, card: Path, words: str, split: str) -> None:
    faces, about, names = _measured(table, card)
    known = read_labels(labels)
    keys = (faces[name].combine_chunks() for name in ("key", "parent_key"))
    known = known.take(label_rows(*keys, known))
    count = len(known)
    # Without splits or subjects, all are tested, and each photograph counts as a person.
    parts = np.array(known["split"].to_pylist()) if split else np.full(count, "test")
    people = known["subject" if "subject" in known.column_names else "key"].to_pylist()
    none = np.zeros((count, 0), np.float32)
    real = RealFaces(
        images=none,
        landmarks=none,
        emotions=np.array([emotion or "" for emotion in known["emotion"].to_pylist()]),
        people=np.array(people),
        sources=np.full(count, ""),
        parts=np.where(parts == split, "test", parts) if split else parts,
        shares=vote_shares(known),
    )
    codes = np.stack([faces[name].to_numpy() for name in names], 1)
    figures = measure_zero_shot(real, NamedCoefficients(codes, names), "code")
    found: dict[str, list[dict[str, Any]]] = {}
    for question, figure in zip(QUESTIONS, figures, strict=True):
        if question.shapes and np.isfinite(figure.value):
            numbers = {"auc": figure.value, "low": figure.low, "high": figure.high}
            score = {name: round(value, 3) for name, value in numbers.items()}
            score |= {"emotion": question.emotion, "set": f"{words}: {figure.note}"}
            found.setdefault("+".join(question.shapes), []).append(score)
            print(f"{question.name}: {score}")
    write_json(card, about | {"photographs": found})


def angles(table: Path, renders: Path, card: Path, words: str) -> None:
    faces, about, _ = _measured(table, card)
    columns = ["yaw_deg", "pitch_deg", "roll_deg", "expression"]
    rows = normpipe.open_dataset(renders / "pairs", columns=columns, decode=False)
    shapes = expression_names(synthesized_shards([renders])[0])
    truth: dict[str, list[float]] = {}
    for row in rows.__getitems__(range(len(rows))):
        gaze = gaze_angles(shapes, np.array(row["expression"])).mean(0)
        # As examples/renders_as_list.py names the pictures.
        path = f"pictures/{row['key'].replace('/', '-')}.jpg"
        truth[path] = [*(row[name] for name in columns[:3]), *gaze.tolist()]
    exact = np.array([truth[path] for path in faces["path"].to_pylist()])
    found: dict[str, dict[str, Any]] = {}
    for place, name in enumerate([*columns[:3], "gaze_yaw_deg", "gaze_pitch_deg"]):
        right = exact[:, place]
        found[name] = {
            "error": round(float(np.abs(faces[name].to_numpy() - right).mean()), 2),
            "spread": round(float(np.abs(right - right.mean()).mean()), 2),
            "set": f"{words}: {len(exact)} pictures",
        }
        print(name, found[name])
    write_json(card, about | {"angles": found})


def _band(pictures: np.ndarray) -> np.ndarray:
    """(N, S, S, 3) → (TILE_PX, N · TILE_PX, 3)."""
    return np.hstack(
        [cv2.resize(p, (TILE_PX, TILE_PX), interpolation=cv2.INTER_AREA) for p in pictures]
    )


def sheet(model: str, renders: Path, output: Path) -> None:
    people = load_renders([renders])
    first = np.unique(people.identity, return_index=True)[1][: 2 * ACROSS]
    source, exact = people.source[first], people.target[first]
    made = normalize_all(open_normalizer(model).module, source)
    bands = [
        _band(rows[start : start + ACROSS])
        for start in range(0, len(first), ACROSS)
        for rows in (source, made, exact)
    ]
    cv2.imwrite(str(output), np.vstack(bands)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("units").add_argument("file", type=Path)
    table = commands.add_parser("judged")
    table.add_argument("models", nargs="+", metavar="NAME=judge.json")
    table.add_argument("--all", action="store_true", help="also figures without a goal")
    for name, truth in (("photographs", "labels"), ("angles", "renders")):
        measured = commands.add_parser(name)
        measured.add_argument("table", type=Path)
        measured.add_argument(truth, type=Path)
        measured.add_argument("--card", type=Path, required=True)
        measured.add_argument("--set", required=True, help="which pictures, in a few words")
    commands.choices["photographs"].add_argument(
        "--split", default="test", help="of the labels; empty: all"
    )
    picture = commands.add_parser("sheet")
    picture.add_argument("model")
    picture.add_argument("--renders", type=Path, required=True)
    picture.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    if args.command == "units":
        units(args.file)
    elif args.command == "judged":
        judged(args.models, args.all)
    elif args.command == "photographs":
        photographs(args.table, args.labels, args.card, args.set, args.split)
    elif args.command == "angles":
        angles(args.table, args.renders, args.card, args.set)
    else:
        sheet(args.model, args.renders, args.output)


if __name__ == "__main__":
    main()
