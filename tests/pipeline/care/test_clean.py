"""``normpipe clean`` on the real job: what it frees and refuses, and the same bytes after it."""

import os
import shutil
from pathlib import Path

import pytest

import normpipe
from normpipe.pipeline.errors import InputError
from normpipe.pipeline.store.commit import write_json
from normpipe.pipeline.store.shards import ShardFolder

from ..calling import call, refused
from ..living import digests


@pytest.fixture
def job(tmp_path: Path, samples: Path, random_weights: Path) -> list[str]:
    """A small finished job, as the arguments of its run; its photographs lie beside it."""
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for path in sorted(samples.glob("person0[1-2]*.jpg")):
        shutil.copy2(path, photographs)
    given = [
        *("--input", str(photographs), "--output", str(tmp_path / "out")),
        *("--set", "ingest.shard_rows=4"),
        *("--set", f"normalize.weights={random_weights}"),
    ]
    result = call("run", *given)
    assert result.exit_code == 0, result.output
    return given


@pytest.mark.parametrize("stage", ["align", "normalize"])
def test_what_is_freed_is_made_again_the_same(job: list[str], stage: str) -> None:
    out = Path(job[3])
    before = digests(out)
    dataset = {"align": "aligned", "normalize": "normalized/compact"}[stage]
    asked = call("clean", out, "--stage", stage)
    refused(asked, "--yes")
    size = sum(record.bytes for record in ShardFolder(out / dataset).records().values())
    assert f"frees {size:,} bytes: {dataset}, 6 rows in 2 shards" in asked.stdout
    assert "cannot be opened until then: pairs" in asked.stdout and stage in asked.stdout
    assert digests(out) == before
    result = call("clean", out, "--stage", stage, "--yes")
    assert result.exit_code == 0 and f"freed {size:,} bytes" in result.stdout
    assert not list((out / dataset).glob("*.parquet"))
    with pytest.raises(InputError, match="no finished shard"):
        normpipe.open_dataset(out)
    assert call("verify", out).exit_code == 0
    assert "cleaned; the next run makes it again" in call("status", out).stdout
    refused(call("clean", out, "--stage", stage, "--yes"), "nothing to free")
    # Only what was freed is made again.
    stamps = {p: p.stat().st_mtime_ns for p in out.rglob("shard-*.parquet")}
    again = call("run", *job)
    assert again.exit_code == 0, again.output
    assert digests(out) == before
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    assert len(normpipe.open_dataset(out)) == 6


def test_what_cannot_be_made_again_stays(job: list[str]) -> None:
    out, photographs = Path(job[3]), Path(job[1])
    before = digests(out)
    refused(call("clean", out, "--stage", "ingest", "--yes"), "cannot be made again")
    refused(call("clean", out, "--stage", "aling", "--yes"), "did you mean 'align'")
    picture = next(iter(sorted(photographs.iterdir())))
    data, times = picture.read_bytes(), picture.stat()
    picture.write_bytes(data + b"\0")
    refused(call("clean", out, "--stage", "align", "--yes"), picture.name, "was changed")
    picture.unlink()
    refused(call("clean", out, "--stage", "align", "--yes"), picture.name, "is gone")
    picture.write_bytes(data)
    os.utime(picture, ns=(times.st_atime_ns, times.st_mtime_ns))
    aside = photographs.rename(photographs.with_name("aside"))
    photographs.touch()  # as if it were an archive
    refused(call("clean", out, "--stage", "align", "--yes"), "is in an archive")
    photographs.unlink()
    aside.rename(photographs)
    folder = ShardFolder(out / "aligned")
    made = folder.description()
    assert made is not None
    name = next(iter(made["libraries"]))
    write_json(folder.stage_path, {**made, "libraries": {**made["libraries"], name: "0.1"}})
    refused(call("clean", out, "--stage", "align", "--yes"), f"{name} 0.1")
    write_json(folder.stage_path, {**made, "version": 99})
    refused(call("clean", out, "--stage", "align", "--yes"), "not what a run would make again")
    write_json(folder.stage_path, made)
    write_json(out / "withdrawing.json", {})
    refused(call("clean", out, "--stage", "align", "--yes"), "is not finished")
    (out / "withdrawing.json").unlink()
    assert digests(out) == before
    assert call("clean", out, "--stage", "align", "--yes").exit_code == 0
    refused(call("clean", out, "--stage", "normalize", "--yes"), "its input is gone")


def test_killed_halfway_the_same_command_or_a_run_goes_on(
    job: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Path(job[3])
    before = digests(out)
    removed: list[int] = []
    original = ShardFolder.remove

    def dying(folder: ShardFolder, number: int) -> None:
        if removed:
            raise KeyboardInterrupt
        removed.append(number)
        original(folder, number)

    with monkeypatch.context() as patch:
        patch.setattr(ShardFolder, "remove", dying)
        assert call("clean", out, "--stage", "align", "--yes").exit_code == 3
    assert removed == [1] and list(ShardFolder(out / "aligned").records()) == [0]
    assert call("verify", out).exit_code == 0
    assert call("run", *job).exit_code == 0
    assert digests(out) == before


def test_a_person_can_leave_while_a_dataset_is_cleaned(job: list[str]) -> None:
    out = Path(job[3])
    assert call("clean", out, "--stage", "align", "--yes").exit_code == 0
    key = "photographs/person01_neutral.jpg"
    assert call("withdraw", out, "--key", key).exit_code == 0
    assert call("verify", out).exit_code == 0
    assert call("run", *job).exit_code == 0
    assert call("verify", out).exit_code == 0
    assert key not in {row["key"] for row in normpipe.open_dataset(out)}
