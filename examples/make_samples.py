"""Make stages/samples: rendered people, one picture without a face, and one broken file.

    python examples/make_samples.py FACEKIT.npz stages/samples

The labels are exact, because the pictures are rendered from them.
"""

import csv
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from normpipe.stages.synthesis.drawing.batch import BatchRenderer
from normpipe.stages.synthesis.drawing.renderer import prepare_person, take_shot
from normpipe.stages.synthesis.facekit import load_facekit
from normpipe.stages.synthesis.scene.acting import EMOTION_OF, PROTOTYPES
from normpipe.stages.synthesis.scene.background import paint_background
from normpipe.stages.synthesis.scene.expressions import (
    RENDERED_UNITS,
    Expression,
    action_units,
    from_named,
)
from normpipe.stages.synthesis.scene.person import draw_person, generator
from normpipe.stages.synthesis.scene.scene import SceneOptions, draw_scene
from normpipe.stages.synthesis.surface.atlas import Atlas
from normpipe.stages.synthesis.surface.head import prepare_head

SIZE_PX = 288
# People chosen by eye for variety: (identity number, expressions of that person).
PEOPLE = [
    (900_001, ["neutral", "happiness", "surprise"]),
    (900_015, ["anger", "laughter", "sadness"]),
    (900_016, ["happiness", "fear", "neutral"]),
    (900_011, ["disgust", "surprise", "happiness"]),
    (900_029, ["neutral", "shouting", "contempt"]),
    (900_046, ["laughter", "sadness", "anger"]),
    (900_048, ["surprise", "happiness", "disgust"]),
    (900_058, ["fear", "neutral", "happiness"]),
]


def sample_scene(person, prototype, seed, names):
    """Return a snapshot in ordinary light, without occluders."""
    rng = generator(77, seed)
    spread = {
        stem: rng.uniform(0.35 * low + 0.65 * high, high)
        for stem, (low, high) in PROTOTYPES[prototype].items()
    }
    expression = Expression(from_named(names, spread), EMOTION_OF.get(prototype, prototype))
    scene = draw_scene(person, seed, names, SceneOptions("snapshot"))
    light = replace(
        scene.light,
        exposure=0.56,
        contrast=1.05,
        shadow=min(scene.light.shadow, 0.5),
        key=min(scene.light.key, 1.0),
        ambient=max(scene.light.ambient, 0.4),
    )
    camera = replace(scene.camera, zoom=rng.uniform(0.42, 0.6))
    if seed % 8 == 5:  # a tight crop now and then
        camera = replace(camera, zoom=0.92)
    glasses = replace(scene.glasses, tint=min(scene.glasses.tint, 0.1))
    return replace(
        scene, expression=expression, light=light, camera=camera, glasses=glasses, occluder="none"
    )


def main(facekit: str, folder: str) -> None:
    kit = load_facekit(facekit)
    head = prepare_head(kit, Atlas(height=576, width=768))
    renderer = BatchRenderer(head, SIZE_PX)
    names = kit.expression_names
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, (identity, prototypes) in enumerate(PEOPLE):
        prepared = prepare_person(head, draw_person(identity, names, len(kit.identity)))
        for order, prototype in enumerate(prototypes):
            scene = sample_scene(prepared.person, prototype, identity * 10 + order, names)
            picture = renderer.render([take_shot(head, prepared, scene, SIZE_PX)])[0]
            path = f"person{number + 1:02d}_{prototype}.jpg"
            cv2.imwrite(str(out / path), picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
            code = scene.expression.coefficients
            units = action_units(names, code, head.lip_gap(code))
            split = "test" if number >= 6 else "train"
            rows.append(
                {
                    "path": path,
                    "subject": f"person{number + 1:02d}",
                    "split": split,
                    "emotion": scene.expression.emotion,
                    **{u: round(v, 2) for u, v in units.items()},
                }
            )
    room = (paint_background(generator(78, 3), "room", SIZE_PX) * 255).astype(np.uint8)
    cv2.imwrite(str(out / "no_face.jpg"), room[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
    whole = (out / rows[0]["path"]).read_bytes()
    (out / "truncated.jpg").write_bytes(whole[: len(whole) // 3])
    with (out / "labels.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["path", "subject", "split", "emotion", *RENDERED_UNITS])
        writer.writeheader()
        writer.writerows([*rows, {"path": "no_face.jpg"}, {"path": "truncated.jpg"}])


if __name__ == "__main__":
    main(*sys.argv[1:3])
