"""How well can an expression be predicted from one picture? The upper bound on renders.

    python benchmarks/ceiling.py --renders RENDERS --json ceiling.json

People of the renders have different resting faces and movement gains, which do not enter the labels
(``shape_amounts``). So two faces that look the same may have different labels, and no model can
tell which from one picture. This regression gets more than any picture shows: the exact movement of
every shape of the mesh and the exact depth of every furrow, without pose, light, pixels or
occlusion. It is trained on simulated people and tested on RENDERS. No network can correct its
remaining errors (except by hints of the resting face in a person's looks, such as heavy brows). The
regression is not perfect either, so the bound may be a little higher.
"""

import argparse
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from limits import MOVEMENTS
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingRegressor

import normpipe
from normpipe.stages.synthesis.drawing.renderer import shape_amounts
from normpipe.stages.synthesis.scene.acting import draw_expression
from normpipe.stages.synthesis.scene.person import Person, draw_person
from normpipe.stages.synthesis.surface.wrinkles import wrinkle_strengths

MODES = 40  # of the face kit: sampled first, so that all else is sampled alike
PICTURES_A_PERSON = 8
FIRST_PERSON = 1 << 40  # in no rendered set


def shown(person: Person, code: NDArray, names: list[str]) -> NDArray:
    """Return (E + furrows,) exact movements and depths of furrows."""
    head: Any = SimpleNamespace(kit=SimpleNamespace(expression_names=names))
    return np.concatenate(
        [shape_amounts(person, code), wrinkle_strengths(head, person, code).ravel()]
    )


def simulated(count: int, names: list[str]) -> tuple[NDArray, NDArray]:
    rng = np.random.default_rng(99)
    codes, views = [], []
    for start in range(0, count, PICTURES_A_PERSON):
        person = draw_person(FIRST_PERSON + start, names, MODES)
        for _ in range(PICTURES_A_PERSON):
            codes.append(draw_expression(rng, names).coefficients)
            views.append(shown(person, codes[-1], names))
    return np.array(codes), np.array(views)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--renders", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=40_000, help="simulated, for training")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = normpipe.open_dataset(args.renders / "pairs", columns=["expression", "identity"])
    shard = next((args.renders / "pairs").glob("shard-*.parquet"))
    names = pq.read_schema(shard).metadata[b"expression_names"].decode().split(",")
    items = rows.__getitems__(list(range(len(rows))))
    truth = np.array([item["expression"] for item in items], np.float32)
    people = {who: draw_person(who, names, MODES) for who in {item["identity"] for item in items}}
    views = np.array(
        [
            shown(people[item["identity"]], code, names)
            for item, code in zip(items, truth, strict=True)
        ]
    )
    codes, seen = simulated(args.pictures, names)
    print(f"{len(items)} pictures of {len(people)} people; trained on {len(codes)}")
    found: dict[str, dict[str, float]] = {}
    for movement, shapes in MOVEMENTS.items():
        values = []
        for shape in shapes:
            place = names.index(shape)
            model = HistGradientBoostingRegressor(max_iter=300, learning_rate=0.08, random_state=0)
            predicted = model.fit(seen, codes[:, place]).predict(views)
            values.append(1 - np.mean((predicted - truth[:, place]) ** 2) / truth[:, place].var())
        plain = [
            1 - np.mean((views[:, names.index(s)].clip(0, 1) - truth[:, names.index(s)]) ** 2)
            / truth[:, names.index(s)].var()
            for s in shapes
        ]  # fmt: skip
        found[movement] = {"ceiling": float(np.mean(values)), "movement": float(np.mean(plain))}
        print(f"{movement:12}{found[movement]['ceiling']:8.3f}{found[movement]['movement']:8.3f}")
    if args.json:
        args.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
