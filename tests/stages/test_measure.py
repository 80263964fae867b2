"""measure: the readings of the encoder, with a row for each input, whatever became of it."""

import csv
import json
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import roc_auc_score

from normpipe import __version__
from normpipe.pipeline.errors import InputError, OutputError
from normpipe.pipeline.stage import sha256_file
from normpipe.pipeline.store import result_tables
from normpipe.pipeline.store.commit import temporary
from normpipe.stages.faces import geometry
from normpipe.stages.faces.pixels import Limits, decode
from normpipe.stages.networks.base import Reading
from normpipe.stages.networks.compact import CompactNormalizer
from normpipe.stages.networks.files.checkpoint import find_weights, save_tensors
from normpipe.stages.networks.files.normalizer_file import open_normalizer
from normpipe.stages.networks.norface import NorfaceNormalizer
from normpipe.stages.networks.reader import as_images
from normpipe.stages.review import face_reader
from normpipe.stages.review import measure as measuring
from normpipe.stages.synthesis.drawing.renderer import prepare_person
from normpipe.stages.synthesis.facekit import FaceKit
from normpipe.stages.synthesis.scene.camera import eyes_nose_mouth
from normpipe.stages.synthesis.scene.expressions import action_units
from normpipe.stages.synthesis.scene.person import draw_person
from normpipe.stages.synthesis.scene.scene import SceneOptions, draw_scene
from normpipe.stages.synthesis.surface.gaze import gaze_angles
from normpipe.stages.synthesis.surface.head import Head

from ..pipeline.calling import call, refused
from .classification.faces import opened
from .conftest import render_one

PEOPLE = ("person01_happiness.jpg", "person05_neutral.jpg")
ASSETS = Path(os.environ.get("NORMPIPE_TEST_ASSETS", "../shared"))


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    yield
    # Commands add handlers that hold on to a stderr which is gone.
    logging.getLogger("normpipe").handlers.clear()


@pytest.fixture(scope="module")
def reader() -> face_reader.FaceReader:
    return face_reader.open_face_reader("compact", "cpu")


