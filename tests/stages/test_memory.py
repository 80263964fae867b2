"""normpipe's tools in memory give what the job gives."""

import io
import logging
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import normpipe
from normpipe.pipeline.commands import app as cli
from normpipe.stages.classification.classifiers import (
    MODEL_FILE,
    TrainedClassifier,
    save_classifier,
)
from normpipe.stages.classification.tasks import Task
from normpipe.stages.memory.given import by_batches, given_pictures
from normpipe.stages.networks.classifier import MixtureClassifier
from normpipe.stages.networks.files.checkpoint import shipped_weights
from normpipe.stages.sources.sample_faces import sample_list

FACES = 6


def call(*arguments: object) -> None:
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output + result.stderr
    logging.getLogger("normpipe").handlers.clear()


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over some samples whose pictures are stored without loss."""
    folder = tmp_path_factory.mktemp("memory")
    call(
        "run", "--input", sample_list(folder / "photographs"), "--output", folder / "run",
        "--until", "pair", "--limit", FACES, "--set", "align.format=png",
        "--set", "normalize.format=png", "--set", "run.threads=1",
        "--set", "ingest.au_columns=intensity",
    )  # fmt: skip
    return folder / "run"


@pytest.fixture(scope="module")
def faces(job: Path) -> list[np.ndarray]:
    return stored(job / "aligned")


def stored(folder: Path) -> list[np.ndarray]:
    rows = pq.read_table(folder).to_pylist()
    files = [row["image"]["bytes"] for row in rows if row["status"] == "ok"]
    return [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in files]


@pytest.fixture(scope="module")
def normalizer() -> normpipe.Normalizer:
    return normpipe.Normalizer(device="cpu")


def test_normalized_faces_are_those_of_the_job(job, faces, normalizer) -> None:
    wanted = stored(job / "normalized" / "compact")
    assert len(wanted) == len(faces) > 2
    for face, expected in zip(faces, wanted, strict=True):
        assert np.array_equal(normalizer(face), expected)
    assert np.array_equal(normalizer(faces), np.stack(wanted))
    assert np.array_equal(np.stack([*normalizer.stream(iter(faces))]), np.stack(wanted))
    assert normalizer.weights_sha256 == shipped_weights()["compact"]


def test_aligned_faces_are_those_of_the_job(job, faces) -> None:
    rows = [row for row in pq.read_table(job / "aligned").to_pylist() if row["status"] == "ok"]
    folder = job.parent / "photographs"
    files = [folder / row["key"].partition("/")[2] for row in rows]
    aligner = normpipe.Aligner()
    assert all(map(np.array_equal, aligner(files), faces))
    assert np.array_equal(aligner(files[0]), faces[0])
    assert np.array_equal(aligner(Image.open(files[0])), faces[0])
    (one,) = aligner(files[0], all=True)
    assert np.array_equal(one, faces[0])
    tensor = torch.from_numpy(np.array(Image.open(files[0]).convert("RGB"))).permute(2, 0, 1)
    assert np.array_equal(aligner(tensor).permute(1, 2, 0).numpy(), faces[0])
    stream = [*aligner.stream([files[0], b"no picture", np.zeros((64, 64, 3), np.uint8)])]
    assert [len(found) for found in stream] == [1, 0, 0]
    assert np.array_equal(stream[0][0], faces[0])


def test_a_picture_without_a_face_says_so() -> None:
    empty = np.zeros((64, 64, 3), np.uint8)
    aligner = normpipe.Aligner()
    with pytest.raises(normpipe.FaceError, match="no_face: no face was found") as caught:
        aligner(empty)
    assert caught.value.reason == "no_face"
    assert aligner(empty, all=True) == []
    assert aligner([empty, empty], all=True) == [[], []]
    with pytest.raises(normpipe.NormpipeError, match=r"unknown key 'align\.sise_px'"):
        normpipe.Aligner(sise_px=3)
    with pytest.raises(normpipe.NormpipeError, match="unknown detector 'opncv'; did you mean"):
        normpipe.Aligner("opncv")


def test_every_form_gives_the_same(tmp_path, faces, normalizer) -> None:
    wanted = normalizer(faces[0])
    assert (wanted.shape, wanted.dtype) == ((192, 192, 3), np.uint8)
    tensor = torch.from_numpy(faces[0]).permute(2, 0, 1)
    Image.fromarray(faces[0]).save(tmp_path / "face.png")
    for form in (Image.fromarray(faces[0]), tmp_path / "face.png", str(tmp_path / "face.png")):
        assert np.array_equal(normalizer(form), wanted)
    assert np.array_equal(normalizer((tmp_path / "face.png").read_bytes()), wanted)
    found = normalizer(tensor)
    assert isinstance(found, torch.Tensor) and found.shape == (3, 192, 192)
    assert np.array_equal(found.permute(1, 2, 0).numpy(), wanted)
    assert normalizer(tensor[None]).shape == (1, 3, 192, 192)
    assert normalizer([tensor, tensor]).shape == (2, 3, 192, 192)
    assert normalizer(np.stack(faces[:2])).shape == (2, 192, 192, 3)


def test_a_stream_holds_one_batch(faces, normalizer) -> None:
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield faces[0]

    stream = normalizer.stream(endless())
    for _ in range(33):
        next(stream)
    assert taken == 64
    assert [*normalizer.stream([])] == []
    assert [*by_batches(range(5), 2)] == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (3, "not int"),
        (np.zeros((8, 8, 3)), r"not ndarray \(8, 8, 3\) of float64"),
        (np.zeros((8, 8, 4), np.uint8), r"not ndarray \(8, 8, 4\) of uint8"),
        (torch.zeros(3, 8, 8), r"not Tensor \(3, 8, 8\) of torch.float32"),
        (np.zeros((8, 9, 3), np.uint8), "this picture is 9 x 8: align it first"),
        ([np.zeros((8, 8, 3), np.uint8), np.zeros((9, 9, 3), np.uint8)], "faces of 2 sizes"),
        ([], "give at least one"),
        ("nowhere.jpg", "cannot read nowhere.jpg: No such file"),
    ],
)
def test_what_is_no_face_is_refused(wrong, says, normalizer) -> None:
    with pytest.raises(normpipe.NormpipeError, match=says):
        normalizer(wrong)
    with pytest.raises(normpipe.NormpipeError, match=says):
        normpipe.ExpressionEncoder(device="cpu")(wrong)


def test_a_broken_file_has_its_reason(normalizer) -> None:
    with pytest.raises(normpipe.FaceError, match="not_an_image") as caught:
        normalizer(b"this is no picture")
    assert caught.value.reason == "not_an_image"


def test_transparent_and_turned_pictures_are_read_as_in_a_job(tmp_path, faces) -> None:
    picture = Image.fromarray(faces[0])
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "turned.png", exif=exif)
    clear = picture.copy()
    clear.putalpha(128)
    clear.save(tmp_path / "clear.png")
    for name in ("turned.png", "clear.png"):
        (from_file,) = given_pictures(tmp_path / name).pixels
        with Image.open(tmp_path / name) as image:
            (from_memory,) = given_pictures(image).pixels
        assert np.array_equal(from_file, from_memory)
    assert not np.array_equal(given_pictures(tmp_path / "turned.png").pixels[0], faces[0])


def test_threads_of_torch_stay_as_they_were(faces, normalizer) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    normalizer(faces[0])
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


def test_readings_are_those_of_measure(tmp_path, job, faces) -> None:
    call("measure", job, "--output", tmp_path / "read.parquet")
    table = pq.read_table(tmp_path / "read.parquet")
    rows = [row for row in table.to_pylist() if row["status"] == "ok"]
    encoder = normpipe.ExpressionEncoder(device="cpu")
    seen = encoder.read(faces)
    units = encoder.action_units(seen.coefficients)
    for place, row in enumerate(rows):
        read = [row[name] for name in encoder.names]
        np.testing.assert_allclose(seen.coefficients[place], read, atol=1e-5)
        np.testing.assert_allclose(units[place], [row[u] for u in encoder.units], atol=1e-5)
        np.testing.assert_allclose(seen.yaw_deg[place], row["yaw_deg"], atol=1e-3)
    one = encoder(faces[0])
    assert one.shape == (len(encoder.names),) and one.dtype == np.float32
    np.testing.assert_allclose(one, seen.coefficients[0], atol=1e-5)
    assert encoder.action_units(one).shape == (len(encoder.units),)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of both views, untrained, that says that it has learnt from ``compact``."""
    torch.manual_seed(0)
    task = Task("emotion", ("neutral", "happiness", "anger"))
    network = MixtureClassifier(3, "small").eval()
    made_by = (shipped_weights()["compact"],)
    found = TrainedClassifier(network, task, "original+normalized", "compact", made_by)
    folder = tmp_path_factory.mktemp("model")
    save_classifier(found, folder / MODEL_FILE)
    return folder


