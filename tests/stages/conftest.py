"""Fixtures shared by the tests of the renderer, the networks and the classifiers."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from normpipe.pipeline.config import RunConfig, load_job
from normpipe.pipeline.run.runner import Options, Runner
from normpipe.stages import CONFIGS, build_flow
from normpipe.stages.sources.sample_faces import sample_list
from normpipe.stages.synthesis.drawing.batch import BatchRenderer
from normpipe.stages.synthesis.drawing.renderer import PreparedPerson, take_shot
from normpipe.stages.synthesis.facekit import FaceKit, load_facekit
from normpipe.stages.synthesis.scene.scene import Scene
from normpipe.stages.synthesis.scene.target import TargetFace
from normpipe.stages.synthesis.surface.atlas import Atlas
from normpipe.stages.synthesis.surface.head import Head, prepare_head
from normpipe.stages.synthesis.synthesize import PlanPairs, Synthesize, SynthesizeConfig

from .classification.faces import Face, write_faces
from .classification.training import easy_faces

SHAPES = [
    "browDown_L", "browDown_R", "browInnerUp_L", "browInnerUp_R", "cheekSquint_L", "cheekSquint_R",
    "eyeBlink_L", "eyeBlink_R", "jawOpen", "jawLeft", "jawRight", "mouthClose",
    "mouthSmile_L", "mouthSmile_R", "PupilDilate_L", "PupilDilate_R", "cheekRaiser_L",
    "cheekRaiser_R",
]  # fmt: skip


def landmark_places() -> np.ndarray:
    """(68, 2) x, y of a schematic face in head units, iBUG order."""
    turn = np.linspace(-80, 80, 17)
    jaw = np.stack([7 * np.sin(np.deg2rad(turn)), 2 - 9 * np.cos(np.deg2rad(turn))], 1)
    brow = np.array([[-5.8, 5.4], [-4.8, 6.0], [-3.6, 6.2], [-2.4, 6.1], [-1.2, 5.8]])
    bridge = np.array([[0, 3.7], [0, 2.6], [0, 1.5], [0, 0.4]])
    nostrils = np.array([[-1.2, -1.1], [-0.6, -1.2], [0, -1.2], [0.6, -1.2], [1.2, -1.1]])
    turn = np.deg2rad([180, 120, 60, 0, -60, -120])
    eye = np.stack([1.3 * np.cos(turn), 0.5 * np.sin(turn)], 1)
    outer = np.deg2rad([180, 150, 120, 90, 60, 30, 0, -30, -60, -90, -120, -150])
    lips = np.stack([2.4 * np.cos(outer), 0.9 * np.sin(outer) - 3.4], 1)
    inner = np.deg2rad([180, 135, 90, 45, 0, -45, -90, -135])
    mouth = np.stack([1.9 * np.cos(inner), 0.3 * np.sin(inner) - 3.4], 1)
    right = brow[::-1] * [-1, 1]
    parts = [
        jaw,
        brow,
        right,
        bridge,
        nostrils,
        eye + np.array([-3.1, 3.5]),
        eye + np.array([3.1, 3.5]),
        lips,
        mouth,
    ]
    return np.concatenate(parts)


def kit_arrays() -> dict[str, np.ndarray]:
    """A small curved sheet with a face's landmarks, a few shapes and modes."""
    side = 61
    x, y = np.meshgrid(np.linspace(-8.4, 8.4, side), np.linspace(12, -9, side))
    z = 11 - 0.09 * x**2 - 0.02 * (y - 2) ** 2 + 2 * np.exp(-(x**2) - ((y - 0.4) / 1.2) ** 2)
    neutral = np.stack([x, y, z], -1).reshape(-1, 3)
    corner = (np.arange(side - 1)[:, None] * side + np.arange(side - 1)[None]).reshape(-1)
    cells = [
        np.stack([corner, corner + side, corner + 1], 1),
        np.stack([corner + 1, corner + side, corner + side + 1], 1),
    ]

    def bump(cx: float, cy: float, wide: float, move: tuple[float, float, float]) -> np.ndarray:
        near = np.exp(-(((neutral[:, 0] - cx) ** 2 + (neutral[:, 1] - cy) ** 2) / wide**2))
        return near[:, None] * np.array(move)

    moves = {
        "browDown": lambda s: bump(3 * s, 6, 2, (-0.4 * s, -0.8, 0)),
        "browInnerUp": lambda s: bump(1.5 * s, 6, 1.5, (0, 1.0, 0)),
        "cheekSquint": lambda s: bump(4 * s, 1.5, 2, (0, 0.6, 0.2)),
        "cheekRaiser": lambda s: bump(4 * s, 1.5, 2, (0, 0.8, 0.2)),
        "eyeBlink": lambda s: bump(3.1 * s, 4, 0.8, (0, -0.8, 0)),
        "mouthSmile": lambda s: bump(2.4 * s, -3.4, 1.5, (0.9 * s, 1.0, -0.3)),
        "PupilDilate": lambda s: bump(3.1 * s, 3.5, 0.3, (0, 0, 0)),
        "jawOpen": lambda s: bump(0, -6, 2.5, (0, -3, 0)),
        "mouthClose": lambda s: bump(0, -4.5, 1.5, (0, 1.5, 0)),
        "jawLeft": lambda s: bump(0, -7, 3, (0.8, 0, 0)),
        "jawRight": lambda s: bump(0, -7, 3, (-0.8, 0, 0)),
    }
    sides = {"_L": 1.0, "_R": -1.0}
    shapes = [
        moves[name.removesuffix("_L").removesuffix("_R")](sides.get(name[-2:], 0.0))
        for name in SHAPES
    ]
    modes = [bump(0, 0, 6, (0.0, 0.3, 0.5)), 0.05 * neutral * [1, 0, 0], 0.05 * neutral * [0, 1, 0]]
    places = landmark_places()
    gaps = np.linalg.norm(neutral[None, :, :2] - places[:, None], axis=2)
    triangles = np.concatenate(cells)
    return {
        "neutral": neutral.astype(np.float32),
        "identity": np.array(modes, np.float16),
        "expression": np.array(shapes, np.float16),
        "expression_names": np.array(SHAPES),
        "triangles": triangles.astype(np.int32),
        "triangle_material": np.zeros(len(triangles), np.uint8),
        "materials": np.array(["M_Face"]),
        "landmarks68": gaps.argmin(1).astype(np.int32),
    }


