"""Print the tables and draw the picture of a model card, from the files of training and judging.

    python benchmarks/model_card.py units FIT/compact.json
    python benchmarks/model_card.py judged before=judged-1/judge.json now=judged-2/judge.json
    python benchmarks/model_card.py sheet FIT/compact.safetensors --renders RENDERS --output FILE

``units``: R² of the action units and landmark errors measured by fit-normalizer, for the card
(docs/models/compact.md). ``judged``: figures of several models side by side as Markdown, met goals
in bold; the shipped model's are for the card, the comparison with ``--all`` for the lab book
(docs/lab/compact.md). Only models judged on the same pictures are comparable. ``sheet``: 24
rendered people of a test split in two bands, each the people, the network's results and the exact
targets. People are in order, with the first picture of each.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from normpipe.stages.judging.renders import load_renders, normalize_all
from normpipe.stages.networks.files.normalizer_file import open_normalizer

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
    picture = commands.add_parser("sheet")
    picture.add_argument("model")
    picture.add_argument("--renders", type=Path, required=True)
    picture.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    if args.command == "units":
        units(args.file)
    elif args.command == "judged":
        judged(args.models, args.all)
    else:
        sheet(args.model, args.renders, args.output)


if __name__ == "__main__":
    main()
