"""What the tests of ingest share."""

from pathlib import Path

import pytest

from normpipe.pipeline.errors import InputError
from normpipe.stages.ingest import Ingest, IngestConfig
from normpipe.stages.videos.frame_process import Decoding


def put(root: Path, *names: str, data: bytes = b"picture") -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def scan(source: Path, **config):
    """Videos are decoded in place: starting processes takes longer than all else."""
    return Ingest(IngestConfig(**config), source, "d", Decoding(isolate=False)).scan()


def write_list(root: Path, text: str, name: str = "list.csv") -> Path:
    path = root / name
    path.write_text(text, encoding="utf-8")
    return path


def keys(found):
    return found.rows["key"].to_pylist()


def reasons(found):
    rows = found.rows.to_pylist()
    return {row["path"]: row["reason"] for row in rows if row["status"] != "ok"}


def refused(source: Path, **config) -> str:
    with pytest.raises(InputError) as caught:
        scan(source, **config)
    message = str(caught.value)
    assert "\n" not in message
    return message
