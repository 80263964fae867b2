"""A job whose output lies in an object store: a real S3 server, in a process of its own."""

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from torch.utils.data import DataLoader
from typer.testing import CliRunner

import normpipe
from normpipe.pipeline.care.verify import verify
from normpipe.pipeline.commands import app as cli
from normpipe.pipeline.errors import OutputError
from normpipe.pipeline.run.tries import RunFolder, RunOver, clear
from normpipe.pipeline.store import storage
from normpipe.pipeline.store.shards import ShardFolder, ShardWriter, parse_record
from normpipe.pipeline.store.storage import location, put
from normpipe.stages.checks import folder as folder_checks

from .. import store_faults
from ..chaos import UNFINISHED
from ..clusters import dask_cluster, finish, laid, toy_job, wait_for
from ..living import digests as local_digests
from ..stores import BUCKET, digests
from ..toys import TOY, flow, run

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("server")]


@pytest.fixture
def undisturbed(tmp_path: Path) -> dict[str, str]:
    finish(toy_job(tmp_path / "local", {}))
    return local_digests(tmp_path / "local")


def test_a_store_holds_the_bytes_that_a_folder_would(address: str, tmp_path: Path) -> None:
    root = location(address)
    run(root, flow())
    run(tmp_path / "out", flow())
    assert digests(root) == local_digests(tmp_path / "out")
    assert verify(root).differences == []
    before = stamps(root)
    run(root, flow())
    assert {name for name, stamp in stamps(root).items() if stamp != before.get(name)} == set()


def stamps(root: Path) -> dict[str, Any]:
    """Return what changes when an object is written again, though its bytes are the same."""
    there: Any = root
    found = there.fs.find(there.path, detail=True)
    return {n: one["LastModified"] for n, one in found.items() if ".normpipe.locks" not in n}


def test_ended_at_changes_of_the_store_every_command_is_finished_by_itself(
    address: str, tmp_path: Path
) -> None:
    tallies = store_faults.disturb(address, tmp_path, step=20)
    assert [one.differing for one in tallies] == [[], [], []]
    for one in tallies:
        assert one.ended == one.states >= 3 and one.midway >= 1, one


