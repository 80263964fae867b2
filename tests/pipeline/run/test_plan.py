"""What is left to do: fingerprints decide."""

import json
from pathlib import Path
from typing import Any

import pytest

from normpipe.pipeline.errors import OutputError
from normpipe.pipeline.run.plan import (
    ABSENT,
    Inputs,
    Retry,
    describe,
    fingerprint,
    input_digests,
    is_complete,
    is_current,
    plan_stage,
    refuse_other_settings,
)
from normpipe.pipeline.stage import Stage, free
from normpipe.pipeline.store.shards import ShardFolder

from ..toys import SecondMap, ToyConfig, ToyJoin, ToyMap, ToySource, flow, run


class Free(ToyConfig):
    device: str = free("cpu", description="where")


class Described(ToyMap):
    """A stage of which everything can be changed."""

    weights = "w1"
    kind = "cpu"

    def digests(self) -> dict[str, str]:
        return {"weights": self.weights}

    @property
    def device_class(self) -> str:
        return self.kind


def mark(inputs: tuple[str, ...] = ("a", "b"), **changes: Any) -> str:
    stage = Described(changes.pop("config", Free()))
    for name, value in changes.items():
        setattr(stage, name, value)
    return fingerprint(describe(stage), inputs)


def test_what_shapes_bytes_makes_another_fingerprint_and_nothing_else_does() -> None:
    plain = mark()
    assert len(plain) == 64 and mark() == plain
    assert mark(config=Free(device="cuda:1")) == plain
    assert mark(description="other words", schema=None, writes="elsewhere") == plain
    others = [
        mark(("a", "c")),
        mark(("b", "a")),
        mark(("a",)),
        mark(config=Free(factor=2)),
        mark(version=2),
        mark(weights="w2"),
        mark(kind="cuda"),
        mark(libraries=("pyarrow", "numpy")),
        mark(libraries=()),
        mark(reads=("other",)),
        mark(name="toy-other"),
    ]
    for what in ("SCHEMA_VERSION", "version"):
        with pytest.MonkeyPatch.context() as patch:
            new = 2 if what == "SCHEMA_VERSION" else lambda _name: "99"
            patch.setattr(f"normpipe.pipeline.run.plan.{what}", new)
            others.append(mark())
    assert len({plain, *others}) == len(others) + 1


def test_a_fingerprint_is_this_one_for_good() -> None:
    """Finished work must be known again: printf '[{"a":1,"b":["x"]},["0f"]]' | sha256sum."""
    digest = "51ae35ab30b7b151c99b4ece1145d5336579013c22d1da1cdac2b27f72561643"
    assert fingerprint({"b": ["x"], "a": 1}, ["0f"]) == digest


def test_a_library_that_is_not_there_is_said() -> None:
    stage = ToyMap()
    stage.libraries = ("pyarrow", "no-such-library")
    assert describe(stage)["libraries"]["no-such-library"] == "absent"
    assert json.loads(json.dumps(describe(stage))) == describe(stage)


@pytest.fixture
def job(tmp_path: Path) -> Path:
    run(tmp_path, flow())
    return tmp_path


def planned(root: Path, stage: Stage, **options: Any) -> tuple[list[int], list[int], list[int]]:
    plan = plan_stage(root, stage, describe(stage), **options)
    return [*plan.done], plan.todo, plan.stale


def test_shards_are_done_or_to_be_made_or_made_of_other_input(job: Path) -> None:
    first, second = ToyMap(), SecondMap(reads="made", writes="second")
    assert planned(job, first) == ([0, 1, 2], [], [])
    ShardFolder(job / "made").record_path(1).unlink()
    assert planned(job, first) == ([0, 2], [1], [])
    # An input that will be there again makes nothing of another making.
    assert planned(job, second) == ([0, 2], [], [])
    assert Inputs(job, ["made", "second"]).digests(1)[0] == ABSENT
    join = ToyJoin()
    ShardFolder(job / "second").record_path(0).unlink()
    assert planned(job, join) == ([2], [0], [])
    other = ToyMap(ToyConfig(factor=2))
    assert planned(job, other) == ([], [0, 1, 2], [0, 2])
    record = ShardFolder(job / "manifest").record(2)
    assert record is not None
    changed = record.model_copy(update={"sha256": "0" * 64})
    ShardFolder(job / "manifest").record_path(2).write_bytes(changed.to_json())
    assert planned(job, first) == ([0], [1, 2], [2])
    assert input_digests(job, ["manifest", "nowhere"], 2) == ["0" * 64, ABSENT]


