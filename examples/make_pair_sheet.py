"""Draw docs/images/synthesized_pairs.jpg: 64 pairs of source and target.

    python examples/make_pair_sheet.py ict_facekit.npz docs/images/synthesized_pairs.jpg

One row per emotion or kind of movement, see ``KINDS``, with 8 people each. Nothing is chosen by
eye: people are in the order of their numbers, expressions are the next of their kind that is strong
enough to be seen, and pictures that are turned too far or occluded are skipped.
"""

import sys
from itertools import count
from pathlib import Path

import cv2
import numpy as np

from normpipe.stages.synthesis.cast import Cast
from normpipe.stages.synthesis.pair_renderer import PairRenderer
from normpipe.stages.synthesis.render_settings import SynthesizeConfig
from normpipe.stages.synthesis.scene.acting import draw_expression
from normpipe.stages.synthesis.scene.pairs import PairSpec
from normpipe.stages.synthesis.scene.person import draw_person, generator
from normpipe.stages.synthesis.scene.scene import SceneOptions, draw_scene

SIZE_PX = 112
COLUMNS = 8
# Of each row: the kind of expressions, and the intended emotion.
KINDS = (
    ("prototype", "happiness"),
    ("prototype", "surprise"),
    ("prototype", "anger"),
    ("prototype", "sadness"),
    ("prototype", "disgust"),
    ("prototype", "fear"),
    ("talking", None),
    ("single", None),
)


def expressions(names, kind, emotion):
    """Yield seeds of strong expressions of a kind, with open eyes and little gaze."""
    eyes = [i for i, name in enumerate(names) if name.startswith(("eyeBlink", "eyeLook"))]
    for seed in count():
        drawn = draw_expression(generator(8, seed), names, kind)
        others = np.sort(np.delete(drawn.coefficients, eyes))
        strong = others[-1] > 0.8 and (kind == "single" or others[-4] > 0.6)
        if drawn.emotion == emotion and strong and drawn.coefficients[eyes].max() < 0.4:
            yield seed


def pictures(identity, names, modes):
    """Return the number of a person's first picture that shows the face well."""
    person = draw_person(identity, names, modes)
    for seed in count(10 * identity):
        scene = draw_scene(person, seed, names, SceneOptions(), 0)
        turned = abs(scene.camera.yaw_deg) > 25 or abs(scene.camera.pitch_deg) > 14
        dark = scene.glasses.worn and scene.glasses.tint > 0.4
        if not turned and not dark and scene.occluder == "none" and scene.light.exposure > 0.4:
            return seed
    raise AssertionError


def main(facekit: str, output: str) -> None:
    rows, identity = [], 500
    for kind, emotion in KINDS:
        config = SynthesizeConfig(
            facekit=facekit, expressions=kind, size_px=SIZE_PX, target_size_px=SIZE_PX
        )
        renderer = PairRenderer(config, Cast(config))
        head = renderer.cast.head
        names = head.kit.expression_names
        drafts = []
        for seed, _ in zip(expressions(names, kind, emotion), range(COLUMNS), strict=False):
            shot = pictures(identity, names, len(head.kit.identity))
            drafts.append(renderer.draft(PairSpec("", "", identity, shot, seed)))
            identity += 1
        pairs = renderer.render(drafts)
        gap = np.full((SIZE_PX, 4, 3), 255, np.uint8)
        cells = [part for pair in pairs for part in (pair.source, pair.target, gap)]
        rows += [np.hstack(cells[:-1]), np.full((4, len(pairs) * (2 * SIZE_PX + 4) - 4, 3), 255)]
    sheet = np.vstack(rows[:-1]).astype(np.uint8)
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(output, sheet[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])


if __name__ == "__main__":
    main(*sys.argv[1:3])