def test_a_stopped_workers_shard_is_taken_over_and_it_commits_nothing_when_it_wakes(
    address: str, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    root = location(address)

    def made() -> int:
        return len(ShardFolder(root / "made").recorded_numbers())

    with dask_cluster(tmp_path, workers=2) as cluster:
        job = toy_job(address, {"seconds": 0.1}, scheduler=cluster.address, lease_seconds=3)
        wait_for(lambda: made() >= 1)
        asleep = cluster.workers[0]
        asleep.send_signal(signal.SIGSTOP)
        said = finish(job)
        assert digests(root) == undisturbed
        assert "is taken over: no heartbeat from worker" in said and "Traceback" not in said
        asleep.send_signal(signal.SIGCONT)
        time.sleep(3)
        found = digests(root).items()
        assert {n: d for n, d in found if not n.startswith(UNFINISHED)} == undisturbed
    assert verify(root).differences == []


def test_local_workers_and_their_deaths(address: str) -> None:
    said = finish(toy_job(address, {"deadly": 25, "broken": 46}, workers=2))
    assert "toy-map: shard 2 quarantined: it was started 3 times and its worker died" in said
    records = ShardFolder(location(address) / "made").records()
    assert [n for n, record in records.items() if record.quarantined] == [2, 4]
    assert sum(record.inputs for record in records.values()) == 60
    assert verify(location(address)).differences == []


# --- tries


def test_who_begins_late_and_who_wakes_late_reach_nothing(address: str) -> None:
    root = location(address)
    with pytest.raises(RunOver):
        RunFolder(root / ".making/one").begin("toy-map", 3)
    run_folder = laid(root)
    first, second = (run_folder.begin("toy-map", 3) for _ in range(2))
    assert sorted(run_folder.active("toy-map", 3)) == sorted([first, second])
    folder, records = ShardFolder(root / "made"), {}
    for token, key in ((first, "d/first"), (second, "d/second")):
        with ShardWriter(folder, 3, TOY, run_folder.shard(token)) as writer:
            writer.add([{"key": key, "parent_key": key, "status": "ok", "decided_by": "toy-map"}])
            run_folder.finish(token, writer.finish("f", None))
        records[token] = parse_record(run_folder.record(token) or b"")
    assert folder.records() == {}  # nothing is there before it is adopted
    assert sorted(run_folder.finished("toy-map", 3)) == sorted([first, second])
    folder.put_in_place(records[second], run_folder.shard(second))
    run_folder.forget(second)
    assert folder.read(3, ["key"])["key"].to_pylist() == ["d/second"]
    assert run_folder.finished("toy-map", 3) == [first]
    clear(root)
    with pytest.raises(RunOver):
        run_folder.begin("toy-map", 4)
    assert run_folder.record(first) is None
    assert folder.read(3, ["key"])["key"].to_pylist() == ["d/second"]


# --- the command line, and readers


@pytest.fixture
def command() -> Callable[..., Any]:
    def call(*words: str, code: int = 0) -> str:
        done = CliRunner().invoke(cli.app, list(words))
        assert done.exit_code == code, done.output
        assert "Traceback" not in done.output
        return done.output

    return call


def test_the_real_job_in_a_store(
    address: str, settings: list[str], command: Callable[..., Any], tmp_path: Path
) -> None:
    command("run", *settings, "--output", address, "--until", "pair")
    out = tmp_path / "out"
    command("run", *settings, "--output", str(out), "--until", "pair")
    assert digests(address) == local_digests(out)
    state = json.loads(command("status", address, "--json"))
    assert [one["inputs_left"] for one in state["stages"]] == [0, 0, 0, 0]
    assert "all as recorded" in command("verify", address)
    assert "contact sheet" in command("sheet", address)
    pairs = normpipe.open_dataset(address)
    local = normpipe.open_dataset(out)
    assert pairs.keys == local.keys
    assert (pairs[0]["normalized"] == local[0]["normalized"]).all()
    # Forked and pickled readers open what they need anew.
    loader = DataLoader(normpipe.open_dataset(f"{address}/aligned"), batch_size=4, num_workers=1)
    assert sum(len(batch["key"]) for batch in loader) == len(normpipe.open_dataset(out / "aligned"))
    key = local.keys[0].partition("#")[0]
    assert "hold no picture" in command("withdraw", address, "--key", key)
    assert all(not one.startswith(key) for one in normpipe.open_dataset(address).keys)
    assert "all as recorded" in command("verify", address)
    assert "frees" in command("clean", address, "--stage", "normalize", "--yes")
    command("run", address, "--until", "pair")  # as its job.toml says
    assert "all as recorded" in command("verify", address)


def test_photographs_in_a_store_give_the_same_faces(
    address: str, settings: list[str], command: Callable[..., Any], samples: Path, tmp_path: Path
) -> None:
    photographs: Any = location(f"{address}/photographs")
    photographs.fs.put(f"{samples}/", photographs.path, recursive=True)
    put(photographs / "empty.jpg", b"")
    put(photographs / ".hidden.jpg", b"x")
    put(photographs / "notes.txt", b"x")
    put(photographs / "later.jpg", (photographs / "empty.jpg").name.encode())
    given = [*settings[2:], "--dataset", "faces", "--until", "align"]
    out = tmp_path / "from-store"
    places = ("--input", str(photographs), "--output", str(out))
    command("run", *places, *given[:-2], "--stage", "ingest")
    put(photographs / "later.jpg", b"not what was listed")  # between ingest and align
    command("run", str(out), "--stage", "align")
    table = normpipe.open_dataset(out / "aligned", status="all").table
    why = dict(zip(table["key"].to_pylist(), table["reason"].to_pylist(), strict=True))
    assert why["faces/empty.jpg"] == "empty_file"
    assert why["faces/later.jpg"] == "changed_since_ingest"
    assert not any("hidden" in key or "notes" in key for key in why)
    command("run", "--input", str(samples), "--output", str(tmp_path / "local"), *given)
    from_store, local = (
        {row["key"]: row["image"].numpy().tobytes() for row in normpipe.open_dataset(where)}
        for where in (out / "aligned", tmp_path / "local/aligned")
    )
    assert from_store == local and len(local) > 3


def test_doctor_tries_the_store(
    address: str, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(where: str, code: int) -> dict[str, str]:
        told = json.loads(command("doctor", "--output", where, "--json", code=code))
        return {one["check"]: one["verdict"] for one in told}

    monkeypatch.setattr(folder_checks, "LOW_SPACE", 0)
    told = found(address, 0)
    assert told["writing"] == told["locks"] == "yes"
    assert digests(address) == {}
    assert found("s3://nosuchbucket/out", 2)["writing"] == "no"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("status", "s3://nosuchbucket/out"), "holds no normpipe job"),
        (("verify", "gs3://bucket/out"), "knows no storage"),
        (("classify", "s3://faces/out"), "this must be a folder"),
        (
            ("run", "--input", "s3://faces/nothing", "--output", "x", "--quiet"),
            "there is nothing at",
        ),
        (("run", "--input", "s3://a/b", "--output", "s3://a/b/c"), "lies inside the input"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    words: tuple[str, ...],
    why: str,
    command: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    said = command(*words, code=2)
    assert why in said and said.count("\n") == 1


def test_a_bucket_that_is_not_there_and_a_server_that_is_not_there(
    settings: list[str], command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = command("run", *settings, "--output", "s3://nosuchbucket/out", "--quiet", code=2)
    assert "make the bucket first" in said and said.count("\n") == 1
    for name, value in (("AWS_ACCESS_KEY_ID", ""), ("AWS_CONFIG_FILE", "/dev/null")):
        monkeypatch.setenv(name, value)
    nobody: Any = fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False)
    with pytest.raises(Exception, match="credentials") as error:
        nobody.ls(BUCKET)
    assert "check address" in (storage.store_error_line(error.value) or "")
    assert storage.store_error_line(ValueError("ours")) is None
    storage_options = {"endpoint_url": "http://127.0.0.1:9"}
    from upath import UPath

    gone: Any = UPath("s3://faces/out", **storage_options)
    with pytest.raises(OutputError, match="address, credentials and network"):
        ShardFolder(gone).records()
