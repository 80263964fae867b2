"""Packing ICT-FaceKit: what its repository's layout says is what the loader finds."""

import json

import numpy as np
import pytest

from normpipe.pipeline.errors import InputError
from normpipe.stages.synthesis.facekit import load_facekit
from normpipe.stages.synthesis.kit_packing import pack_facekit

from .conftest import landmark_places

COUNT = 24_591 + 7  # seven vertices of the sheets that are left out
NAMES = ["browDown_L", "browDown_R", "jawOpen"]


def write_obj(path, vertices, tail=""):
    lines = [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in vertices]
    path.write_text("mtllib kit.mtl\n" + "\n".join(lines) + "\n" + tail)


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("FaceXModel")
    neutral = np.zeros((COUNT, 3))
    neutral[:68, :2] = landmark_places()
    neutral[100:104] = [[0, 0, 1], [1, 0, 1], [1, 1, 1], [0, 1, 1]]
    faces = "\n".join(
        [
            "usemtl M_Face", "f 101/1 102/2 103/3 104/4", "usemtl M_Teeth", "f 1/1 2/2 3/3",
            "usemtl M_EyeLashes", f"f 1/1 2/2 {COUNT}/3",
        ]
    )  # fmt: skip
    write_obj(folder / "generic_neutral_mesh.obj", neutral, faces + "\n")
    for n in range(2):
        write_obj(folder / f"identity{n:03d}.obj", neutral + np.array([0, 0, n + 1.0]))
    for place, name in enumerate([*NAMES, "cheekRaiser_L"]):
        write_obj(folder / f"{name}.obj", neutral + np.array([0.25 * (place + 1), 0, 0]))
    indices = {"expressions": NAMES, "idx_to_landmark_verts": list(range(68))}
    (folder / "vertex_indices.json").write_text(json.dumps(indices))
    return folder


def test_shapes_are_displacements_and_quads_two_triangles(repository, tmp_path):
    digest = pack_facekit(repository, tmp_path / "kit.npz", modes=2)
    with np.load(tmp_path / "kit.npz", allow_pickle=False) as kit:
        assert kit["neutral"].shape == (24_591, 3)
        np.testing.assert_array_equal(
            kit["triangles"], [[100, 101, 102], [100, 102, 103], [0, 1, 2]]
        )
        names = [str(kit["materials"][i]) for i in kit["triangle_material"]]
        assert names == ["M_Face", "M_Face", "M_Teeth"]  # the lashes' triangle is left out
        np.testing.assert_array_equal(kit["identity"][:, 5], [[0, 0, 1], [0, 0, 2]])
        assert [str(n) for n in kit["expression_names"]] == [*NAMES, "cheekRaiser_L"]
        np.testing.assert_allclose(kit["expression"][:, 9, 0], [0.25, 0.5, 0.75, 1.0])
    kit = load_facekit(tmp_path / "kit.npz")
    assert kit.digest == digest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "jawOpen.obj").unlink(), "give the folder FaceXModel"),
        (lambda f: write_obj(f / "jawOpen.obj", np.zeros((3, 3))), "one version"),
        (lambda f: (f / "jawOpen.obj").write_text("v 1 2 x\n"), "no OBJ mesh"),
        (lambda f: (f / "vertex_indices.json").write_text("{}"), "does not list"),
        (
            lambda f: (f / "vertex_indices.json").write_text(
                json.dumps({"expressions": NAMES, "idx_to_landmark_verts": [*range(68)][::-1]})
            ),
            "do not fit",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(repository, tmp_path, change, message):
    folder = tmp_path / "FaceXModel"
    folder.mkdir()
    for file in repository.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    change(folder)
    with pytest.raises(InputError, match=message):
        pack_facekit(folder, tmp_path / "kit.npz", modes=2)
    assert not (tmp_path / "kit.npz").exists()
