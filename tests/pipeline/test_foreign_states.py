"""Torn and foreign states of an output folder heal, or stop with a line that says what to do."""

import datetime
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import normpipe
from normpipe.pipeline.care.verify import verify
from normpipe.pipeline.errors import InputError, OutputError
from normpipe.pipeline.stage import Stage
from normpipe.pipeline.store.lock import LOCK_FILE
from normpipe.pipeline.store.shards import ShardFolder

from .living import digests
from .toy_scenarios import job
from .toys import NAMES, ToyConfig, ToySource, flow, rows, run, run_only

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    run(tmp_path / "out", flow())
    return tmp_path / "out"


def edit(path: Path) -> None:
    """Write a shard anew without its last row, as somebody's script may."""
    table = pq.read_table(path)
    pq.write_table(table.slice(0, table.num_rows - 1), path)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("dataset", ["manifest", "made", "second", "joined"])
@pytest.mark.parametrize("damage", [edit, empty, cut, Path.unlink])
def test_a_damaged_shard_is_made_again(
    out: Path, dataset: str, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    good = digests(out)
    damage(out / dataset / "shard-00001.parquet")
    stages = flow()
    run(out, stages)
    assert digests(out) == good
    words = "is gone" if damage is Path.unlink else "bytes, recorded"
    assert f"{words}" in caplog.text and "making it again" in caplog.text


@pytest.mark.parametrize("dataset", ["manifest", "made", "second", "joined"])
@pytest.mark.parametrize("record", [None, b"", b"{", b"\0" * 500])
def test_a_torn_or_lost_record_is_made_again(out: Path, dataset: str, record: bytes | None) -> None:
    good = digests(out)
    path = ShardFolder(out / dataset).record_path(1)
    path.unlink()
    if record is not None:
        path.write_bytes(record)
    run(out, flow())
    assert digests(out) == good


def test_lost_shards_of_the_manifest_with_new_inputs_are_refused_or_right(out: Path) -> None:
    """New inputs must not slip into the number of a lost shard unseen."""
    (out / "manifest/shard-00001.parquet").unlink()
    names = ["a5", *NAMES]  # sorted before all others
    with pytest.raises(OutputError, match=r"made from other input .* redo them with --overwrite"):
        run(out, flow(names))
    run(out, flow(names), overwrite=True)
    keys = [row["parent_key"] for row in rows(out, "joined")]
    assert {*keys} == {f"toy/{name}" for name in names}
    assert verify(out).differences == []


@pytest.mark.parametrize("damage", [edit, empty, Path.unlink])
def test_a_stage_alone_does_not_read_a_damaged_shard(
    out: Path, damage: Callable[[Path], None]
) -> None:
    good = digests(out)
    damage(out / "made/shard-00001.parquet")
    stages: list[Stage] = flow()
    with pytest.raises(OutputError, match=r"shard-00001.parquet .*: make it again with the run"):
        run_only(out, stages, stages[2:3])
    if damage is not Path.unlink:
        with pytest.raises(InputError, match=r"cannot read|bytes, recorded"):
            normpipe.open_dataset(out / "made")
    run(out, flow())
    assert digests(out) == good


def test_an_edit_of_the_same_size_is_for_verify(out: Path) -> None:
    path = out / "made/shard-00001.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)
    run(out, flow())
    assert any("sha256" in line for line in verify(out).differences)
    path.unlink()
    run(out, flow())
    assert verify(out).differences == []


def test_overwriting_into_fewer_shards_leaves_none_of_the_others(out: Path) -> None:
    def cut_anew() -> list[Stage]:
        return [ToySource(NAMES, ToyConfig(shard_rows=20)), *flow()[1:]]

    run(out, cut_anew(), overwrite=True)
    run(out.with_name("fresh"), cut_anew())
    assert digests(out) == digests(out.with_name("fresh"))
    assert len(rows(out, "joined")) == len(NAMES) + 1


COMMAND = """
import sys
import typer
from tests.pipeline.toy_scenarios import job
from normpipe.pipeline.commands.handling import handled

@handled
def main():
    job()({root!r})

try:
    main()
except typer.Exit as end:
    sys.exit(end.exit_code)
"""


def start(root: Path, before: str = "") -> "subprocess.Popen[str]":
    """Begin the toy job in a process of its own, as the command line does."""
    code = before + COMMAND.replace("{root!r}", f"__import__('pathlib').Path({str(root)!r})")
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    _, stderr = process.communicate(timeout=120)
    assert "Traceback" not in stderr
    return process.returncode, stderr


@contextmanager
def mounted(place: Path, *options: str) -> Iterator[Path]:
    """Mount a small file system of its own, or skip where that is not allowed."""
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(place)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no right to mount a file system")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("kilobytes", [8, 24, 48, 72])
def test_a_disk_that_is_full_is_one_line_and_with_room_the_job_goes_on(
    tmp_path: Path, kilobytes: int
) -> None:
    run(tmp_path / "good", flow())
    with mounted(tmp_path / "disk", f"size={kilobytes}k") as disk:
        with pytest.raises(OutputError, match="No space left on device; free some space"):
            run(disk / "out", flow())
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        run(disk / "out", flow())
        assert digests(disk / "out") == digests(tmp_path / "good")


def test_a_disk_that_is_read_only_is_one_line(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=4m") as disk:
        out = disk / "out"
        run(out, flow())
        good = digests(out)
        for disturb in (
            lambda: ShardFolder(out / "made").record_path(1).unlink(),
            lambda: (out / "made/shard-00001.parquet.tmp").write_bytes(b"half"),
            lambda: (out / "made/shard-00001.parquet").unlink(),
            lambda: ShardFolder(out / "joined").manifest_path.unlink(),
        ):
            disturb()
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
            with pytest.raises(OutputError, match=r"Read-only file system; .* same command again"):
                run(out, flow())
            subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
            run(out, flow())
            assert digests(out) == good


def test_a_limit_on_the_size_of_files_is_one_line(tmp_path: Path) -> None:
    before = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (1024, {resource.RLIM_INFINITY}))\n"
    )
    code, said = ended(start(tmp_path / "out", before))
    assert code == 2 and "File too large; free some space" in said
    job()(tmp_path / "out")
    assert verify(tmp_path / "out").differences == []


