"""Where labels are, and which rows they belong to."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from normpipe.manifests.schema import schema
from normpipe.pipeline.errors import InputError
from normpipe.pipeline.store.labels import (
    LABELS_METADATA,
    find_labels,
    holds_job,
    is_saved_job,
    job_folder,
    label_rows,
    labels_digest,
    own_label_columns,
    read_labels,
    vote_shares,
)

from ..toys import flow, run


def test_labels_and_folder_are_found_by_the_saved_job(tmp_path: Path) -> None:
    run(tmp_path / "out", flow())
    (tmp_path / "labels.parquet").write_bytes(b"x")
    assert find_labels(tmp_path / "out/made") is None
    (tmp_path / "out/labels.parquet").write_bytes(b"x")
    assert find_labels(tmp_path / "out/made") == (tmp_path / "out/labels.parquet").resolve()
    assert job_folder(tmp_path / "out/made") == (tmp_path / "out").resolve()


def test_a_dataset_of_no_job_has_its_own_labels_alone(tmp_path: Path) -> None:
    (tmp_path / "labels.parquet").write_bytes(b"x")
    (tmp_path / "job.toml").write_text('input = "x"\n')  # a user's, which makes no job
    folder = tmp_path / "normalized/compact"
    folder.mkdir(parents=True)
    assert not holds_job(tmp_path) and job_folder(folder) == folder
    assert find_labels(folder) is None and find_labels(tmp_path) == tmp_path / "labels.parquet"
    (tmp_path / "job.toml").write_text('input = "x"\n  [[flow]]  \nstage = "ingest"\n')
    assert is_saved_job(tmp_path / "job.toml") and job_folder(folder) == tmp_path.resolve()
    assert find_labels(folder) == tmp_path.resolve() / "labels.parquet"
    assert not is_saved_job(tmp_path / "nowhere") and not is_saved_job(folder)


def test_a_row_has_the_labels_of_its_key_then_of_its_picture() -> None:
    labels = pa.table({"key": pa.chunked_array([["d/b"], ["d/a#f2#face1", "d/a#f2", "d/v"]])})
    rows = {
        "d/b": ("d/b", 0),
        "d/a#f2#face1": ("d/a#f2", 1),  # its own, though its picture has some
        "d/a#f2#face0": ("d/a#f2", 2),
        "d/b@compact": ("d/b", 0),
        "d/v#f7#face3": ("d/v#f7#face3", 3),  # a frame of a video, a face in it
        "d/c": ("d/c", None),
        "d/a": ("d/a", None),  # what belongs to a face says nothing of the whole
    }
    keys, parents = pa.array(rows), pa.array([parent for parent, _ in rows.values()])
    found = label_rows(keys, parents, labels)
    assert found.type == pa.int64()
    assert found.to_pylist() == [place for _, place in rows.values()]


def test_a_digest_is_of_the_values_and_not_of_how_they_lie() -> None:
    table = pa.table({"key": ["a", "b"], "fold": pa.array([1, None], pa.int32())})
    halves = pa.concat_tables([table.slice(0, 1), table.slice(1)])
    assert labels_digest(halves) == labels_digest(table)
    others = [
        table.take([1, 0]),
        table.select(["fold", "key"]),
        table.rename_columns(["key", "split"]),
        table.set_column(1, "fold", pa.array([1, 0], pa.int32())),
        table.set_column(1, "fold", pa.array([1, None], pa.int64())),
    ]
    assert len({labels_digest(one) for one in [table, *others]}) == 6


def test_what_is_no_table_of_labels_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "labels.parquet"
    path.write_bytes(b"key,subject\n")
    with pytest.raises(InputError, match=r"cannot read the labels .*labels\.parquet"):
        read_labels(path)
    pq.write_table(pa.table({"subject": ["anna"]}), path)
    with pytest.raises(InputError, match="have no column 'key'"):
        read_labels(path)
    pq.write_table(pa.table({"key": ["a"]}), path)
    assert read_labels(path).to_pylist() == [{"key": "a"}]


def test_a_shard_says_which_columns_are_labels() -> None:
    said = schema([("AU12", pa.int8()), ("site", pa.string()), ("fold", pa.int32())])
    assert own_label_columns(said) == ["fold"]  # known by name, where nothing is said
    votes = schema([("fear_votes", pa.int64()), ("joy_votes", pa.int64())])
    assert own_label_columns(votes) == ["fear_votes"]
    metadata = {LABELS_METADATA: '["AU12", "site"]'}
    assert own_label_columns(said.with_metadata(metadata)) == ["AU12", "site"]
    assert own_label_columns(said.with_metadata({LABELS_METADATA: "[]"})) == []


def test_shares_are_of_the_raters_who_chose_an_emotion() -> None:
    labels = pa.table(
        {
            "contempt_votes": pa.array([1, None, 0, None], pa.int64()),
            "neutral_votes": pa.chunked_array([[3.0, 2.0], [0.0, None]]),
            "unknown_votes": [6, 0, 10, None],
            "happy_votes": [9, 9, 9, 9],  # no column of ours
        }
    )
    shares = vote_shares(labels)
    assert shares.shape == (4, 8) and shares.dtype == np.float32
    assert shares[0].tolist() == [0.75, 0, 0, 0, 0, 0, 0, 0.25]
    assert shares[1].tolist() == [1, 0, 0, 0, 0, 0, 0, 0]
    assert np.isnan(shares[2:]).all()
    assert np.isnan(vote_shares(pa.table({"key": ["a"]}))).all()
