"""Sets on disk, the reader's training, and its file."""

import numpy as np
import pytest
import torch

from normpipe.pipeline.errors import InputError
from normpipe.stages.judging.fit_reader import (
    FitReaderConfig,
    TargetPictures,
    augment,
    fit_reader,
)
from normpipe.stages.judging.frozen_reader import open_reader, units
from normpipe.stages.judging.renders import load_renders, normalize_all
from normpipe.stages.networks.files.checkpoint import find_weights, read_notes
from normpipe.stages.networks.reader import INPUT_SIZE, ExpressionReader

from . import toys


@pytest.fixture(scope="module")
def toy_set(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets") / "pairs"
    renders = toys.toy_renders(people=40, each=8)
    toys.write_set(folder, renders, ["test" if i % 8 == 0 else "train" for i in range(320)])
    return folder


def test_a_set_is_read_as_it_was_written(toy_set):
    renders = toys.toy_renders(people=40, each=8)
    test = load_renders([toy_set.parent], "test")
    np.testing.assert_array_equal(test.source, renders.source[::8])
    np.testing.assert_array_equal(test.target, renders.target[::8])
    np.testing.assert_array_equal(test.expression, renders.expression[::8])
    np.testing.assert_array_equal(test.target_landmarks, renders.target_landmarks[::8])
    assert len(load_renders([toy_set], None)) == 320
    few = load_renders([toy_set], "test", limit=7, sources=False)
    assert len(few) == 7 and len(few.source) == 0


def test_what_cannot_be_judged_is_refused(toy_set, tmp_path):
    with pytest.raises(InputError, match="no validation pairs"):
        load_renders([toy_set], "validation")
    with pytest.raises(InputError, match="no shards"):
        load_renders([tmp_path], "test")
    with pytest.raises(InputError, match="not finite"):
        normalize_all(lambda x: x / 0, toys.toy_renders(1, 2).source)


def test_a_reader_learns_and_comes_back_from_its_file(toy_set, tmp_path):
    config = FitReaderConfig(steps=120, batch_size=16, width=8, device="cpu", precision="fp32")
    fitted = fit_reader(config, [toy_set], tmp_path / "out")
    assert fitted.scores["action_units"]["AU12"] > 0.5
    assert fitted.weights.with_suffix(".json").is_file()
    reader = open_reader(fitted.weights)
    test = load_renders([toy_set], "test")
    seen = reader(test.target)
    assert reader.expression_names == toys.NAMES and reader.target_note == {"kind": "mean"}
    assert np.corrcoef(seen.coefficients[:, 0], test.expression[:, 0])[0, 1] > 0.7
    away = np.abs(seen.points * toys.SIZE - test.target_landmarks).mean()
    assert away < np.abs(test.target_landmarks.mean(0) - test.target_landmarks).mean()


def test_a_reader_that_was_killed_goes_on_as_if_it_had_not_been(toy_set, tmp_path, monkeypatch):
    given = {"steps": 9, "batch_size": 4, "width": 4, "device": "cpu", "precision": "fp32"}
    config = FitReaderConfig(**given, save_every=2)
    whole = fit_reader(config, [toy_set], tmp_path / "whole")
    drawn = TargetPictures.__getitem__

    def dies(self, step):
        if step == 5:
            raise KeyboardInterrupt
        return drawn(self, step)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(TargetPictures, "__getitem__", dies)
        fit_reader(config, [toy_set], tmp_path / "killed")
    state = tmp_path / "killed/reader.state.safetensors"
    assert read_notes(state)["step"] == "4" and not (tmp_path / "killed/reader.json").exists()
    steps: list[int] = []

    def noted(self, step):
        steps.append(step)
        return drawn(self, step)

    monkeypatch.setattr(TargetPictures, "__getitem__", noted)
    other = FitReaderConfig(**given, save_every=3)  # changes nothing
    again = fit_reader(other, [toy_set], tmp_path / "killed")
    assert steps == [4, 5, 6, 7, 8]
    assert again.weights.read_bytes() == whole.weights.read_bytes()
    assert again.scores == whole.scores
    # Finished, it is done again by nobody; another training has a folder of its own.
    assert fit_reader(other, [toy_set], tmp_path / "killed").scores == whole.scores
    assert len(steps) == 5
    with pytest.raises(InputError, match="other settings or data"):
        fit_reader(FitReaderConfig(**{**given, "seed": 1}), [toy_set], tmp_path / "killed")


def test_weights_of_something_else_are_no_reader():
    with pytest.raises(InputError, match="not a reader"):
        open_reader(find_weights("compact"))


def test_augmenting_moves_the_points_with_the_picture():
    """A bright dot stays under its point."""
    rng = np.random.default_rng(0)
    x, y = 70, 40
    grey = np.zeros((64, INPUT_SIZE, INPUT_SIZE), np.uint8)
    grey[:, y - 1 : y + 2, x - 1 : x + 2] = 255
    points = np.tile(np.array([x + 0.5, y + 0.5]) * 2 / INPUT_SIZE - 1, (64, 68)).astype(np.float32)
    pictures, moved = augment(grey, points, rng)
    for picture, where in zip(pictures, moved, strict=True):
        weight = picture.astype(float) ** 2 * (picture > picture.max() / 2)
        found = np.array([(weight.sum(axis) * np.arange(INPUT_SIZE)).sum() for axis in (0, 1)])
        place = (where.reshape(68, 2)[0] + 1) / 2 * INPUT_SIZE - 0.5
        assert found / weight.sum() == pytest.approx(place, abs=0.3)
    assert np.abs(moved - points).max() > 0.02


def test_the_reader_takes_any_size_and_ignores_brightness():
    module = ExpressionReader(5, 8).eval()
    pictures = torch.rand(2, 3, 192, 192)
    with torch.no_grad():
        one, other = module(pictures), module(pictures * 0.5 + 0.2)
    assert one.coefficients.shape == (2, 5) and one.points.shape == (2, 136)
    torch.testing.assert_close(one.coefficients, other.coefficients, rtol=1e-3, atol=1e-4)


def test_units_come_in_the_order_of_their_names():
    from normpipe.stages.synthesis.scene.expressions import RENDERED_UNITS

    code = np.zeros((1, len(toys.NAMES)), np.float32)
    code[0, toys.NAMES.index("mouthSmile_R")] = 0.6
    found = dict(zip(RENDERED_UNITS, units(toys.NAMES, code)[0], strict=True))
    assert found["AU12"] == pytest.approx(3) and found["AU15"] == 0
