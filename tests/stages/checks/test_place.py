"""The machine's limits, the output folder, weights and packs."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock
import pytest

from normpipe.pipeline.stage import sha256_file
from normpipe.stages.checks import folder, machine
from normpipe.stages.checks import model_files as models

GIB = 2**30


def test_fewer_cpus_than_the_machine_has() -> None:
    finding = machine.check_cpus(4, 64)
    assert finding.verdict == "yes" and "4 of 64" in finding.found
    assert machine.check_cpus(8, 8).verdict == "yes"


def test_memory_and_open_files_have_remedies() -> None:
    assert machine.check_memory(2 * GIB).verdict == "warn"
    assert machine.check_memory(16 * GIB).verdict == machine.check_memory(None).verdict == "yes"
    assert machine.check_open_files(1024, 4096).verdict == "yes"
    few = machine.check_open_files(512, 4096)
    assert few.verdict == "warn" and "ulimit -n 4096" in few.remedy
    assert machine.check_open_files(100, 2048).remedy.startswith("`ulimit -n 2048`")
    assert "administrator" in machine.check_open_files(100, 100).remedy


@pytest.mark.parametrize(
    ("group", "files", "limit"),
    [
        # A job's limit holds for the steps below it.
        (
            "0::/slurm/job_1/step_0",
            {"slurm/job_1/memory.max": 3 * GIB, "slurm/job_1/step_0/memory.max": "max"},
            3 * GIB,
        ),
        ("0::/", {"memory.max": "max"}, None),
        ("4:memory:/a\n0::/", {"memory/a/memory.limit_in_bytes": GIB}, GIB),
    ],
)
def test_the_control_group_limits_memory(
    tmp_path: Path, group: str, files: dict[str, object], limit: int | None
) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(group + "\n")
    for name, value in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")
    assert machine.memory_limit(tmp_path) == limit
    assert machine.memory_limit(tmp_path / "elsewhere") is None


def test_the_machine_here_is_looked_at() -> None:
    checks = [one.check for one in machine.check_machine()]
    assert checks[:2] == ["cpus", "memory"]


def test_a_good_folder_and_nothing_left_in_it(tmp_path: Path) -> None:
    findings = folder.check_folder(tmp_path / "not" / "yet")
    assert {one.check: one.verdict for one in findings if one.check != "disk"} == {
        "output": "yes",
        "writing": "yes",
        "locks": "yes",
    }
    assert str(tmp_path) in findings[0].found and "not there yet" in findings[0].found
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("x")
    (finding,) = folder.check_folder(tmp_path / "file")
    assert finding.verdict == "no" and "is a file" in finding.found


def test_a_full_disk() -> None:
    verdicts = [folder.check_free_space(free).verdict for free in (5 * 10**8, 5 * 10**9, 10**11)]
    assert verdicts == ["no", "warn", "yes"]


def test_writing_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for code in (errno.EINVAL, errno.ENOSPC):

        def refuse(_: int, code: int = code) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, "fsync", refuse)
        finding = folder.check_writing(tmp_path)
        assert finding.verdict == "no" and os.strerror(code) in finding.found


def test_a_folder_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(folder.tempfile, "TemporaryDirectory", refuse)
    assert folder.check_folder(tmp_path)[-1].line().startswith("no   writing: fails (Permission")


def test_locks_that_hold_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Pretends:
        def __init__(self, path: Path) -> None:
            path.touch()

        @contextmanager
        def acquire(self, timeout: float) -> Iterator[None]:
            yield

    monkeypatch.setattr(filelock, "FileLock", Pretends)
    finding = folder.check_locks(tmp_path)
    assert finding.verdict == "no" and "second process" in finding.found

    def unknown(_: Path) -> None:
        raise NotImplementedError("no flock here")

    monkeypatch.setattr(filelock, "FileLock", unknown)
    assert "no flock here" in folder.check_locks(tmp_path).found


def test_shipped_weights_are_the_recorded_ones() -> None:
    findings = models.check_weights()
    assert len(findings) == len(list(models.SHIPPED.glob("*.safetensors")))
    assert {one.verdict for one in findings} == {"yes"}


def test_other_weights_are_told(tmp_path: Path) -> None:
    for name in ("reader.json", "reader.safetensors", "landmarks.json"):
        shutil.copy(models.SHIPPED / name, tmp_path)
    with (tmp_path / "reader.safetensors").open("ab") as stream:
        stream.write(b"x")
    landmarks, reader = models.check_weights(tmp_path)
    assert (landmarks.verdict, landmarks.found) == ("no", "landmarks.safetensors is not there")
    assert reader.verdict == "no" and "recorded is 20af3bfda6" in reader.found
    assert models.check_weights(tmp_path / "none")[0].verdict == "no"


def test_packs_are_listed_with_their_digests(tmp_path: Path) -> None:
    assert models.check_packs(tmp_path)[0].found.startswith("none in")
    network = tmp_path / "tiny" / "det.onnx"
    network.parent.mkdir()
    network.write_bytes(b"network")
    (finding,) = models.check_packs(tmp_path)
    assert finding.found == f"tiny/det.onnx, no digest recorded, sha256 {sha256_file(network)}"