def test_a_live_job_holds_its_lock_and_a_dead_one_none(tmp_path: Path) -> None:
    root = tmp_path / "out"
    # Stops for good when the first shard's row is computed.
    holding = (
        "import time, pathlib\nfrom tests.pipeline import toys\n"
        f"mark = pathlib.Path({str(tmp_path / 'computing')!r})\n"
        "toys.ToyMap.compute = lambda *_: (mark.touch(), time.sleep(600))\n"
    )
    first = start(root, holding)
    deadline = time.monotonic() + 60
    while not (tmp_path / "computing").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    with pytest.raises(OutputError, match=f"another normpipe is running in {root}: wait for it"):
        job()(root)
    first.kill()
    first.communicate()
    assert (root / LOCK_FILE).exists()  # the file stays, the lock went with its process
    job()(root)
    assert verify(root).differences == []


def test_a_clock_that_jumps_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    run(tmp_path / "good", flow())
    jumps = iter(range(10**9))

    def jumping() -> float:
        # A year ahead, then 50 years back, at every look.
        return 1.8e9 + (-1.6e9 if next(jumps) % 2 else 3.2e7)

    class Jumping(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> "Jumping":
            return cls.fromtimestamp(jumping(), tz)

    with monkeypatch.context() as patch:
        patch.setattr(time, "time", jumping)
        patch.setattr(time, "time_ns", lambda: int(jumping() * 1e9))
        patch.setattr(datetime, "datetime", Jumping)
        run(out, flow(NAMES[:15]))
        for i, path in enumerate(sorted(out.rglob("*"))):
            os.utime(path, (4e9, 4e9) if i % 2 else (1.0, 1.0))
        stages = flow(NAMES[:15])
        run(out, stages)
    assert stages[1].processed == []  # type: ignore[attr-defined]
    (tmp_path / "fresh").mkdir()
    run(tmp_path / "fresh/out", flow(NAMES[:15]))
    assert digests(out) == digests(tmp_path / "fresh/out")
