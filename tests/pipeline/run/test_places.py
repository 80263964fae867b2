"""The stages of a run in one process, and what a worker answers."""

import json
import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from normpipe.pipeline.config import RunConfig
from normpipe.pipeline.errors import InputError, NormpipeError
from normpipe.pipeline.run import places
from normpipe.pipeline.run.making import ShardTask
from normpipe.pipeline.run.places import Remote, StageThreads, run_task
from normpipe.pipeline.run.tries import RunFolder
from normpipe.pipeline.stage import MapStage

from ..clusters import laid
from ..toys import ToyConfig, ToyMap, flow, run

log = logging.getLogger("normpipe")


class Loud(ToyMap):
    """Counts how often it is opened and closed, and says so."""

    def __init__(self, config: ToyConfig | None = None, **settings: Any) -> None:
        super().__init__(config)
        self.settings = settings
        self.opened = self.closed = 0

    def open(self) -> None:
        self.opened += 1
        log.info("not for the coordinator")
        for i in range(self.settings.get("warnings", 0)):
            log.warning("weights are old: %d %s", i, "x" * 600)
        if error := self.settings.get("error"):
            raise error

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def there(tmp_path: Path) -> RunFolder:
    run(tmp_path, flow()[:1])
    return laid(tmp_path)


@pytest.fixture(autouse=True)
def _worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Be a worker's process that has made nothing so far; let its threads go at the end."""
    monkeypatch.setattr(log, "propagate", True)
    monkeypatch.setattr(log, "handlers", [])
    hosts: dict[str, StageThreads] = {}
    monkeypatch.setattr(places, "_threads_of_runs", hosts)
    yield
    for host in hosts.values():
        host.close()


def ticket(shard: int = 1) -> ShardTask:
    return ShardTask(
        stage="toy-map", shard=shard, fingerprint="f", keep_settled=False, quarantine=""
    )


def build(stage: MapStage, settings: dict[str, Any], _run: RunConfig) -> dict[str, MapStage]:
    assert settings == {"of": "the job"}
    return {stage.name: stage}


def lay(root: Path, stage: MapStage | None = None) -> RunFolder:
    """Lay a run as the coordinator does, and what every worker's stage must be like."""
    folder = RunFolder.new(root)
    remote = Remote(lambda *_: {}, {"of": "the job"})
    folder.create(remote.worker_settings(RunConfig(workers=1, threads=2)))
    like = StageThreads(folder, [stage or ToyMap()], RunConfig(threads=1))
    folder.description_path("toy-map").write_text(json.dumps(like.describe("toy-map")))
    like.close()
    return folder


def test_a_stage_is_opened_once_and_an_unlike_one_is_refused(there: RunFolder) -> None:
    stage = Loud()
    host = StageThreads(there, [stage], RunConfig(threads=1))
    path = there.description_path("toy-map")
    path.write_text(json.dumps(host.describe("toy-map")))
    host.check("toy-map")
    host.check("toy-map")
    assert stage.opened == 1
    other = host.describe("toy-map") | {"libraries": {"pyarrow": "1.0"}, "device_class": "cuda"}
    path.write_text(json.dumps(other))
    with pytest.raises(NormpipeError, match=r"differs from .*device_class: cuda → cpu; lib.*1\.0"):
        host.check("toy-map")
    host.close()


def test_as_a_place_it_makes_two_shards_of_a_map_and_one_of_a_join(there: RunFolder) -> None:
    _, first, _, join = flow()
    host = StageThreads(there, [first, join], RunConfig(threads=2))
    assert [host.capacity(stage) for stage in (first, join)] == [2, 1]
    futures = [host.submit(first, ticket(n)) for n in range(3)]
    outcomes = [host.outcome(future) for future in futures]
    assert [one and one.kind for one in outcomes] == ["made"] * 3
    for n, one in enumerate(outcomes):
        assert one is not None and there.finished("toy-map", n) == [one.text]
    host.close()


def test_a_worker_makes_a_shard_and_its_warnings_travel(there: RunFolder) -> None:
    stage = Loud(warnings=12)
    folder = lay(there.root)
    here = partial(run_task, partial(build, stage), str(folder.path))
    outcome = here("toy-map", ticket())
    assert outcome.kind == "made" and folder.finished("toy-map", 1) == [outcome.text]
    assert len(outcome.warnings) == 10 and outcome.warnings[1].startswith("weights are old: 1 xxx")
    assert {len(line) for line in outcome.warnings} == {500}
    assert log.handlers == [] and not log.propagate  # the coordinator shows them, once
    again = here("toy-map", ticket(2))
    assert (again.kind, again.warnings, stage.opened) == ("made", (), 1)
    said = here("toy-map", None)
    assert said.kind == "description"
    assert json.loads(said.text) == json.loads(folder.description_path("toy-map").read_text())


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (InputError("no such weights: give others"), "refused", "no such weights: give others"),
        (RuntimeError("a\nb"), "refused", "RuntimeError: a b"),
        (MemoryError("8 GiB"), "shortage", "not enough memory (MemoryError: 8 GiB)"),
    ],
)
def test_a_worker_answers_with_what_went_wrong(
    there: RunFolder, error: Exception, kind: str, text: str
) -> None:
    folder = lay(there.root)
    stage = Loud(error=error)
    outcome = run_task(partial(build, stage), str(folder.path), "toy-map", ticket())
    assert (outcome.kind, outcome.text) == (kind, text)
    assert str(outcome.error) == f"toy-map: {text}" if kind == "refused" else not outcome.error
    assert log.handlers == [] and folder.active("toy-map") == []


def test_a_worker_that_would_make_other_bytes_makes_none(there: RunFolder) -> None:
    folder = lay(there.root, ToyMap(ToyConfig(factor=3)))
    outcome = run_task(partial(build, ToyMap()), str(folder.path), "toy-map", ticket())
    assert outcome.kind == "refused" and "settings.factor: 3 → 1" in outcome.text
    assert folder.finished("toy-map", 1) == [] and folder.active("toy-map") == []


def test_a_run_that_is_over_is_no_error(there: RunFolder) -> None:
    folder = lay(there.root)
    folder.close()
    outcome = run_task(partial(build, ToyMap()), str(folder.path), "toy-map", ticket())
    assert outcome.kind == "stopped" and "the run is over" in outcome.text


def test_the_next_run_lets_the_models_of_the_last_one_go(there: RunFolder) -> None:
    earlier, later = Loud(), Loud()
    first, second = lay(there.root), lay(there.root)
    run_task(partial(build, earlier), str(first.path), "toy-map", None)
    run_task(partial(build, earlier), str(first.path), "toy-map", None)
    assert (earlier.opened, earlier.closed) == (1, 0)
    run_task(partial(build, later), str(second.path), "toy-map", None)
    assert (earlier.closed, later.opened, later.closed) == (1, 1, 0)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"workers": 2, "threads": 9, "prefetch": 5}, {"prefetch": 5, "threads": 4}),
        ({"gpus": [0, 1, 2], "threads": 2}, {"threads": 1}),
        ({"scheduler": "tcp://host:1"}, {}),
        ({"scheduler": "tcp://host:1", "threads": 3}, {"threads": 3}),
    ],
)
def test_the_threads_of_a_machine_are_shared_among_its_workers(
    settings: dict[str, Any], told: dict[str, int]
) -> None:
    run_config = RunConfig(**settings)
    found = Remote(lambda *_: {}, {"x": 1}).worker_settings(run_config)
    assert found == {"run": {"prefetch": run_config.prefetch, **told}, "job": {"x": 1}}
