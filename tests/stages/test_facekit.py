"""The face kit: merged shapes, dropped shapes, one clear error."""

import numpy as np
import pytest

from normpipe.pipeline.errors import InputError
from normpipe.stages.synthesis.facekit import load_facekit


def test_pupils_are_dropped_and_cheeks_merged(fake_kit, fake_kit_file):
    assert not [n for n in fake_kit.expression_names if "Pupil" in n or "Raiser" in n]
    assert fake_kit.expression.shape[0] == len(fake_kit.expression_names) == 14
    raw = np.load(fake_kit_file)
    names = [str(n) for n in raw["expression_names"]]
    pair = raw["expression"][[names.index("cheekSquint_L"), names.index("cheekRaiser_L")]]
    merged = fake_kit.expression[fake_kit.shape_index("cheekSquint_L")]
    np.testing.assert_allclose(merged, pair.astype(np.float32).mean(0), atol=1e-6)
    untouched = fake_kit.expression[fake_kit.shape_index("jawOpen")]
    np.testing.assert_array_equal(untouched, raw["expression"][names.index("jawOpen")])


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(InputError, match="no face kit at") as caught:
        load_facekit(tmp_path / "none.npz")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 truncated", b"not a zip at all"])
def test_a_broken_file_is_one_line(tmp_path, content):
    path = tmp_path / "kit.npz"
    path.write_bytes(content)
    with pytest.raises(InputError, match="face kit") as caught:
        load_facekit(path)
    assert "\n" not in str(caught.value)


def test_pickled_arrays_are_refused(tmp_path, fake_kit_file):
    arrays = dict(np.load(fake_kit_file))
    arrays["materials"] = np.array([{"evil": 1}], dtype=object)
    np.savez(tmp_path / "kit.npz", **arrays)
    with pytest.raises(InputError):
        load_facekit(tmp_path / "kit.npz")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("neutral", None, "missing"),
        ("identity", np.zeros((3, 5, 3), np.float16), "has shape"),
        ("landmarks68", np.full(68, 10**6, np.int32), "do not exist"),
        ("triangles", np.full((4, 3), -1, np.int32), "has shape|do not exist"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, fake_kit_file, name, value, said):
    arrays = dict(np.load(fake_kit_file))
    if value is None:
        del arrays[name]
    else:
        arrays[name] = value
    np.savez(tmp_path / "kit.npz", **arrays)
    with pytest.raises(InputError, match=said):
        load_facekit(tmp_path / "kit.npz")


@pytest.mark.assets
def test_the_real_kit(real_kit):
    assert real_kit.neutral.shape == (24591, 3)
    assert len(real_kit.expression_names) == 53
    assert {"cheekSquint_L", "mouthClose", "eyeLookIn_R"} <= set(real_kit.expression_names)
