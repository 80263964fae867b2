"""What is done and left, from the records alone."""

import json
from pathlib import Path
from typing import Any

import pytest

from normpipe.pipeline.care.status import refuse_quarantined, status, status_table
from normpipe.pipeline.config import RunConfig
from normpipe.pipeline.errors import InputError, OutputError
from normpipe.pipeline.run.runner import Options, Runner
from normpipe.pipeline.store.shards import ShardFolder
from normpipe.pipeline.store.tombstones import Withdrawal, Withdrawn, new_salt

from ..toys import NAMES, SecondMap, flow, run


def test_status_counts_what_is_left(tmp_path: Path) -> None:
    source, first, second, join = flow()
    settings = Options(identity={"dataset": "toy", "input": "here"})
    Runner(tmp_path / "out", [source, first, second, join], RunConfig(), settings).run([source])
    state = status(tmp_path / "out")
    assert [s["inputs_left"] for s in state["stages"]] == [0, len(NAMES), len(NAMES), len(NAMES)]
    with pytest.raises(InputError, match="holds no normpipe job"):
        status(tmp_path)


def test_every_row_is_counted_where_it_was_decided(tmp_path: Path) -> None:
    run(tmp_path, flow())
    state = json.loads(json.dumps(status(tmp_path)))  # ready for JSON
    assert (state["output"], state["dataset"]) == (str(tmp_path), "toy")
    first, made, second, joined = state["stages"]
    # 27 inputs, one of them with two faces; one rejected, one failed.
    assert made["stage"] == "toy-map" and made["dataset"] == "made"
    assert (made["shards"], made["inputs_done"], made["inputs_left"]) == (3, 27, 0)
    assert (made["rows"], made["ok"], made["rejected"], made["failed"]) == (28, 26, 1, 1)
    assert made["reasons"] == {"toy-map": {"no_face": 1, "truncated": 1}} == joined["reasons"]
    assert made["bytes"] == sum(path.stat().st_size for path in (tmp_path / "made").iterdir())
    assert first["reasons"] == {} and not second["cleaned"] and second["quarantined"] == {}
    assert state["withdrawn"] == {"inputs": 0, "withdrawals": 0, "unfinished": False}


def test_another_variant_stands_behind_the_job_s_own(tmp_path: Path) -> None:
    run(tmp_path, flow())
    source, first, _, join = flow()
    run(tmp_path, [source, first, SecondMap(reads="made", writes="another"), join])
    found = [(one["stage"], one["dataset"]) for one in status(tmp_path)["stages"]]
    assert found[1:] == [
        ("toy-map", "made"),
        ("toy-second", "second"),
        ("toy-second", "another"),
        ("toy-join", "joined"),
    ]


def test_withdrawals_and_freed_datasets_are_told(tmp_path: Path) -> None:
    run(tmp_path, flow())
    withdrawn = Withdrawn(salt=new_salt())
    for inputs in (2, 3):
        gone = Withdrawal(on="2026-11-25", by=("key",), inputs=inputs, rows=9)
        withdrawn = withdrawn.adding([f"toy/{inputs}"], [], gone)
    (tmp_path / "withdrawn.json").write_text(withdrawn.model_dump_json())
    (tmp_path / "withdrawing.json").write_text("{}")
    ShardFolder(tmp_path / "second").cleaned_path.write_text("{}")
    state = status(tmp_path)
    assert state["withdrawn"] == {"inputs": 5, "withdrawals": 2, "unfinished": True}
    assert [one["cleaned"] for one in state["stages"]] == [False, False, True, False]
    assert status_table(state).splitlines()[-3:] == [
        "second: cleaned; the next run makes it again",
        "withdrawn: 5 inputs, in 2 withdrawals",
        f"a withdrawal was stopped: normpipe withdraw {tmp_path} finishes it",
    ]


def stage(name: str, **changes: Any) -> dict[str, Any]:
    counts = dict.fromkeys(("inputs_done", "inputs_left", "ok", "rejected", "failed", "bytes"), 0)
    plain = {"stage": name, "dataset": f"{name}ed", "reasons": {}, "quarantined": {}}
    return {**plain, **counts, "cleaned": False, **changes}


def state(*stages: dict[str, Any]) -> dict[str, Any]:
    withdrawn = {"inputs": 0, "withdrawals": 0, "unfinished": False}
    return {
        "output": "OUT", "stages": [*stages], "withdrawn": withdrawn,
        "excluded": {"keys": 0, "reasons": {}},
    }  # fmt: skip


def test_the_table_is_this_one() -> None:
    broken = {n: f"broken at {n}" for n in range(5)} | {8: "", 9: "not shown"}
    shown = status_table(
        state(
            stage("align", inputs_done=12345, ok=12, bytes=1_250_000, reasons={
                "ingest": {"no_file": 1}, "align": {"no_face": 2, "blurred": 1},
            }),
            stage("pair", inputs_left=7, quarantined=broken),
            stage("norm", quarantined={3: ""}),
        )
    )  # fmt: skip
    assert shown.splitlines() == [
        "stage  dataset   done  left  ok  rejected  failed   MB",
        "align  aligned  12345     0  12         0       0  1.2",
        "pair   paired       0     7   0         0       0  0.0",
        "norm   normed       0     0   0         0       0  0.0",
        "align: no_face 2, blurred 1",
        *[f"pair: shard {n} quarantined: broken at {n}" for n in range(5)],
        "norm: shard 3 quarantined: see the log",
    ]


def test_only_what_a_stage_set_aside_itself_stops_the_job() -> None:
    aside = {"align": {"quarantined": 4, "no_face": 1}}
    refuse_quarantined(state(stage("align"), stage("pair", reasons=aside)))
    found = state(stage("align", reasons=aside), stage("pair", reasons=aside))
    with pytest.raises(OutputError, match=r"quarantined shards: 4 of align; .*normpipe status OUT"):
        refuse_quarantined(found)
