"""The card of a job's folder opens its datasets in other tools, and names nobody."""

import json
import re

import datasets
import duckdb
import pandas
import polars
import pytest

from normpipe.pipeline.care.job_card import write_job_card
from normpipe.pipeline.store.shards import datasets_in

from ...stages.classification.faces import write_faces
from ...stages.publishing.exports import faces


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    folder = tmp_path_factory.mktemp("job")
    write_faces(folder, faces())
    for name in ("aligned", "normalized/compact", "pairs"):
        place = (folder / name).with_name("_" + (folder / name).name)
        (place / "stage.json").write_text("{}")
    assert len(datasets_in(folder)) == 3
    write_job_card(folder)
    return folder


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def test_the_card_counts_and_names_no_one(job):
    card = (job / "README.md").read_text()
    assert "| `normalized/compact` | 26 | 24 | image |" in card
    assert "| train | 16 |" in card and "| 0 | neutral | 7 |" in card
    assert not re.search(f"anna|bert|S0|{job.name}", card)
    before = (job / "README.md").stat().st_mtime_ns
    write_job_card(job)
    assert (job / "README.md").stat().st_mtime_ns == before


def test_datasets_opens_each_by_its_name(job):
    for name in ("aligned", "normalized-compact", "pairs"):
        rows = datasets.load_dataset(str(job), name, split="train")
        assert len(rows) == 24 and {*rows["status"]} == {"ok"}
    rows = datasets.load_dataset(str(job), "normalized-compact", split="train")
    assert isinstance(rows.features["image"], datasets.Image)
    assert len(datasets.load_dataset(str(job), "labels", split="train")) == 26


def test_the_lines_of_the_card_run(job, monkeypatch):
    monkeypatch.chdir(job.parent)
    text = (job / "README.md").read_text().replace("OUT", job.name)
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1].splitlines()
    names = {"datasets": datasets, "duckdb": duckdb, "polars": polars, "pandas": pandas}
    counts = []
    for line in (one for one in code if one and not one.startswith("#")):
        if line.startswith("duckdb"):
            line = f"faces = {line}"
        exec(line, names)
        counts.append(len(names["labels"] if line.startswith("labels") else names["faces"]))
    assert counts == [24, 24, 24, 24, 26, 24, 24]
    assert json.dumps(sorted(names["faces"].df()["split"].dropna().unique())) == '["test", "train"]'


def test_rows_that_have_their_labels_have_real_splits(tmp_path):
    write_faces(tmp_path, faces(), inside=True)
    (tmp_path / "_pairs/stage.json").write_text("{}")
    import pyarrow.parquet as pq

    from ...stages.classification.faces import label_table

    pq.write_table(label_table(faces()), tmp_path / "labels.parquet")
    write_job_card(tmp_path)
    rows = datasets.load_dataset(str(tmp_path), "pairs-test", split="train")
    assert len(rows) == 8 and {*rows["split"]} == {"test"}
    write_job_card(tmp_path / "none")
    assert not (tmp_path / "none").exists()
