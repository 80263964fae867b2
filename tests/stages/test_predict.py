"""predict: new photographs and shards, with a row for each, whatever became of it."""

import json
import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner, Result

from normpipe.pipeline.commands import app as cli
from normpipe.pipeline.errors import InputError, OutputError
from normpipe.pipeline.stage import sha256_file
from normpipe.pipeline.store import result_tables
from normpipe.pipeline.store.shards import datasets_in
from normpipe.stages.classification import predict as predicting
from normpipe.stages.classification.classifiers import CARD_FILE, check_normalizer, open_classifier
from normpipe.stages.classification.listing import input_paths, list_faces, list_rows
from normpipe.stages.classification.settings import ClassifyConfig
from normpipe.stages.classification.tasks import Task
from normpipe.stages.classify import plan_partitions, train
from normpipe.stages.networks.compact import CompactNormalizer
from normpipe.stages.networks.files.checkpoint import find_weights, save_tensors
from normpipe.stages.sources.sample_faces import sample_list

from .classification.faces import count_openings, opened

#: One face, another, bytes that are no picture, and a picture without a face.
PEOPLE = ("person01_happiness.jpg", "person05_neutral.jpg")
BROKEN = "broken.jpg"
EMPTY = "no_face.jpg"


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def predicted(*arguments: object) -> str:
    result = call("predict", *arguments)
    assert result.exit_code == 0, result.output + result.stderr
    return result.stdout.strip().splitlines()[-1]


def refused(*arguments: object) -> str:
    """Check that a call gave one line and status 2; return the line."""
    result = call("predict", *arguments)
    assert result.exit_code == 2, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("normpipe: ")]
    return line


def values(table: pa.Table) -> np.ndarray:
    """(N, L) of the rows that are ok."""
    names = [name for name in table.column_names if name.startswith(("p_", "level_"))]
    ok = table.filter(pa.compute.equal(table["status"], "ok"))
    return np.stack([ok[name].to_numpy() for name in names], 1)


@dataclass(frozen=True)
class Made:
    """A finished run over the samples, and folders of models that were trained on it."""

    run: Path
    both: Path
    original: Path
    units: Path


