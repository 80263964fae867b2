"""Pictures in an object store that change after they were listed; a store in memory."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from normpipe.manifests.vocabularies import SampleError
from normpipe.pipeline.store.storage import location
from normpipe.stages.sources.containers.objects import list_objects, read_object


@pytest.fixture
def root(tmp_path: Path) -> Any:
    root: Any = location(f"memory://{tmp_path.name}")
    root.fs.pipe(f"{root.path}/a.jpg", b"picture")
    return root


def outcome(root: Any, **seen: int | None) -> str:
    try:
        return read_object(root, "a.jpg", 1000, **seen).decode()
    except SampleError as error:
        return error.reason


def listed(root: Any) -> dict[str, int | None]:
    facts = list_objects(root, frozenset({".jpg"}))[1]["a.jpg"]
    return {"size_bytes": facts.size_bytes, "modified_ns": facts.modified_ns}


def written(root: Any, data: bytes, seconds: float) -> None:
    """Write an object so many seconds after the first one."""
    store, path = root.fs.store, f"{root.path}/a.jpg"
    then = store[path].created
    root.fs.pipe(path, data)
    store[path].created = then + timedelta(seconds=seconds)


def test_an_object_that_was_written_again_is_another_one(root: Any) -> None:
    seen = listed(root)
    assert seen["modified_ns"] and outcome(root, **seen) == "picture"
    written(root, b"another", 2)  # of the same size
    assert outcome(root, **seen) == "changed_since_ingest"
    assert outcome(root, **listed(root)) == "another"
    assert outcome(root) == "another"
    written(root, b"larger one", 0)
    assert outcome(root, **seen) == "changed_since_ingest"
    root.fs.rm(f"{root.path}/a.jpg")
    assert outcome(root, **seen) == "missing_file"


def test_fractions_of_a_second_are_no_change(root: Any) -> None:
    """Listings and single queries differ in them."""
    root.fs.store[f"{root.path}/a.jpg"].created = datetime(2026, 1, 1, tzinfo=UTC)
    seen = listed(root)
    written(root, b"picture", 0.9)
    assert outcome(root, **seen) == "picture"


def test_a_store_without_times_compares_sizes(root: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = listed(root)
    module = "normpipe.stages.sources.containers.objects._TIMES"
    monkeypatch.setattr(module, ())
    assert listed(root)["modified_ns"] is None
    written(root, b"another", 5)
    assert outcome(root, **seen) == "another"
    written(root, b"larger one", 0)
    assert outcome(root, **seen) == "changed_since_ingest"
