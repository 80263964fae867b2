"""Withdrawing people from a job's folder: what goes, what stays. Kills: test_durability.py."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import normpipe
from normpipe.pipeline.care.status import status, status_table
from normpipe.pipeline.care.traces import find_traces
from normpipe.pipeline.care.verify import verify
from normpipe.pipeline.care.withdraw import withdraw
from normpipe.pipeline.errors import InputError
from normpipe.pipeline.store.shards import ShardFolder
from normpipe.pipeline.store.tombstones import read_withdrawn

from .. import living
from ..living import NAMES, digests, make, run, subject

DATASETS = ("manifest", "made", "normalized/second", "joined")
ANNA = [f"toy/{name}" for name in NAMES if subject(name) == "anna"]


@pytest.fixture
def job(tmp_path: Path) -> Path:
    make(tmp_path / "out")
    return tmp_path / "out"


def rows(root: Path, dataset: str) -> list[dict[str, Any]]:
    folder = ShardFolder(root / dataset)
    return [row for n in folder.records() for row in pq.read_table(folder.shard(n)).to_pylist()]


def test_nothing_of_a_person_stays_and_all_of_the_others(job: Path) -> None:
    before = {name: rows(job, name) for name in DATASETS}
    shards = digests(job)
    (intent,) = withdraw(job, ["anna"], [])
    assert intent.after.withdrawals[0].inputs == len(ANNA)
    for name in DATASETS:
        after = rows(job, name)
        assert len(after) == len(before[name])
        for old, new in zip(before[name], after, strict=True):
            if old["parent_key"] not in ANNA:
                assert new == old
                continue
            assert new["parent_key"].startswith("toy/%withdrawn-")
            said = {k: v for k, v in new.items() if v is not None and "key" not in k}
            assert said == {
                "status": "rejected", "reason": "withdrawn", "decided_by": "withdraw",
            }  # fmt: skip
        # Shard 2 holds none of her.
        assert digests(job)[f"{name}/shard-00002.parquet"] == shards[f"{name}/shard-00002.parquet"]
    twins = [row["key"] for row in rows(job, "made") if row["key"].endswith("#face1")]
    assert twins == ["toy/%withdrawn-3-0#face1"]
    for path in job.rglob("*"):
        if path.is_file() and path.name != "told.csv":
            data = path.read_bytes()
            assert b"anna" not in data and b"toy/n5=" not in data, path
            assert b"twins35" not in data, path
    labels = pq.read_table(job / "labels.parquet")
    assert labels.num_rows == len(NAMES) - len(ANNA)


def test_what_shows_or_names_them_goes_and_what_stays_is_said(job: Path) -> None:
    (intent,) = withdraw(job, ["anna"], [])
    assert not (job / "contact_sheet.jpg").exists()
    assert not list((job / "classify/scores").iterdir())
    assert (job / "classify/classifier.safetensors").exists()
    said = "\n".join(intent.remains)
    assert "told.csv still name" in said and "others.csv" not in said
    assert "classify/classifier.safetensors" in said and "keep what they learnt" in said
    assert not list(job.rglob("*.tmp")) and not (job / "made/shard-00008.parquet").exists()


def test_verify_and_status_say_that_all_is_well(job: Path) -> None:
    withdraw(job, ["anna"], [])
    assert verify(job).differences == []
    state = status(job)
    assert state["withdrawn"] == {"inputs": len(ANNA), "withdrawals": 1, "unfinished": False}
    for stage in state["stages"]:
        assert stage["inputs_left"] == 0
        assert stage["reasons"]["withdraw"]["withdrawn"] >= len(ANNA)
    assert f"withdrawn: {len(ANNA)} inputs, in 1 withdrawals" in status_table(state)
    assert "| withdraw | withdrawn |" in ShardFolder(job / "made").card_path.read_text()


def test_they_stay_away_though_their_files_are_still_there(job: Path) -> None:
    withdraw(job, ["anna"], [])
    before = digests(job)
    run(job)
    assert digests(job) == before
    # n95 is new and Anna's, by its label; n96 is someone else.
    run(job, [*NAMES, "n95", "n96"], until=3)
    keys = {row["key"] for row in rows(job, "normalized/second")}
    assert "toy/n96" in keys and "toy/n95" not in keys and keys.isdisjoint(ANNA)
    assert verify(job).differences == []


def test_remade_from_the_neutral_manifest_the_shards_are_the_same(job: Path) -> None:
    # But for an image of several faces: its one input makes one neutral row then.
    withdraw(job, [], [key for key in ANNA if "twins" not in key])
    before = digests(job)
    for path in [*job.glob("_made/*/*.json"), *job.glob("_joined/*/*.json")]:
        path.unlink()
    run(job)
    assert digests(job) == before


def test_by_key_and_again_and_one_after_the_other(job: Path) -> None:
    (intent,) = withdraw(job, [], ["toy/n6", "toy/n7"])
    assert intent.after.withdrawals[0].inputs == 2
    before = digests(job)
    assert withdraw(job, [], ["toy/n6"]) == []
    assert digests(job) == before
    withdraw(job, ["anna"], ["toy/n6"])
    assert withdraw(job, ["anna"], []) == []
    found = read_withdrawn(job)
    assert found is not None and [one.inputs for one in found.withdrawals] == [2, len(ANNA)]
    assert verify(job).differences == []
    run(job)
    assert rows(job, "made")[6]["reason"] == "withdrawn"


def test_a_partly_made_dataset_goes_on_after_a_withdrawal(job: Path, tmp_path: Path) -> None:
    for name in ("made", "joined"):
        ShardFolder(job / name).record_path(1).unlink()
    withdraw(job, ["anna"], [])
    run(job)
    whole = tmp_path / "whole"
    make(whole)
    withdraw(whole, ["anna"], [])
    run(whole)
    names = [f"{name}/shard-0000{i}.parquet" for name in DATASETS for i in range(4)]
    assert all(digests(job)[name] == digests(whole)[name] for name in names)
    assert verify(job).differences == []


def test_a_picture_that_gets_a_withdrawn_name_later_is_reported(
    job: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    withdraw(job, ["anna"], [])
    monkeypatch.setattr(living, "subject", lambda name: "anna" if name == "n7" else subject(name))
    run(job, until=1)
    assert "1 inputs are now listed under a withdrawn subject" in caplog.text
    withdraw(job, ["anna"], [])
    assert rows(job, "made")[7]["reason"] == "withdrawn"


def test_nothing_opens_while_a_withdrawal_is_not_finished(
    job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dying(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("normpipe.pipeline.care.withdrawal.derive_again", dying)
        with pytest.raises(KeyboardInterrupt):
            withdraw(job, ["anna"], [])
    with pytest.raises(InputError, match="is not finished: finish it with normpipe withdraw"):
        normpipe.open_dataset(job / "made")
    assert "a withdrawal was stopped" in status_table(status(job))
    assert any("a withdrawal was stopped" in line for line in verify(job).differences)
    (job / "contact_sheet.jpg").write_bytes(b"drawn since")
    (intent,) = withdraw(job, [], [])
    assert intent.after.withdrawals[0].inputs == len(ANNA)
    assert not (job / "contact_sheet.jpg").exists() and verify(job).differences == []
    assert len(normpipe.open_dataset(job / "made")) > 0


def test_tables_and_texts_beside_the_shards_are_searched(job: Path) -> None:
    pq.write_table(
        pa.table({"key": ["toy/n5"], "embedding": [1.0]}), job / "made/embedding.parquet"
    )
    pq.write_table(pa.table({"key": ["toy/n6"]}), job / "made/other.parquet")
    (job / "broken.parquet").write_bytes(b"PAR1")
    (job / "notes.json").write_text(json.dumps({"seen": "toy/zo\u00eb"}))
    remove, remains = find_traces(job, list(DATASETS), {"toy/n5", "toy/zo\u00eb"})
    assert "made/embedding.parquet" in remove and "made/other.parquet" not in remove
    assert "notes.json, told.csv still name" in remains[0]
    assert "broken.parquet" not in remove and "broken.parquet cannot be read" in remains[1]


def test_who_is_unknown_is_one_line_and_changes_nothing(job: Path) -> None:
    before = digests(job)
    for subjects, keys, words in [
        (["ana"], [], "did you mean 'anna'"),
        ([], ["toy/n99"], "no input has the key toy/n99"),
        ([], ["toy/twins35#face1"], "give --key toy/twins35"),
        ([], [], "give --subject NAME or --key KEY"),
    ]:
        with pytest.raises(InputError, match=words):
            withdraw(job, subjects, keys)
    after = digests(job)
    assert all(after[name] == before[name] for name in after)
    (job / "labels.parquet").unlink()
    with pytest.raises(InputError, match="names no subjects"):
        withdraw(job, ["anna"], [])


def test_a_lost_or_damaged_list_is_noticed(job: Path) -> None:
    withdraw(job, ["anna"], [])
    path = job / "withdrawn.json"
    text = path.read_text()
    path.unlink()
    assert any("withdrawn.json is gone" in line for line in verify(job).differences)
    path.write_text(text[:-20])
    with pytest.raises(InputError, match="restore it"):
        run(job)
    # Of a normpipe that wrote no digest into it.
    path.write_text(json.dumps({**json.loads(text), "keys": [], "subjects": [], "sha256": ""}))
    run(job, until=1)  # brings them back; verify says so once the list is restored
    path.write_text(text)
    assert any("withdrawn people" in line for line in verify(job).differences)
