import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

from normpipe.pipeline.commands.execute import align_faces
from normpipe.pipeline.errors import InputError
from normpipe.stages.judging import photographs as module_under_test
from normpipe.stages.judging.criteria import attacker, transfer, verification, zero_shot
from normpipe.stages.judging.criteria.attacker import one_hot
from normpipe.stages.judging.labelled_faces import RealFaces, load_real
from normpipe.stages.judging.photographs import NamedCoefficients, measure_real

from .fakes import EMOTIONS, expression_only, photographs


def real(people: int) -> tuple[RealFaces, np.ndarray]:
    drawn = photographs(people)
    faces = RealFaces(
        drawn.images, np.full((len(drawn.images), 5, 2), np.nan), drawn.emotions,
        drawn.people, drawn.sources, drawn.parts,
    )  # fmt: skip
    return faces, expression_only(drawn)


def test_every_section_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for module in (attacker, transfer, verification, zero_shot):
        monkeypatch.setattr(module, "RESAMPLES", 20)
    monkeypatch.setattr(attacker, "REPEATS", 1)
    faces, normalized = real(24)
    codes = NamedCoefficients(one_hot(faces.emotions), sorted(EMOTIONS))

    def embed(crops: np.ndarray) -> np.ndarray:
        return crops[:, ::16, ::16, 0].reshape(len(crops), -1).astype(np.float32)

    monkeypatch.setattr(module_under_test, "open_recognizer", lambda pack: embed)
    monkeypatch.setattr(module_under_test, "locate", lambda pack, images: None)
    figures = measure_real(faces, normalized, codes, codes, tmp_path)
    verified = [figure for figure in figures if figure.section == "verification"]
    assert all("no face found" in figure.note for figure in verified)
    sections = {figure.section for figure in figures}
    assert sections == {"zero_shot", "transfer", "attacker", "verification"}
    places = [(figure.section, figure.name, figure.group) for figure in figures]
    assert len(places) == len({*places})


def test_people_in_both_parts_are_refused() -> None:
    faces, normalized = real(4)
    codes = NamedCoefficients(one_hot(faces.emotions), sorted(EMOTIONS))
    mixed = np.where(np.arange(len(faces)) % 2, "train", "test")
    with pytest.raises(InputError, match="4 people are in train and in test"):
        measure_real(replace(faces, parts=mixed), normalized, codes)
    with pytest.raises(InputError, match="'split'"):
        measure_real(replace(faces, parts=np.full(len(faces), "")), normalized, codes)


def test_a_folder_and_a_list_become_faces(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Image.fromarray(skimage.data.astronaut()).save(pictures / "eileen.png")
    with (tmp_path / "labels.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["image", "identity", "emotion", "part", "source"])
        writer.writerow(["eileen.png", "eileen", "happiness", "test", "nasa"])
    folder = align_faces(pictures, tmp_path / "labels.csv", tmp_path / "job")
    faces = load_real(folder)
    assert (faces.people[0], faces.emotions[0]) == ("eileen", "happiness")
    assert (faces.sources[0], faces.parts[0]) == ("nasa", "test")
    assert faces.images.shape[1:] == (224, 224, 3)
