"""The demo's photographs: the package's sample set, and one from scikit-image."""

import csv
import shutil
from importlib.resources import files
from pathlib import Path

import cv2
import skimage.data

from ...pipeline.errors import OutputError

#: Public domain: NASA's portrait of Eileen Collins, as skimage.data.astronaut() returns it.
PHOTOGRAPH = "eileen_collins.png"


def sample_list(folder: Path) -> Path:
    """Copy the samples into ``folder`` and return the list (CSV with labels) that names them."""
    samples = Path(str(files("normpipe.stages") / "samples"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(samples.iterdir()):
            _copy_once(path, folder / path.name)
        photograph = folder / PHOTOGRAPH
        if not photograph.exists():
            pixels = cv2.cvtColor(skimage.data.astronaut(), cv2.COLOR_RGB2BGR)
            cv2.imwrite(str(photograph), pixels)
        with (samples / "labels.csv").open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            columns, rows = list(reader.fieldnames or []), list(reader)
        rows.append({"path": PHOTOGRAPH, "subject": "eileen_collins", "emotion": "happiness"})
        with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, columns, restval="")
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise OutputError(
            f"cannot write the demo's samples to {folder}: {error.strerror}"
        ) from None
    return folder / "labels.csv"


def _copy_once(source: Path, target: Path) -> None:
    """Copy unless the target exists: a new modification time would make it a changed input."""
    if not target.exists():
        shutil.copyfile(source, target)
