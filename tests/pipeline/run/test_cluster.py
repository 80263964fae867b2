"""Workers in other processes, for real: started by the command, and those of a Dask cluster."""

import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from distributed import Client

from normpipe.pipeline.care.verify import verify
from normpipe.pipeline.config import RunConfig
from normpipe.pipeline.store.shards import ShardFolder

from ..clusters import begun, dask_cluster, finish, toy_job, wait_for
from ..living import digests

pytestmark = pytest.mark.slow

BROKEN = "RuntimeError: broken at 46"


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The toy job's folder, made by one process, which never imports Dask."""
    out = tmp_path_factory.mktemp("toys") / "out"
    assert "dask imported: False" in finish(toy_job(out, {}))
    return digests(out)


def made(out: Path) -> int:
    return len(ShardFolder(out / "made").recorded_numbers())


def claims(out: Path) -> list[Path]:
    return begun(out, "made", "toy-map")


def test_four_workers_make_the_same_bytes(undisturbed: dict[str, str], tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    trace.mkdir()
    said = finish(toy_job(tmp_path / "out", {"trace": str(trace)}, workers=4))
    assert digests(tmp_path / "out") == undisturbed
    assert "Traceback" not in said and "distributed" not in said
    opened = Counter(path.name.rsplit("-", 1)[0] for path in trace.iterdir())
    # Models are loaded once in each worker, and never in the coordinator.
    assert 1 <= len(opened) <= 4 and set(opened.values()) == {1}


def test_a_stopped_workers_shard_is_taken_over_and_it_commits_nothing_when_it_wakes(
    undisturbed: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with dask_cluster(tmp_path, workers=2) as cluster:
        job = toy_job(out, {"seconds": 0.1}, scheduler=cluster.address, lease_seconds=3)
        wait_for(lambda: made(out) >= 1 and len(claims(out)) >= 2)
        asleep = cluster.workers[0]
        asleep.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        said = finish(job)
        assert time.monotonic() - began < 30
        assert digests(out) == undisturbed
        assert "is taken over: no heartbeat from worker" in said
        before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
        asleep.send_signal(signal.SIGCONT)
        time.sleep(3)
        assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    assert verify(out).differences == []


def test_three_deaths_quarantine_a_shard_and_name_it(tmp_path: Path) -> None:
    """And a shard that breaks is quarantined after its tries, as in one process."""
    out = tmp_path / "out"
    said = finish(toy_job(out, {"deadly": 25, "broken": 46}, workers=2))
    # Not "worker … is gone": a worker that dies between two looks is not seen to go.
    dead = "it was started 3 times and its worker died or went silent"
    assert f"toy-map: shard 2 quarantined: {dead}" in said
    assert f"toy-map: shard 4 quarantined: it failed 3 times ({BROKEN})" in said
    assert "Traceback" not in said
    records = ShardFolder(out / "made").records()
    assert [n for n, record in records.items() if record.quarantined] == [2, 4]
    assert records[2].reasons == {"toy-map:quarantined": 10}
    assert records[2].why == dead
    assert sum(record.inputs for record in records.values()) == 60
    assert verify(out).differences == []


@pytest.mark.parametrize("mute", [False, True])
def test_a_quarantine_keeps_its_reason_though_its_worker_dies_before_it_says_so(
    tmp_path: Path, mute: bool
) -> None:
    out = tmp_path / "out"
    said = finish(toy_job(out, {"broken": 46, "mute": mute}, workers=2))
    assert said.count(f"toy-map: shard 4 failed ({BROKEN})") == 3
    assert said.count("toy-map: shard 4 quarantined") == 1
    records = ShardFolder(out / "made").records()
    found = {n: record.why for n, record in records.items() if record.quarantined}
    assert found == {4: f"it failed 3 times ({BROKEN})"}


def test_a_lost_scheduler_leaves_a_folder_to_go_on_with(
    undisturbed: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with dask_cluster(tmp_path, workers=1) as cluster:
        job = toy_job(out, {"seconds": 0.1}, scheduler=cluster.address, lease_seconds=5)
        wait_for(lambda: made(out) >= 1)
        cluster.scheduler.kill()
        said = finish(job, status=3)
        assert "no longer answers; what is finished is kept" in said
        assert "Traceback" not in said
        assert 1 <= made(out) < 6
    finish(toy_job(out, {}))
    assert digests(out) == undisturbed


def waiting(job: subprocess.Popen[str]) -> str:
    """Return the line in which a job says what it waits for."""
    assert job.stderr is not None
    line = ""
    while "waiting" not in line:
        line = job.stderr.readline()
        assert line, "it ended"
    return line


def test_a_stage_waits_aloud_for_its_gpu_and_an_unlike_worker_is_refused(
    undisturbed: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with dask_cluster(tmp_path, workers=1) as cluster:
        job = toy_job(out, {"gpu": True}, scheduler=cluster.address)
        assert "waiting for a worker with GPU=1; none of the 1 has it" in waiting(job)
        cluster.add("--resources", "GPU=1")
        finish(job)
        assert digests(out) == undisturbed
        cluster.add(TOY_WEIGHTS="others")
        job = toy_job(tmp_path / "other", {"seconds": 0.1}, scheduler=cluster.address)
        said = finish(job, status=2)
    assert "a worker differs from the others (digests.weights:" in said
    assert "Traceback" not in said


def test_memory_is_asked_for_where_workers_say_how_much_they_have(
    undisturbed: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with dask_cluster(tmp_path) as cluster:
        cluster.add("--resources", "MEMORY=1e9")
        with Client(cluster.address) as client:
            client.wait_for_workers(1)
        job = toy_job(out, {"memory": 2e9}, scheduler=cluster.address)
        assert "waiting for a worker with MEMORY=2e+09; none of the 1 has it" in waiting(job)
        cluster.add("--resources", "MEMORY=3e9")
        finish(job)
        assert digests(out) == undisturbed


def test_each_gpu_has_its_worker(undisturbed: dict[str, str], tmp_path: Path) -> None:
    """No GPU is needed for that: what each worker would see is in its environment."""
    trace = tmp_path / "trace"
    trace.mkdir()
    settings = {"gpu": True, "seconds": 0.1, "trace": str(trace)}
    finish(toy_job(tmp_path / "out", settings, gpus=[0, "GPU-b1"]))
    assert {path.read_text() for path in trace.iterdir()} == {"0", "GPU-b1"}
    assert digests(tmp_path / "out") == undisturbed


def family(job: Any) -> list[psutil.Process]:
    return psutil.Process(job.pid).children(recursive=True)


def test_no_process_is_left_when_the_coordinator_is_killed(
    undisturbed: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    job = toy_job(out, {"seconds": 0.2}, workers=2)
    wait_for(lambda: made(out) >= 1)
    processes = family(job)
    assert len(processes) >= 2
    job.kill()
    job.communicate()
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert not alive
    assert made(out) < 6
    finish(toy_job(out, {}))
    assert digests(out) == undisturbed


def test_sigterm_to_all_finishes_what_is_in_time(tmp_path: Path) -> None:
    """As a batch system or the terminal sends it: to the workers, too."""
    out = tmp_path / "out"
    job = toy_job(out, {"names": 120, "seconds": 0.1}, workers=2, grace_seconds=30)
    # The third: by then the coordinator has heard of a first one, and knows how long they take.
    wait_for(lambda: made(out) >= 3 and claims(out))
    processes = family(job)
    for process in [*processes, psutil.Process(job.pid)]:
        process.send_signal(signal.SIGTERM)
    said = finish(job, status=3)
    assert "Traceback" not in said
    assert 4 <= made(out) < 12, said  # what was in hand is there, and nothing was begun
    assert not psutil.wait_procs(processes, timeout=10)[1]
    assert not (out / ".cluster").exists() and not (out / ".making").exists()
    finish(toy_job(out, {"names": 120}, workers=1))
    finish(toy_job(tmp_path / "undisturbed", {"names": 120}))
    assert digests(out) == digests(tmp_path / "undisturbed")


def test_a_task_is_a_reference(tmp_path: Path) -> None:
    """What is sent for a shard, and what comes back, as Dask writes it: at most 1 KB."""
    from distributed.protocol import dumps, to_serialize

    from normpipe.pipeline.commands.running.workers import build_map_stages
    from normpipe.pipeline.run.cluster import Cluster
    from normpipe.pipeline.run.making import ShardTask, TaskOutcome
    from normpipe.pipeline.run.places import Remote, run_task
    from normpipe.pipeline.run.tries import RunFolder

    sent: list[dict[str, Any]] = []

    class Client:
        status = "running"

        def submit(self, function: Any, *arguments: Any, **options: Any) -> None:
            assert function is run_task
            sent.append({"task": (function, arguments), **options})

    run = RunFolder(tmp_path / "a-folder-with-a-rather-long-name" / ".making" / "0123456789ab")
    task = ShardTask(
        stage="normalize",
        shard=99_999,
        fingerprint="f" * 64,
        keep_settled=True,
        quarantine="",
    )
    client: Any = Client()
    cluster = Cluster(client, RunConfig(), run, Remote(build_map_stages, {}), lambda: False)
    cluster._memory_known = True
    stage: Any = SimpleNamespace(name="normalize", resources=lambda: {"GPU": 1.0, "MEMORY": 4e9})
    cluster.submit(stage, task)
    size = sum(len(frame) for frame in dumps(sent[0] | {"task": to_serialize(sent[0]["task"])}))
    assert 300 < size <= 1024
    outcome = TaskOutcome("made", f"normalize-99999-{'e' * 32}", 12.345)
    assert sum(len(frame) for frame in dumps({"result": to_serialize(outcome)})) <= 1024
