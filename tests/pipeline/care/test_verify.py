"""``normpipe verify``: a flipped bit is found wherever it lies, and what it says to do heals it."""

import errno
import hashlib
import json
import os
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from normpipe.pipeline.care import verify as module
from normpipe.pipeline.care.verify import verify
from normpipe.pipeline.stage import Scan
from normpipe.pipeline.store import storage
from normpipe.pipeline.store.shards import ShardFolder

from ..living import digests
from ..toys import NAMES, ToySource, flow, run

#: A slice of ``benchmarks/verifying.py``, which draws 1,000.
BITS = 60


class Labelled(ToySource):
    def scan(self) -> Scan:
        scan = super().scan()
        emotion = pa.repeat("fear", scan.rows.num_rows)
        scan.labels = scan.rows.select(["key"]).append_column("emotion", emotion)
        return scan


@pytest.fixture
def job(tmp_path: Path) -> Path:
    run(tmp_path / "out", [Labelled(NAMES), *flow()[1:]])
    assert verify(tmp_path / "out").differences == []
    return tmp_path / "out"


def test_flipped_bits_are_found_in_every_file(job: Path) -> None:
    files = sorted(p for p in job.rglob("*") if p.is_file() and not p.name.startswith("."))
    files.remove(job / "job.toml")  # yours to edit, when the input moves
    names = {path.name for path in files}
    assert {"index.parquet", "manifest.json", "labels.parquet", "README.md", "stage.json"} <= names
    draw = random.Random(5)
    for path in draw.sample(files, min(len(files), BITS)) + draw.choices(files, k=BITS // 2):
        good = path.read_bytes()
        place, bit = draw.randrange(len(good)), draw.randrange(8)
        path.write_bytes(good[:place] + bytes([good[place] ^ 1 << bit]) + good[place + 1 :])
        found = verify(job).differences
        assert found, f"{path.relative_to(job)}, byte {place}, bit {bit}"
        path.write_bytes(good)
    assert verify(job).differences == []


@pytest.mark.parametrize(
    "name", ["_made/index.parquet", "_made/README.md", "_made/manifest.json", "labels.parquet"]
)
def test_a_damaged_derived_file_heals_as_verify_says(job: Path, name: str) -> None:
    before = digests(job)
    path = job / name
    path.write_bytes(path.read_bytes()[:-9] + b"!" + path.read_bytes()[-8:])
    (line,) = verify(job).differences
    assert path.name in line and "run the job" in line
    if "remove it" in line:
        path.unlink()
    run(job, [Labelled(NAMES), *flow()[1:]])
    assert verify(job).differences == []
    assert digests(job) == before


@pytest.mark.parametrize("dataset", ["manifest", "made"])
def test_a_damaged_record_heals_as_verify_says(job: Path, dataset: str) -> None:
    before = digests(job)
    path = ShardFolder(job / dataset).record_path(0)
    record = json.loads(path.read_text())
    path.write_text(path.read_text().replace(record["fingerprint"][:4], "0000", 1))
    assert any("shard-00000" in line for line in verify(job).differences)
    path.write_text(path.read_text()[:-3])
    assert any("remove it" in line for line in verify(job).differences)
    path.unlink()
    run(job, [Labelled(NAMES), *flow()[1:]])
    assert verify(job).differences == []
    assert digests(job) == before


@pytest.mark.parametrize("size", [0, 1, 4096, (4 << 20) - 1, 4 << 20, (9 << 20) + 7])
def test_a_mapped_file_has_the_same_digest(size: int, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(random.Random(size).randbytes(size))
    assert module.sha256_mapped(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_bytes_that_are_gone_while_they_are_hashed_end_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a failing disk: a page of a mapping cannot be had, which is a signal otherwise."""
    path = tmp_path / "file"
    path.write_bytes(bytes(12 << 20))

    class Digest:
        def update(self, _: object) -> None:
            os.truncate(path, 0)

    monkeypatch.setattr(module.hashlib, "sha256", Digest)
    with pytest.raises(OSError, match="Bad address"):
        module.sha256_mapped(path)


def test_a_shard_that_cannot_be_read_is_a_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "out", flow())

    def failing(path: Path) -> str:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr(module, "sha256_mapped", failing)
    found = verify(tmp_path / "out").differences
    assert found and all("cannot be read: [Errno 5]" in line for line in found)


def test_what_is_renamed_while_a_folder_is_listed_hides_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "out", flow())
    folder = ShardFolder(tmp_path / "out/made")
    expected = folder.records()
    real = storage._sizes

    def renaming(entries: Any) -> dict[str, int]:
        listed = list(entries)
        (folder.path / "shard-00009.parquet.tmp").unlink(missing_ok=True)
        return real(listed)

    monkeypatch.setattr(storage, "_sizes", renaming)
    (folder.path / "shard-00009.parquet.tmp").touch()
    assert folder.records() == expected and expected


def test_an_unfinished_record_is_no_record(job: Path) -> None:
    (ShardFolder(job / "made").records_path / "shard-00000.json.tmp").touch()
    assert verify(job).differences == []


def test_verify_finds_every_kind_of_damage(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(out, flow())
    shard = out / "made/shard-00001.parquet"
    good = shard.read_bytes()
    for place in range(0, len(good), max(1, len(good) // 40)):
        shard.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        found = verify(out).differences
        assert len(found) == 1 and "made/shard-00001.parquet" in found[0]
    shard.write_bytes(good[:-1])
    assert "bytes, recorded" in verify(out).differences[0]
    shard.write_bytes(good)
    record = ShardFolder(out / "made").record_path(1)
    text = record.read_text()
    wrong = json.loads(text)
    wrong["rows"] += 1
    record.write_text(json.dumps(wrong))
    assert any("rows, recorded" in line for line in verify(out).differences)
    record.unlink()
    assert any("no record" in line for line in verify(out).differences)
    record.write_text(text)
    assert verify(out).differences == []
    (out / "second/shard-00000.parquet").unlink()
    assert any("has no shard" in line for line in verify(out).differences)