def test_predictions_are_those_of_predict(tmp_path, job, faces, model) -> None:
    call("predict", model / MODEL_FILE, job, "--output", tmp_path / "found.parquet")
    table = pq.read_table(tmp_path / "found.parquet")
    names = [f"p_{name}" for name in ("neutral", "happiness", "anger")]
    wanted = [[row[n] for n in names] for row in table.to_pylist() if row["status"] == "ok"]
    classifier = normpipe.Classifier.open(model, device="cpu")
    assert (classifier.task, classifier.labels) == ("emotion", ("neutral", "happiness", "anger"))
    np.testing.assert_allclose(classifier(faces), wanted, atol=1e-6)
    np.testing.assert_allclose(classifier(faces[0]), wanted[0], atol=1e-6)
    normalized = stored(job / "normalized" / "compact")
    np.testing.assert_allclose(classifier(faces, normalized), wanted, atol=1e-6)
    with pytest.raises(normpipe.NormpipeError, match="2 faces and 1 normalized"):
        classifier(faces[:2], normalized[:1])


def test_another_normalizer_is_refused(model) -> None:
    other = normpipe.Normalizer("compact-0.1.0", device="cpu")
    with pytest.raises(normpipe.NormpipeError, match="learnt from faces that other weights"):
        normpipe.Classifier.open(model, normalizer=other)
    with pytest.raises(normpipe.NormpipeError, match="no classifier"):
        normpipe.Classifier.open(model / "nothing")
