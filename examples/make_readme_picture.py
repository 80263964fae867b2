"""Draw the README's picture from the demo's job: a public-domain photograph beside renders.

make demo
.venv/bin/python examples/make_readme_picture.py demo-out/job docs/images/readme.jpg
"""

import sys
from pathlib import Path

from PIL import Image, ImageOps

import normpipe

TILE_PX, GAP_PX, ACROSS = 160, 12, 3
FACES = [
    "eileen_collins.png",
    "person02_laughter.jpg",
    "person03_neutral.jpg",
    "person06_anger.jpg",
    "person07_happiness.jpg",
    "person05_shouting.jpg",
]


def tile(image: Image.Image) -> Image.Image:
    return ImageOps.fit(image.convert("RGB"), (TILE_PX, TILE_PX), Image.Resampling.LANCZOS)


def picture(values) -> Image.Image:
    """(3, H, W) uint8 → a picture."""
    return Image.fromarray(values.permute(1, 2, 0).numpy())


def main(job: str, target: str) -> None:
    pairs = normpipe.open_dataset(job)
    cell = 3 * TILE_PX + GAP_PX
    down = -(-len(FACES) // ACROSS)
    size = (ACROSS * cell - GAP_PX, down * (TILE_PX + GAP_PX) - GAP_PX)
    sheet = Image.new("RGB", size, "white")
    for i, name in enumerate(FACES):
        pair = pairs[f"samples/{name}"]
        original = Path(job).parent / "photographs" / name
        pictures = [Image.open(original), picture(pair["image"]), picture(pair["normalized"])]
        for j, image in enumerate(pictures):
            left, top = i % ACROSS * cell + j * TILE_PX, i // ACROSS * (TILE_PX + GAP_PX)
            sheet.paste(tile(image), (left, top))
    sheet.save(target, quality=88)


if __name__ == "__main__":
    main(*sys.argv[1:3])