@pytest.fixture(scope="module")
def table(samples_job: Path, tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """The package's samples, measured."""
    output = tmp_path_factory.mktemp("measured") / "faces.parquet"
    measured("measure", samples_job, "--output", output)
    return pq.read_table(output)


@pytest.fixture
def photographs(tmp_path: Path, samples_job: Path) -> Path:
    """Two faces, a picture without one, and bytes that are no picture."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in (*PEOPLE, "no_face.jpg"):
        shutil.copy(samples_job.parent / "photographs" / name, folder / name)
    (folder / "broken.jpg").write_bytes(b"this is no picture")
    return folder


def measured(*arguments: object) -> str:
    result = call(*arguments)
    assert result.exit_code == 0, result.output + result.stderr
    return result.stdout.strip().splitlines()[-1]


def ok_rows(table: pa.Table) -> pa.Table:
    return table.filter(pc.equal(table["status"], "ok"))


def values(table: pa.Table, names: tuple[str, ...]) -> np.ndarray:
    """(N, L) of the rows that are ok."""
    return np.stack([ok_rows(table)[name].to_numpy() for name in names], 1)


def crops_of(job: Path) -> dict[str, dict[str, Any]]:
    """Key → row of the aligned faces, with its pixels."""
    rows = pq.read_table(job / "aligned").to_pylist()
    return {
        row["key"]: row | {"pixels": decode(row["image"]["bytes"], Limits()).copy()}
        for row in rows
        if row["status"] == "ok"
    }


def test_values_are_what_the_network_reads(
    samples_job: Path, table: pa.Table, reader: face_reader.FaceReader
) -> None:
    network = open_normalizer("compact").module
    aligned = crops_of(samples_job)
    rows = ok_rows(table).to_pylist()
    assert {row["key"] for row in rows} == {*aligned} and len(rows) > 20
    for row in rows:
        crop = aligned[row["key"]]
        image = as_images(crop["pixels"][None])
        with torch.inference_mode():
            expected = network.read(image)[0].numpy()
            yaw, pitch, _ = network.read_whole(image).pose[0].mul(30).tolist()
        got = np.array([row[name] for name in reader.names], np.float32)
        np.testing.assert_allclose(got, expected, atol=1e-5)
        assert row["yaw_deg"] == pytest.approx(yaw, abs=1e-3)
        assert row["pitch_deg"] == pytest.approx(pitch, abs=1e-3)
        roll = geometry.head_rolls([crop["transform"]], [row["yaw_deg"]], [row["pitch_deg"]])
        assert row["roll_deg"] == pytest.approx(roll[0], abs=1e-3)
        units = action_units(reader.names, got)
        for unit in reader.units:
            assert row[unit] == pytest.approx(units[unit] / 5, abs=1e-6)
        gaze = gaze_angles(reader.names, got).mean(0)
        assert (row["gaze_yaw_deg"], row["gaze_pitch_deg"]) == pytest.approx(tuple(gaze), abs=1e-4)
        for name in ("detection_score", "face_size_px", "sharpness", "brightness", "faces_found"):
            assert row[name] == crop[name]
        assert [row[name] for name in ("x1", "y1", "x2", "y2")] == crop["bbox_xyxy"]
        assert [row["lm2_x"], row["lm2_y"]] == crop["landmarks"][2]


def test_every_action_unit_of_the_card_has_a_column(
    table: pa.Table, reader: face_reader.FaceReader
) -> None:
    card = json.loads(find_weights("compact").with_suffix(".json").read_bytes())
    assert {*reader.units} == {*card["scores"]["clean"]["action_units"]}
    assert [*reader.units] == sorted(reader.units, key=lambda unit: int(unit[2:]))
    assert table.column_names[-len(reader.names) :] == [*reader.names]
    found = values(table, (*reader.units, *reader.names))
    assert found.min() >= 0 and found.max() <= 1 and found.std(0).max() > 0.2


def test_a_folder_gives_every_file_a_row(tmp_path: Path, photographs: Path) -> None:
    output = tmp_path / "faces.parquet"
    line = measured("measure", photographs, "--output", output)
    assert line == f"measured: 4 rows, 2 ok, 1 rejected, 1 failed: {output}"
    rows = {row["path"]: row for row in pq.read_table(output).to_pylist()}
    assert {*rows} == {*PEOPLE, "broken.jpg", "no_face.jpg"}
    broken, empty = rows["broken.jpg"], rows["no_face.jpg"]
    assert (broken["status"], broken["reason"]) == ("failed", "not_an_image")
    assert (empty["status"], empty["reason"]) == ("rejected", "no_face")
    for name in ("AU12", "jawOpen", "yaw_deg", "roll_deg", "gaze_yaw_deg", "sharpness", "x1"):
        assert broken[name] is None and empty[name] is None
        assert all(rows[person][name] is not None for person in PEOPLE)
    assert empty["faces_found"] == 0
    assert rows[PEOPLE[0]]["key"] == rows[PEOPLE[0]]["parent_key"] == f"photos/{PEOPLE[0]}"
    assert rows[PEOPLE[0]]["AU12"] > 0.5 > rows[PEOPLE[1]]["AU12"]


def test_csv_list_and_one_photograph_say_the_same(tmp_path: Path, photographs: Path) -> None:
    measured("measure", photographs, "--output", tmp_path / "a.parquet")
    table = pq.read_table(tmp_path / "a.parquet")
    # The same faces: they are in a.work.
    measured("measure", photographs, "--output", tmp_path / "a.csv")
    options = pyarrow.csv.ConvertOptions(column_types=table.schema, strings_can_be_null=True)
    again = pyarrow.csv.read_csv(tmp_path / "a.csv", convert_options=options)
    assert again.equals(table)
    names = tuple(table.column_names[6:])
    named = tmp_path / "list.csv"
    named.write_text("path\n" + "".join(f"photos/{name}\n" for name in PEOPLE))
    measured("measure", named, "--output", tmp_path / "b.parquet")
    listed = pq.read_table(tmp_path / "b.parquet")
    rows = table.filter(pc.equal(table["status"], "ok"))
    for name in names:
        assert listed[name].to_pylist() == pytest.approx(rows[name].to_pylist(), abs=1e-5)
    measured("measure", photographs / PEOPLE[1], "--output", tmp_path / "c.parquet")
    (one,) = pq.read_table(tmp_path / "c.parquet").to_pylist()
    assert one["path"] == PEOPLE[1]
    assert one["jawOpen"] == pytest.approx(rows["jawOpen"][1].as_py(), abs=1e-5)


def test_a_job_is_read_and_left_as_it_is(
    tmp_path: Path, samples_job: Path, table: pa.Table
) -> None:
    before = {path: path.stat().st_mtime_ns for path in samples_job.rglob("*")}
    for name in (samples_job, samples_job / "aligned"):
        measured("measure", name, "--output", tmp_path / f"{name.name}.parquet")
        assert pq.read_table(tmp_path / f"{name.name}.parquet").equals(table)
    assert {path: path.stat().st_mtime_ns for path in samples_job.rglob("*")} == before
    assert {path.suffix for path in tmp_path.iterdir()} == {".parquet", ".json"}


def test_threads_change_no_byte_and_batches_next_to_nothing(
    tmp_path: Path, samples_job: Path, table: pa.Table, reader: face_reader.FaceReader
) -> None:
    files: list[bytes] = []
    for threads in (1, 3):
        output = tmp_path / f"{threads}.parquet"
        before = torch.get_num_threads()
        measured("measure", samples_job, "--output", output, "--batch-size", 5,
                 "--set", f"run.threads={threads}")  # fmt: skip
        assert torch.get_num_threads() == before
        files.append(output.read_bytes())
    assert files[0] == files[1]
    cut = pq.read_table(tmp_path / "1.parquet")
    assert cut["key"].equals(table["key"]) and cut["reason"].equals(table["reason"])
    names = ("yaw_deg", "pitch_deg", "roll_deg", *reader.gaze, *reader.units, *reader.names)
    # AU26 and AU27 are bands: rounding could move a jaw from one to the other.
    np.testing.assert_allclose(values(cut, names), values(table, names), atol=2e-3)
    np.testing.assert_allclose(values(cut, reader.names), values(table, reader.names), atol=1e-5)


def test_the_same_command_does_nothing_twice(
    tmp_path: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "faces.parquet"
    first = measured("measure", photographs, "--output", output)
    data = output.read_bytes()
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    monkeypatch.setattr(face_reader.FaceReader, "read", lambda *_: 1 / 0)
    assert measured("measure", photographs, "--output", output) == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")} == stamps
    monkeypatch.undo()
    # One that was edited is somebody's work.
    output.write_bytes(b"mine")
    refused(call("measure", photographs, "--output", output), "was changed since", "--overwrite")
    assert output.read_bytes() == b"mine"
    # One that is gone, or of before more photographs came, is made anew.
    output.unlink()
    assert measured("measure", photographs, "--output", output) == first
    assert output.read_bytes() == data
    shutil.copy(photographs / PEOPLE[0], photographs / "zzz.jpg")
    assert "5 rows, 3 ok" in measured("measure", photographs, "--output", output)


def test_one_that_is_killed_leaves_no_half_table_and_keeps_its_faces(
    tmp_path: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "faces.csv"

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(measuring._Batches, "_table", stop)
    result = call("measure", photographs, "--output", output)
    assert result.exit_code == 3 and "Run the same command" in result.stderr
    assert not output.exists() and not temporary(output).exists()
    monkeypatch.undo()
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("shard-*.parquet")}
    assert stamps
    assert "4 rows" in measured("measure", photographs, "--output", output)
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


def test_every_face_of_a_picture_has_a_row(tmp_path: Path, samples_job: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    pictures = [cv2.imread(str(samples_job.parent / "photographs" / name)) for name in PEOPLE]
    height = min(len(picture) for picture in pictures)
    cv2.imwrite(str(folder / "two.png"), np.hstack([p[:height] for p in pictures]))
    output, work = tmp_path / "faces.parquet", tmp_path / "elsewhere"
    arguments = ("measure", folder, "--output", output, "--work", work)
    measured(*arguments, "--set", "align.faces=all")
    rows = pq.read_table(output).to_pylist()
    assert len(rows) == 2 and {row["parent_key"] for row in rows} == {"photos/two.png"}
    assert {row["key"] for row in rows} == {"photos/two.png#face0", "photos/two.png#face1"}
    assert {row["path"] for row in rows} == {"two.png"} and rows[0]["faces_found"] == 2
    # The settings of the faces are saved with them.
    output.unlink()
    assert "2 rows, 2 ok" in measured(*arguments)


@pytest.mark.parametrize("angle", [-35, 20, 90])
def test_roll_is_that_of_the_head_in_the_photograph(
    tmp_path: Path, samples_job: Path, table: pa.Table, angle: float
) -> None:
    name = PEOPLE[1]
    row = next(row for row in table.to_pylist() if row["path"] == name)
    picture = cv2.imread(str(samples_job.parent / "photographs" / name))
    height, width = picture.shape[:2]
    # OpenCV's angles are counter-clockwise; pixel centres are half a pixel from our origin.
    turn = cv2.getRotationMatrix2D((width / 2 - 0.5, height / 2 - 0.5), -angle, 1.0)
    cv2.imwrite(str(tmp_path / "turned.png"), cv2.warpAffine(picture, turn, (width, height)))
    ours = turn.copy()
    ours[:, 2] += 0.5 - turn[:, :2] @ (0.5, 0.5)
    points = np.array([[row[f"lm{point}_{axis}"] for axis in "xy"] for point in range(5)])
    with (tmp_path / "list.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "landmarks"])
        writer.writerow(["turned.png", json.dumps(geometry.apply(ours, points).tolist())])
    output = tmp_path / "faces.parquet"
    measured("measure", tmp_path / "list.csv", "--output", output,
             "--set", "align.detector=supplied")  # fmt: skip
    (turned,) = pq.read_table(output).to_pylist()
    assert turned["roll_deg"] - row["roll_deg"] == pytest.approx(angle, abs=0.5)
    assert turned["yaw_deg"] == pytest.approx(row["yaw_deg"], abs=1.5)
    assert turned["pitch_deg"] == pytest.approx(row["pitch_deg"], abs=1.5)
    assert turned["jawOpen"] == pytest.approx(row["jawOpen"], abs=0.1)


def test_without_landmarks_nothing_is_said_of_roll(tmp_path: Path, photographs: Path) -> None:
    output = tmp_path / "faces.parquet"
    measured("measure", photographs, "--output", output, "--set", "align.detector=none")
    rows = [row for row in pq.read_table(output).to_pylist() if row["status"] == "ok"]
    assert len(rows) == 3
    for row in rows:
        assert row["roll_deg"] is None and row["lm0_x"] is None and row["yaw_deg"] is not None


def test_a_damaged_crop_and_readings_that_are_no_numbers_cost_their_rows(
    tmp_path: Path, samples_job: Path, reader: face_reader.FaceReader,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    shutil.copytree(samples_job / "aligned", tmp_path / "aligned")
    file = tmp_path / "aligned/shard-00000.parquet"
    rows = pq.read_table(file)
    images = rows["image"].to_pylist()
    images[3]["bytes"] = images[3]["bytes"][:3000]
    images[4]["bytes"] = b""
    place = rows.column_names.index("image")
    column = pa.array(images, rows.schema.field("image").type)
    pq.write_table(rows.set_column(place, rows.schema.field("image"), column), file)

    def read(self: face_reader.FaceReader, crops: np.ndarray) -> face_reader.FaceReadings:
        found = original(self, crops)
        found.pitch_deg[6] = np.nan
        return found

    original = face_reader.FaceReader.read
    monkeypatch.setattr(face_reader.FaceReader, "read", read)
    line = measured("measure", tmp_path / "aligned", "--output", tmp_path / "faces.parquet")
    assert "27 rows, 22 ok, 2 rejected, 3 failed" in line
    table = pq.read_table(tmp_path / "faces.parquet").to_pylist()
    found = [(row["status"], row["reason"]) for row in table]
    assert found[3:7] == [
        ("failed", "truncated"), ("failed", "not_an_image"), ("ok", None),
        ("rejected", "not_finite_output"),
    ]  # fmt: skip
    assert table[6]["jawOpen"] is None and table[3]["face_size_px"] is not None


def test_weights_of_ones_own(tmp_path: Path, samples_job: Path) -> None:
    torch.manual_seed(1)
    names = ["jawOpen", "mouthSmile_L", "mouthSmile_R"]
    notes = {"expression_names": ",".join(names)}
    networks = {
        "compact": CompactNormalizer(3),
        "norface": NorfaceNormalizer(3, "T", 32, merge_depth=1, decoder_depth=1),
    }
    for kind, network in networks.items():
        weights, output = tmp_path / f"{kind}.safetensors", tmp_path / f"{kind}.parquet"
        more = {"network": kind, "settings": network.settings()}
        save_tensors(network.state_dict(), weights, notes | more)
        arguments = ("measure", samples_job, "--output", output, "--weights", weights)
        result = call(*arguments)
        assert result.exit_code == 0, result.output + result.stderr
        assert "nothing is known of how good these readings are" in result.stdout
        table = pq.read_table(output)
        last = ["yaw_deg", "pitch_deg", "roll_deg", "AU12", "AU26", "AU27", *names]
        assert table.column_names[-len(last) :] == last
        about = json.loads(table.schema.metadata[b"normpipe_measure"])
        assert (about["network"], about["weights_sha256"]) == (kind, sha256_file(weights))
        crop = next(iter(crops_of(samples_job).values()))
        with torch.inference_mode():
            expected = network.eval().read(as_images(crop["pixels"][None]))[0]
        (row,) = [row for row in table.to_pylist() if row["key"] == crop["key"]]
        assert [row[name] for name in names] == pytest.approx(expected.tolist(), abs=1e-5)
    # Other weights are another table, under the same name.
    other = ("--weights", tmp_path / "norface.safetensors")
    measured("measure", samples_job, "--output", tmp_path / "compact.parquet", *other)
    assert (tmp_path / "compact.parquet").read_bytes() == output.read_bytes()


def test_a_reading_in_fewer_passes_says_the_same(samples_job: Path) -> None:
    """``read_whole`` may be overridden; its default is ``read`` and ``encode``."""
    network = open_normalizer("compact").module
    crops = [crop["pixels"] for crop in crops_of(samples_job).values()]
    images = as_images(np.stack(crops))
    with torch.inference_mode():
        whole, pose = network.read_whole(images), network.encode(images).pose
        torch.testing.assert_close(whole.coefficients, network.read(images))
    assert isinstance(whole, Reading) and whole.landmarks.shape == (len(crops), 136)
    # A mirrored look may count, too; the roll is a guess.
    assert (whole.pose - pose)[:, :2].abs().mean() * 30 < 2


def test_what_is_known_of_the_readings_is_beside_them_and_within(
    tmp_path: Path, samples_job: Path, reader: face_reader.FaceReader
) -> None:
    output = tmp_path / "faces.parquet"
    result = call("measure", samples_job, "--output", output)
    shipped = find_weights("compact")
    card = json.loads(shipped.with_suffix(".json").read_bytes())
    written = json.loads((tmp_path / "faces.parquet.json").read_bytes())
    about = json.loads(pq.read_schema(output).metadata[b"normpipe_measure"])
    assert written["command"] == "measure" and written["sha256"] == sha256_file(output)
    assert about["normpipe"] == __version__ and about["weights_sha256"] == card["sha256"]
    quality = about["quality"]
    assert quality == written["quality"] and {*written["columns"]} >= {"yaw_deg", "AU1 ..."}
    r2 = quality["r2_on_renders"]
    for kind in ("clean", "degraded"):
        assert r2["AU12"][kind] == card["scores"][kind]["action_units"]["AU12"]
        assert r2["browDown_L"][kind] == card["scores"][kind]["shapes"]["browDown"]
    assert {*reader.units} < {*r2} and "mouthClose" not in r2  # renders never show it
    assert quality["auc_on_photographs"] == card["photographs"]
    assert quality["error_on_renders_deg"] == card["angles"]
    words, told, _ = result.stdout.splitlines()
    assert words.startswith("R² on rendered people: good (0.7 or more) AU9,")
    smile = card["photographs"]["mouthSmile"][0]["auc"]
    assert f"happiness by mouthSmile {smile:.2f} [" in told


def test_a_card_that_cannot_be_used_is_said(
    tmp_path: Path, samples_job: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weights = tmp_path / "mine.safetensors"
    shutil.copy(find_weights("compact"), weights)
    shipped = json.loads(find_weights("compact").with_suffix(".json").read_bytes())
    cards = ("no JSON", json.dumps({"scores": 3}), json.dumps(shipped | {"sha256": "0" * 64}))
    for card in cards:
        weights.with_suffix(".json").write_text(card)
        caplog.clear()
        reader = face_reader.open_face_reader(weights, "cpu")
        assert len(caplog.records) == 1 and str(weights.with_suffix(".json")) in caplog.text
        assert reader.scores == face_reader.ReadingScores()
        assert measuring.quality_lines(reader)[0].startswith("nothing is known")
    # An older card says less, and no line is empty.
    shipped = {name: shipped[name] for name in ("scores", "sha256")}
    weights.with_suffix(".json").write_text(json.dumps(shipped))
    (line,) = measuring.quality_lines(face_reader.open_face_reader(weights, "cpu"))
    assert line.startswith("R² on rendered people")


def test_what_cannot_be_is_refused(tmp_path: Path, photographs: Path, samples_job: Path) -> None:
    table = tmp_path / "faces.csv"
    job = ("measure", samples_job, "--output", table)
    refused(call("measure", samples_job, "--output", tmp_path / "a.txt"), "not a .parquet or .csv")
    refused(call("measure", tmp_path / "none", "--output", table), "no folder or list")
    refused(call(*job, "--weights", "compat"), "no weights", "compact")
    refused(call(*job, "--weights", "reader"), "which network")
    (tmp_path / "x.onnx").write_bytes(b"x")
    refused(call(*job, "--weights", tmp_path / "x.onnx"), "no weights")
    nameless = tmp_path / "nameless.safetensors"
    save_tensors(CompactNormalizer(decoder="fine").state_dict(), nameless, {"network": "compact"})
    refused(call(*job, "--weights", nameless), "does not name the shapes")
    refused(call(*job, "--batch-size", 0), "batch_size")
    refused(call(*job, "--device", "gpu"), "unknown device 'gpu'")
    refused(call(*job, "--set", "align.faces=all"), "holds faces already")
    if not torch.cuda.is_available():
        refused(call(*job, "--device", "cuda"), "--device=cpu")
    normalized = samples_job / "normalized/compact"
    refused(call("measure", normalized, "--output", table), "no aligned faces", "photographs")
    inside = ("--output", photographs / "faces.csv")
    refused(call("measure", photographs, *inside), "inside the input folder")
    named = tmp_path / "list.csv"
    named.write_text("path\nphotos/a.jpg\n")
    refused(call("measure", named, "--output", named), "is the input")
    assert not table.exists() and not (tmp_path / "faces.work/aligned").exists()
    table.write_text("mine")
    refused(call(*job), "normpipe measure did not write it", "--overwrite")
    assert table.read_text() == "mine"
    measured(*job, "--overwrite")


def test_too_little_memory_is_one_line(
    tmp_path: Path, samples_job: Path, reader: face_reader.FaceReader,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def read(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(face_reader.FaceReader, "read", read)
    output = tmp_path / "faces.parquet"
    refused(call("measure", samples_job, "--output", output), "not enough memory", "--batch-size")
    assert not [*tmp_path.iterdir()]
    monkeypatch.setattr(face_reader.FaceReader, "read", lambda *_: [][0])
    with pytest.raises(IndexError):
        measuring.measure(
            measuring.MeasureConfig(), reader, opened(samples_job / "aligned"), output
        )


def test_row_groups_are_written_as_they_come(
    tmp_path: Path, samples_job: Path, reader: face_reader.FaceReader,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(result_tables, "GROUP_ROWS", 10)
    config = measuring.MeasureConfig(batch_size=4)
    output = tmp_path / "faces.parquet"
    found = measuring.measure(config, reader, opened(samples_job / "aligned"), output)
    assert found.statuses == {"ok": 25, "rejected": 1, "failed": 1}
    assert pq.ParquetFile(output).num_row_groups == 3
    (tmp_path / "b.csv").write_text("mine")
    with pytest.raises(OutputError, match="did not write it"):
        measuring.measure(config, reader, opened(samples_job / "aligned"), tmp_path / "b.csv")
    with pytest.raises(InputError, match="no aligned faces"):
        measuring.measure(config, reader, opened(samples_job / "manifest"), tmp_path / "c.csv")


def test_docs_name_every_column(reader: face_reader.FaceReader) -> None:
    page = (Path(__file__).parents[2] / "docs/running.md").read_text(encoding="utf-8")
    section = page.partition("## Measuring faces")[2].partition("\n## ")[0]
    for name in measuring.measured_schema(reader).names:
        stands_for = name in (*reader.units, *reader.names) or name.startswith("lm")
        assert stands_for or f"`{name}`" in section, name
    for name in ("lm0_x", "lm4_y", reader.units[0], reader.names[0]):
        assert f"`{name}`" in section


@pytest.mark.assets
def test_angles_are_those_that_heads_are_drawn_with(real_kit: FaceKit, real_head: Head) -> None:
    reader = face_reader.open_face_reader("compact", "cpu")
    names, modes = real_kit.expression_names, len(real_kit.identity)
    snapshots = SceneOptions(framing="snapshot", expressions="gaze")
    drawn = [
        (yaw, pitch, roll) for yaw in (-25, 0, 25) for pitch in (-12, 12) for roll in (-30, 30)
    ]
    crops, transforms, gaze = [], [], []
    for number, (yaw, pitch, roll) in enumerate(drawn):
        person = draw_person(70_000 + number, names, modes)
        scene = draw_scene(person, 70_000 + number, names, snapshots)
        camera = replace(scene.camera, yaw_deg=yaw, pitch_deg=pitch, roll_deg=roll)
        scene = replace(
            scene, camera=camera, occluder="none", glasses=replace(scene.glasses, worn=False)
        )
        picture = render_one(real_head, prepare_person(real_head, person), scene, 192)
        points = picture.landmarks68[:, 0] + 1j * picture.landmarks68[:, 1]
        five = eyes_nose_mouth(points)
        transform = geometry.transform_from_landmarks(np.stack([five.real, five.imag], 1), 224)
        crops.append(geometry.warp(picture.pixels, transform, 224, "black"))
        transforms.append(transform)
        gaze.append(gaze_angles(names, scene.expression.coefficients).mean(0))
    found = reader.read(np.stack(crops))
    roll = geometry.head_rolls(transforms, found.yaw_deg, found.pitch_deg)
    errors = np.stack([found.yaw_deg, found.pitch_deg, roll], 1) - np.array(drawn)
    assert np.abs(errors).mean(0).max() < 4, errors.round(1)
    # Without what the mean head says of the template, turned heads would seem to lean.
    plain = -np.rad2deg([np.arctan2(one[1, 0], one[0, 0]) for one in transforms])
    assert np.abs(errors[:, 2]).mean() < 0.4 * np.abs(plain - np.array(drawn)[:, 2]).mean()
    looks = reader.gaze_deg(found.coefficients)
    for axis in (0, 1):
        assert np.corrcoef(looks[:, axis], np.array(gaze)[:, axis])[0, 1] > 0.7


@pytest.mark.assets
def test_photographs_of_smiles_are_told_from_neutral_ones(tmp_path: Path) -> None:
    labels = pyarrow.csv.read_csv(ASSETS / "faces/labels.csv").to_pylist()
    chosen = [
        row
        for emotion in ("happiness", "neutral")
        for row in [r for r in labels if (r["emotion"], r["part"]) == (emotion, "test")][:40]
    ]
    with (tmp_path / "list.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "smiles"])
        writer.writerows([row["image"], row["emotion"] == "happiness"] for row in chosen)
    output = tmp_path / "faces.parquet"
    line = measured(
        "measure", tmp_path / "list.csv", "--output", output,
        "--set", f"ingest.root={(ASSETS / 'faces/images').resolve()}",
        "--set", "align.detector=insightface",
        "--set", f"align.pack={(ASSETS / 'insightface/models/mini').resolve()}",
    )  # fmt: skip
    assert "80 rows, 80 ok" in line
    smiling = {row["image"] for row in chosen if row["emotion"] == "happiness"}
    rows = pq.read_table(output).to_pylist()
    truth = np.array([row["path"] in smiling for row in rows])
    assert roc_auc_score(truth, [row["AU12"] for row in rows]) > 0.9
    assert np.abs([row["roll_deg"] for row in rows]).max() < 45
    assert all(row["detection_score"] > 0.5 for row in rows)