def test_only_its_own_failures_are_a_stage_s_to_try_again(job: Path) -> None:
    record = ShardFolder(job / "made").record(2)
    assert record is not None
    wanted = record.fingerprint
    rejected = record.model_copy(update={"reasons": {"toy-map:no_face": 2}})
    failed = record.model_copy(update={"reasons": {"toy-map:no_face": 2, "toy-map:truncated": 1}})
    earlier = record.model_copy(update={"reasons": {"toy-source:missing_file": 1}})
    stage = ToyMap()
    assert all(is_current(one, wanted) for one in (rejected, failed, earlier))
    assert is_current(earlier, wanted, stage) and not is_current(failed, wanted, stage)
    assert is_current(rejected, wanted, stage)
    assert not is_current(record, "other")
    ShardFolder(job / "made").record_path(2).write_bytes(failed.to_json())
    assert planned(job, stage, retry_failed=True) == ([0, 1], [2], [])
    assert planned(job, stage) == ([0, 1, 2], [], [])


def test_a_job_is_whole_on_whatever_machine_it_was_made(job: Path) -> None:
    def stages(**changes: Any) -> list[Stage]:
        found = [ToySource([f"n{i}" for i in range(27)]), ToyMap()]
        for name, value in changes.items():
            setattr(found[1], name, value)
        return found

    assert is_complete(job, stages()) and is_complete(job, stages(libraries=("numpy",)))
    assert not is_complete(job, stages(version=2))
    assert not is_complete(job, [ToySource([f"n{i}" for i in range(28)])])
    assert not is_complete(job / "elsewhere", stages())
    manifest = ShardFolder(job / "made").manifest_path
    kept = manifest.read_bytes()
    manifest.unlink()  # written last
    assert not is_complete(job, stages())
    manifest.write_bytes(kept)
    ShardFolder(job / "made").record_path(2).unlink()
    assert not is_complete(job, stages()) and is_complete(job, stages()[:1])


def test_a_shard_is_mended_where_its_settled_rows_still_hold(job: Path) -> None:
    _, first, second, _ = stages = flow()
    retry = Retry(job, stages)
    assert retry.keeps_settled(first, describe(first), 0)
    assert not retry.keeps_settled(first, {**describe(first), "version": 2}, 0)
    assert not retry.keeps_settled(first, describe(first), 9)
    # Its input was made anew: as a whole, and then mended only.
    record = ShardFolder(job / "made").record(1)
    assert record is not None
    changed = record.model_copy(update={"sha256": "0" * 64})
    ShardFolder(job / "made").record_path(1).write_bytes(changed.to_json())
    assert not retry.keeps_settled(second, describe(second), 1)
    retry.note_updated("made", 1)
    assert retry.keeps_settled(second, describe(second), 1)
    shard = ShardFolder(job / "second").shard(2)
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    assert not retry.keeps_settled(second, describe(second), 2)
    assert retry.failed_inputs("manifest", 2) == {"toy/cut91"}  # in what is made of it
    assert retry.failed_inputs("manifest", 1) == set()


def test_who_wants_other_settings_is_told_which_and_how_to_go_on(job: Path) -> None:
    folder = ShardFolder(job / "made")
    refuse_other_settings(ToyMap(), folder, describe(ToyMap()))
    other = ToyMap(ToyConfig(factor=2))
    with pytest.raises(OutputError) as caught:
        refuse_other_settings(other, folder, describe(other))
    said = str(caught.value)
    assert "toy-map.factor: 1 → 2" in said and f"'normpipe run {job}' without these --set" in said
    newer = ToyMap()
    newer.libraries = ("numpy",)
    with pytest.raises(OutputError, match=r"libraries\.pyarrow") as caught:
        refuse_other_settings(newer, folder, describe(newer))
    assert "without these" not in str(caught.value)  # nobody set a version
    for path in folder.records_path.iterdir():
        path.unlink()
    refuse_other_settings(
        other, folder, describe(other)
    )  # nothing is there that could be overwritten


def test_weights_that_go_on_are_named(tmp_path: Path) -> None:
    """A stage that knows the settings of an older dataset says them instead."""
    run(tmp_path / "out", flow())
    stage = ToyMap()
    folder = ShardFolder(tmp_path / "out" / stage.writes)
    now = describe(stage) | {"digests": {"weights": "new"}}
    stage.settings_for = lambda digests: f"toy.weights=older{len(digests)}"  # type: ignore[method-assign]
    with pytest.raises(OutputError, match=r"normpipe .* --set toy\.weights=older0' continues it"):
        refuse_other_settings(stage, folder, now)


def test_many_differences_are_counted(tmp_path: Path) -> None:
    run(tmp_path / "out", flow())
    stage = ToyMap()
    settings = {f"s{i}": i for i in range(12)}
    with pytest.raises(OutputError, match=r"toy-map\.s3: unset → 3.*; and 14 more\)"):
        refuse_other_settings(stage, ShardFolder(tmp_path / "out/made"), {"settings": settings})
