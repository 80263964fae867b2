import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

from normpipe.pipeline.commands.running.execute import align_faces
from normpipe.pipeline.errors import InputError
from normpipe.stages.judging import photographs as module_under_test
from normpipe.stages.judging.criteria import (
    attacker,
    covering,
    emotions,
    strength,
    transfer,
    verification,
    zero_shot,
)
from normpipe.stages.judging.criteria.attacker import one_hot
from normpipe.stages.judging.labelled_faces import load_real
from normpipe.stages.judging.photographs import NEED_PEOPLE, SECTIONS, measure_real
from normpipe.stages.judging.seen_faces import NamedCoefficients, Seen

from .fakes import expression_only, photographs, real

SHAPES = ("browDown_L", "mouthSmile_L", "jawOpen", "browInnerUp", "browOuterUp")


def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (attacker, covering, emotions, strength, transfer, verification, zero_shot):
        monkeypatch.setattr(module, "RESAMPLES", 20)
    monkeypatch.setattr(attacker, "REPEATS", 1)
    monkeypatch.setattr(attacker, "MIN_LEARNT", 5)
    monkeypatch.setattr(attacker, "MIN_TRIED", 5)


def looked(people: int, named: bool = True):
    """Faces, and what a fake normalizer makes of them."""
    drawn = photographs(people)
    faces = real(drawn, named)
    codes = NamedCoefficients(one_hot(faces.emotions), SHAPES)
    seen = Seen(expression_only(drawn), {"pictures": codes, "code": codes})

    def look(pictures: np.ndarray) -> Seen:
        few = NamedCoefficients(np.zeros((len(pictures), len(SHAPES))), SHAPES)
        return Seen(pictures, {"pictures": few, "code": few})

    return faces, seen, look


def test_every_section_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    few_draws(monkeypatch)

    def embed(crops: np.ndarray) -> np.ndarray:
        return crops[:, ::16, ::16, 0].reshape(len(crops), -1).astype(np.float32)

    monkeypatch.setattr(module_under_test, "open_recognizer", lambda pack: embed)
    monkeypatch.setattr(module_under_test, "locate", lambda pack, images: None)
    figures = measure_real(*looked(24), tmp_path)
    cropped = [f for f in figures if f.section in ("verification", "reversal")]
    assert all("no face found" in figure.note for figure in cropped)
    assert {figure.section for figure in figures} == {*SECTIONS}
    places = [(figure.section, figure.name, figure.group) for figure in figures]
    assert len(places) == len({*places})


def test_faces_of_nobody_measure_what_needs_no_people(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    few_draws(monkeypatch)
    figures = measure_real(*looked(24, named=False), tmp_path)
    assert {figure.section for figure in figures} == {*SECTIONS} - {*NEED_PEOPLE}


def test_people_in_both_parts_are_refused() -> None:
    faces, seen, look = looked(4)
    mixed = np.where(np.arange(len(faces)) % 2, "train", "test")
    with pytest.raises(InputError, match="4 people are in train and in test"):
        measure_real(replace(faces, parts=mixed), seen, look)
    with pytest.raises(InputError, match="'split'"):
        measure_real(replace(faces, parts=np.full(len(faces), "")), seen, look)


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
