"""Where labels are, and which rows they belong to."""

from pathlib import Path

from normpipe.pipeline.store.labels import find_labels, job_folder

from ..toys import flow, run


def test_labels_and_folder_are_found_by_the_saved_job(tmp_path: Path) -> None:
    run(tmp_path / "out", flow())
    (tmp_path / "labels.parquet").write_bytes(b"x")
    assert find_labels(tmp_path / "out/made") is None
    (tmp_path / "out/labels.parquet").write_bytes(b"x")
    assert find_labels(tmp_path / "out/made") == (tmp_path / "out/labels.parquet").resolve()
    assert job_folder(tmp_path / "out/made") == (tmp_path / "out").resolve()