@dataclass(frozen=True)
class Rendered:
    """(S, S, 3) uint8 RGB and (68, 2) pixels."""

    pixels: np.ndarray
    landmarks68: np.ndarray


def render_one(head: Head, prepared: PreparedPerson, scene: Scene, size_px: int) -> Rendered:
    shot = take_shot(head, prepared, scene, size_px)
    return Rendered(BatchRenderer(head, size_px).render([shot])[0], shot.landmarks68)


def render_target(target: TargetFace, coefficients: np.ndarray, size_px: int) -> Rendered:
    shot = target.shot(coefficients, size_px)
    return Rendered(BatchRenderer(target.head, size_px).render([shot])[0], shot.landmarks68)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests of assets where there are none; some also look for the ones that they need."""
    folder = Path(os.environ.get("NORMPIPE_TEST_ASSETS", "../shared"))
    if item.get_closest_marker("assets") and not folder.is_dir():
        pytest.skip(f"no folder {folder} (set NORMPIPE_TEST_ASSETS)")


@pytest.fixture(scope="session")
def fake_kit_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("kit") / "kit.npz"
    np.savez(path, **kit_arrays())
    return path


@pytest.fixture(scope="session")
def fake_kit(fake_kit_file: Path) -> FaceKit:
    return load_facekit(fake_kit_file)


@pytest.fixture(scope="session")
def fake_head(fake_kit: FaceKit) -> Head:
    return prepare_head(fake_kit, Atlas(height=96, width=128))


@pytest.fixture(scope="session")
def real_kit_file() -> Path:
    """The real face kit, which is no part of the project."""
    path = Path(os.environ.get("NORMPIPE_TEST_ASSETS", "../shared")) / "facekit/ict_facekit.npz"
    if not path.is_file():
        pytest.skip(f"no face kit at {path} (set NORMPIPE_TEST_ASSETS)")
    return path


@pytest.fixture(scope="session")
def real_kit(real_kit_file: Path) -> FaceKit:
    return load_facekit(real_kit_file)


@pytest.fixture(scope="session")
def real_head(real_kit: FaceKit) -> Head:
    return prepare_head(real_kit, Atlas())


@pytest.fixture(scope="session")
def tiny_pairs(fake_kit_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The job folder of a tiny set of synthesized pairs."""
    folder = tmp_path_factory.mktemp("pairs")
    config = SynthesizeConfig(
        facekit=str(fake_kit_file), pairs=40, identities=10, size_px=128, target_size_px=192,
        validation=0.2, test=0.1, shard_rows=20,
    )  # fmt: skip
    flow = [PlanPairs(config), Synthesize(config)]
    Runner(folder, flow, RunConfig(threads=1), Options(identity={"dataset": "tiny"})).run(flow)
    return folder


@pytest.fixture(scope="session")
def easy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """15 people, 4 faces each, with labels; two faces that train and two that test are lost."""
    faces = [
        Face(key, labels, original=one, normalized=two) for key, labels, one, two in easy_faces()
    ]
    for number in (1, 8, 45, 58):
        faces[number].status, faces[number].reason = "rejected", "no_face"
    return write_faces(tmp_path_factory.mktemp("easy"), faces)


@pytest.fixture(scope="session")
def samples_job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package's sample faces, as ``normpipe run`` leaves them."""
    folder = tmp_path_factory.mktemp("samples")
    photographs = sample_list(folder / "photographs")
    given = {"input": photographs, "output": folder / "job", "dataset": "samples"}
    job = load_job(None, given, ["ingest.au_columns=intensity", "run.threads=1"], CONFIGS)
    flow = build_flow(job)
    Runner(job.output, flow, job.run, Options(identity={"dataset": "samples"})).run(flow)
    logging.getLogger("normpipe").handlers.clear()
    return job.output