def trained(data: Path, output: Path, views: str, task: str = "emotion", *labels: str) -> Path:
    """Train a model for a few steps."""
    config = ClassifyConfig.model_validate(
        {
            "views": views, "task": task, "labels": labels, "least_steps": 2, "epochs": 1,
            "threads": 1, "workers": 0, "device": "cpu", "precision": "fp32", "batch_size": 8,
        }
    )  # fmt: skip
    listing, found, (part,) = plan_partitions(config, opened(data))
    assert train(config, listing, found, part, output).finished
    return output


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("made")
    photographs = sample_list(folder / "photographs")
    result = call(
        "run", "--input", photographs, "--output", folder / "run", "--until", "pair",
        "--set", "ingest.au_columns=intensity", "--set", "run.threads=1",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    logging.getLogger("normpipe").handlers.clear()

    return Made(
        folder / "run",
        trained(folder / "run", folder / "both", "original+normalized"),
        trained(folder / "run", folder / "original", "original"),
        trained(
            folder / "run", folder / "units", "original+normalized", "intensity", *("AU6", "AU12")
        ),
    )


@pytest.fixture
def photographs(tmp_path: Path, made: Made) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in (*PEOPLE, EMPTY):
        shutil.copy(made.run.parent / "photographs" / name, folder / name)
    (folder / BROKEN).write_bytes(b"this is no picture")
    return folder


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
    # Commands add handlers that hold on to a stderr which is gone.
    logging.getLogger("normpipe").handlers.clear()


def test_a_folder_gives_every_file_a_row(tmp_path: Path, photographs: Path, made: Made) -> None:
    output = tmp_path / "predicted.parquet"
    line = predicted(made.both, photographs, "--output", output)
    assert line == f"predictions: 4 rows, 2 ok, 1 rejected, 1 failed: {output}"
    table = pq.read_table(output)
    rows = {row["path"]: row for row in table.to_pylist()}
    assert {*rows} == {*PEOPLE, BROKEN, EMPTY}
    assert (rows[BROKEN]["status"], rows[BROKEN]["reason"]) == ("failed", "not_an_image")
    assert (rows[EMPTY]["status"], rows[EMPTY]["reason"]) == ("rejected", "no_face")
    task = open_classifier(made.both).task
    for name in (BROKEN, EMPTY):
        assert rows[name]["emotion"] is None and rows[name]["p_happiness"] is None
    for name in PEOPLE:
        assert rows[name]["key"] == rows[name]["parent_key"] == f"photos/{name}"
        probability = {label: rows[name][f"p_{label}"] for label in task.names}
        assert sum(probability.values()) == pytest.approx(1)
        assert rows[name]["emotion"] == max(probability, key=lambda label: probability[label])


def test_csv_list_and_one_photograph_say_the_same(
    tmp_path: Path, photographs: Path, made: Made
) -> None:
    predicted(made.both, photographs, "--output", tmp_path / "a.parquet")
    table = pq.read_table(tmp_path / "a.parquet")
    work = ("--work", tmp_path / "a.work")
    predicted(made.both, photographs, "--output", tmp_path / "a.csv", *work)
    options = pyarrow.csv.ConvertOptions(column_types=table.schema, strings_can_be_null=True)
    again = pyarrow.csv.read_csv(tmp_path / "a.csv", convert_options=options)
    assert again.equals(table)
    named = tmp_path / "list.csv"
    named.write_text("path\n" + "".join(f"photos/{name}\n" for name in (*PEOPLE, EMPTY)))
    predicted(made.both, named, "--output", tmp_path / "b.parquet")
    listed = pq.read_table(tmp_path / "b.parquet")
    np.testing.assert_allclose(values(listed), values(table), atol=1e-6)
    predicted(made.both, photographs / PEOPLE[0], "--output", tmp_path / "c.parquet")
    (one,) = pq.read_table(tmp_path / "c.parquet").to_pylist()
    assert one["path"] == PEOPLE[0] and one["status"] == "ok"
    assert one["p_happiness"] == pytest.approx(
        next(row["p_happiness"] for row in table.to_pylist() if row["path"] == PEOPLE[0]), abs=1e-6
    )


def test_shards_give_what_their_photographs_give(tmp_path: Path, made: Made) -> None:
    folder = made.run.parent / "photographs"
    levels = ("--set", "ingest.au_columns=intensity")
    predicted(made.both, folder / "labels.csv", "--output", tmp_path / "photos.parquet", *levels)
    for name in (made.run, made.run / "pairs"):
        predicted(made.both, name, "--output", tmp_path / f"{name.name}.parquet")
    photos, run, pairs = (
        pq.read_table(tmp_path / f"{name}.parquet") for name in ("photos", "run", "pairs")
    )
    assert run.equals(pairs)
    assert photos["path"].equals(run["path"]) and run["path"].null_count == 0
    assert photos["reason"].equals(run["reason"])
    np.testing.assert_allclose(values(photos), values(run), atol=1e-6)
    assert not (tmp_path / "run.work").exists()


def test_originals_alone_need_no_normalizer(tmp_path: Path, photographs: Path, made: Made) -> None:
    predicted(made.original, photographs, "--output", tmp_path / "predicted.parquet")
    assert list(datasets_in(tmp_path / "predicted.work")) == ["aligned", "manifest"]
    assert values(pq.read_table(tmp_path / "predicted.parquet")).shape[0] == 2
    predicted(made.original, made.run, "--output", tmp_path / "run.parquet")
    assert (tmp_path / "run.parquet").is_file()
    line = refused(made.original, made.run / "normalized/compact", "--output", tmp_path / "x.csv")
    assert "normalized faces alone" in line


def test_every_face_of_a_picture_has_a_row(tmp_path: Path, made: Made) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    pictures = [cv2.imread(str(made.run.parent / "photographs" / name)) for name in PEOPLE]
    height = min(len(picture) for picture in pictures)
    cv2.imwrite(str(folder / "two.png"), np.hstack([p[:height] for p in pictures]))
    output = tmp_path / "predicted.parquet"
    predicted(made.both, folder, "--output", output, "--set", "align.faces=all")
    rows = pq.read_table(output).to_pylist()
    assert len(rows) == 2 and {row["parent_key"] for row in rows} == {"photos/two.png"}
    assert len({row["key"] for row in rows}) == 2
    assert {row["path"] for row in rows} == {"two.png"}


def test_intensities_are_levels(tmp_path: Path, made: Made) -> None:
    predicted(made.units, made.run, "--output", tmp_path / "predicted.parquet")
    table = pq.read_table(tmp_path / "predicted.parquet")
    names = open_classifier(made.units).task.names
    assert table.column_names[5:] == [f"level_{name}" for name in names]
    assert values(table).min() >= 0 and values(table).max() <= 5


def test_the_model_knows_its_normalizer_and_refuses_another(
    tmp_path: Path, photographs: Path, made: Made
) -> None:
    digest = sha256_file(find_weights("compact"))
    assert open_classifier(made.both).normalized_by == (digest,)
    assert open_classifier(made.original).normalized_by == ()
    card = json.loads((made.both / CARD_FILE).read_bytes())
    assert card["trained_on"]["normalized_by"] == [digest]
    network = CompactNormalizer()
    torch.nn.init.uniform_(network.decoder.template)
    weights = tmp_path / "other.safetensors"
    notes = {"network": "compact", "settings": network.settings()}
    save_tensors(network.state_dict(), weights, notes)
    arguments = (
        made.both, photographs, "--output", tmp_path / "predicted.csv",
        "--set", f"normalize.weights={weights}",
    )  # fmt: skip
    line = refused(*arguments)
    assert digest[:12] in line and "--any-normalizer" in line
    assert not (tmp_path / "predicted.work").exists(), "refused before any work"
    predicted(*arguments, "--any-normalizer")
    # The shards that it left are refused as well, and taken as well.
    again = (made.both, tmp_path / "predicted.work", "--output", tmp_path / "again.csv")
    assert digest[:12] in refused(*again)
    predicted(*again, "--any-normalizer")


def test_the_same_command_does_nothing_twice(
    tmp_path: Path, photographs: Path, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "predicted.parquet"
    first = predicted(made.both, photographs, "--output", output)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}

    def never(*_: object) -> None:
        raise AssertionError("worked twice")

    monkeypatch.setattr(predicting, "predict_faces", never)
    assert predicted(made.both, photographs, "--output", output) == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")} == stamps
    monkeypatch.undo()
    # One that was edited is somebody's work; refused before any.
    output.write_bytes(b"mine")
    shutil.rmtree(tmp_path / "predicted.work")
    line = refused(made.both, photographs, "--output", output)
    assert "was changed since" in line and "--overwrite" in line
    assert output.read_bytes() == b"mine" and not (tmp_path / "predicted.work").exists()
    assert predicted(made.both, photographs, "--output", output, "--overwrite") == first
    # One that is gone, or of before more photographs came, is made anew.
    output.unlink()
    assert predicted(made.both, photographs, "--output", output) == first
    assert pq.read_table(output).num_rows == 4
    shutil.copy(photographs / PEOPLE[0], photographs / "zzz.jpg")
    assert "5 rows, 3 ok" in predicted(made.both, photographs, "--output", output)


def test_settings_of_its_faces_are_not_said_again(
    tmp_path: Path, photographs: Path, made: Made
) -> None:
    output = tmp_path / "predicted.csv"
    small = ("--set", "align.size_px=96")
    first = predicted(made.original, photographs, "--output", output, *small)
    assert predicted(made.original, photographs, "--output", output) == first
    assert "size_px = 96" in (tmp_path / "predicted.work/job.toml").read_text()


def test_what_cannot_be_is_refused(tmp_path: Path, photographs: Path, made: Made) -> None:
    table = tmp_path / "predicted.csv"
    assert "is not a .parquet or .csv file" in refused(
        made.both, photographs, "--output", tmp_path / "predicted.txt"
    )
    assert "no classifier" in refused(tmp_path / "none", photographs, "--output", table)
    assert "no folder or list" in refused(made.both, tmp_path / "none", "--output", table)
    assert "threshold" in refused(made.both, made.run, "--output", table, "--threshold", 2)
    assert "holds faces already" in refused(
        made.both, made.run, "--output", table, "--set", "align.faces=all"
    )
    assert "inside the input folder" in refused(
        made.both, photographs, "--output", photographs / "predicted.csv"
    )
    named = tmp_path / "list.csv"
    named.write_text("path\nphotos/a.jpg\n")
    assert "is the input" in refused(made.both, named, "--output", named)
    table.write_text("mine")
    line = refused(made.both, made.run, "--output", table)
    assert "--overwrite" in line and table.read_text() == "mine"
    predicted(made.both, made.run, "--output", table, "--overwrite")
    if not torch.cuda.is_available():
        assert "device" in refused(made.both, made.run, "--output", table, "--device", "cuda")


def test_an_unfinished_run_is_refused(tmp_path: Path, made: Made) -> None:
    folder = tmp_path / "run"
    shutil.copytree(made.run, folder)
    listing = list_rows(opened(folder), ["original", "normalized"])
    assert input_paths(listing).null_count == 0
    # Only the first half of the faces: as if the other shard had not been made.
    with pytest.raises(InputError, match="not finished"):
        input_paths(listing.take(np.arange(3)))


def test_faces_without_labels_train_nothing_and_can_be_listed(
    tmp_path: Path, photographs: Path, made: Made
) -> None:
    predicted(made.both, photographs, "--output", tmp_path / "predicted.csv")
    work = tmp_path / "predicted.work"
    assert len(list_rows(opened(work), ["original", "normalized"])) == 4
    with pytest.raises(InputError, match="has no labels"):
        list_faces(opened(work), ["original"])


def test_action_units_occur_above_the_threshold(tmp_path: Path, made: Made) -> None:
    found = open_classifier(made.units)
    model = replace(found, task=Task("action_units", found.task.names))
    for threshold in (0.4, 0.6):
        config = predicting.PredictConfig(threshold=threshold, device="cpu")
        output = tmp_path / f"{threshold}.parquet"
        predicting.predict(config, model, "model", opened(made.run), output)
        for row in pq.read_table(output).to_pylist():
            for name in model.task.names:
                value = row[f"p_{name}"]
                assert row[name] == (None if value is None else int(value > threshold))
    with pytest.raises(OutputError, match="did not write it"):
        (tmp_path / "0.4.parquet.json").unlink()
        predicting.predict(
            predicting.PredictConfig(), model, "model", opened(made.run), tmp_path / "0.4.parquet"
        )


def test_chunks_and_row_groups_change_nothing(
    tmp_path: Path, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    openings = count_openings(monkeypatch)
    predicted(made.both, made.run, "--output", tmp_path / "a.parquet")
    assert openings == [made.run]
    monkeypatch.setattr(predicting, "_CHUNK", 4)
    monkeypatch.setattr(result_tables, "GROUP_ROWS", 10)
    predicted(made.both, made.run, "--output", tmp_path / "b.parquet", "--batch-size", 3)
    with pq.ParquetFile(tmp_path / "b.parquet") as file:
        assert file.num_row_groups == 3
    whole, cut = pq.read_table(tmp_path / "a.parquet"), pq.read_table(tmp_path / "b.parquet")
    assert cut["key"].equals(whole["key"]) and cut["status"].equals(whole["status"])
    np.testing.assert_allclose(values(cut), values(whole), atol=1e-6)


def test_a_view_of_a_normalizers_making_needs_its_weights(
    tmp_path: Path, photographs: Path, made: Made
) -> None:
    model = trained(made.run, tmp_path / "code", "original+code")
    digest = sha256_file(find_weights("compact"))
    assert open_classifier(model).normalized_by == (digest,)
    predicted(model, photographs, "--output", tmp_path / "predicted.parquet")
    assert len(values(pq.read_table(tmp_path / "predicted.parquet"))) == 2
    assert not (tmp_path / "predicted.work/normalized").exists()
    other = replace(open_classifier(model), normalized_by=("0" * 64,))
    config = predicting.PredictConfig(device="cpu")
    aligned = tmp_path / "predicted.work/aligned"
    with pytest.raises(InputError, match="000000000000…"):
        predicting.predict(config, other, "model", opened(aligned), tmp_path / "other.csv")
    with pytest.raises(InputError, match="does not say"):
        check_normalizer(replace(other, normalized_by=()), (digest,), "--any")
    with pytest.raises(InputError, match="do not say"):
        check_normalizer(other, None, "--any")
