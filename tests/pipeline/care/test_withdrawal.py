"""A withdrawal that is decided is carried out, however often it is begun again."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from normpipe.pipeline.care.withdraw import plan_withdrawal
from normpipe.pipeline.care.withdrawal import Intent, ShardStep, carry_out, neutral, read_intent
from normpipe.pipeline.errors import InputError
from normpipe.pipeline.store.commit import write_json
from normpipe.pipeline.store.shards import ShardFolder
from normpipe.pipeline.store.tombstones import Withdrawn

from ..living import digests, make

INTENT = "withdrawing.json"


@pytest.fixture(scope="module")
def decided(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A job in which a withdrawal is decided, and the same where it is carried out."""
    place = tmp_path_factory.mktemp("decided")
    make(place / "before")
    intent = plan_withdrawal(place / "before", ["anna"], [])
    assert intent is not None
    write_json(place / "before" / INTENT, intent.model_dump(mode="json"))
    shutil.copytree(place / "before", place / "after")
    assert carry_out(place / "after") == intent
    return place / "before", place / "after"


def test_once_more_changes_nothing(decided: tuple[Path, Path]) -> None:
    before, after = decided
    good = digests(after)
    assert carry_out(after) is None and not (after / INTENT).exists()
    shutil.copy(before / INTENT, after)
    assert carry_out(after) is not None
    assert digests(after) == good


@pytest.mark.parametrize("rewritten", [False, True])
def test_a_shard_that_a_kill_left_without_its_record_is_rewritten(
    decided: tuple[Path, Path], tmp_path: Path, rewritten: bool
) -> None:
    before, after = decided
    out = shutil.copytree(before, tmp_path / "out")
    if rewritten:
        shutil.copy(after / "made/shard-00000.parquet", out / "made")
    ShardFolder(out / "made").record_path(0).unlink()
    carry_out(out)
    assert digests(out) == digests(after)


def test_what_was_not_current_is_none_after_it(decided: tuple[Path, Path], tmp_path: Path) -> None:
    """A shard of other settings must not pass for one of these."""
    out = shutil.copytree(decided[0], tmp_path / "out")
    (out / INTENT).unlink()
    folder = ShardFolder(out / "made")
    for number in (0, 2):  # the second of them has none of hers
        record = folder.record(number)
        assert record is not None
        stale = record.model_copy(update={"fingerprint": "other"})
        folder.record_path(number).write_bytes(stale.to_json())
    intent = plan_withdrawal(out, ["anna"], [])
    assert intent is not None
    write_json(out / INTENT, intent.model_dump(mode="json"))
    carry_out(out)
    marks = [record.fingerprint for record in folder.records().values()]
    assert marks[0] == marks[2] == "other" and "other" not in (marks[1], marks[3])


def test_a_shard_that_is_gone_by_then_is_left_to_the_next_run(tmp_path: Path) -> None:
    step = ShardStep(
        dataset="made",
        shard=0,
        sha256="0",
        fingerprint="f",
        quarantined=False,
        rows={0: ("a", "a")},
    )
    nobody = Withdrawn(salt="00")
    intent = Intent(
        after=nobody, steps=(step,), relabelled=(), derived=("made",), files=("a/b",), remains=()
    )
    (tmp_path / INTENT).write_text(intent.model_dump_json())
    (tmp_path / "contact_sheet.jpg").write_bytes(b"drawn since")
    assert carry_out(tmp_path) == intent
    assert [path.name for path in tmp_path.iterdir()] == ["withdrawn.json"]


def test_an_intent_that_is_damaged_is_one_line(tmp_path: Path) -> None:
    assert read_intent(tmp_path) is None
    for data in (b"", b"{", json.dumps({"schema_version": 2}).encode()):
        (tmp_path / INTENT).write_bytes(data)
        with pytest.raises(InputError, match=r"withdrawing\.json cannot be read .*withdraw again"):
            carry_out(tmp_path)


def test_a_neutral_row_keeps_types_and_the_variant() -> None:
    picture = pa.array([{"bytes": b"a", "path": "p"}, {"bytes": b"b", "path": "q"}])
    before = pa.table(
        {
            "key": ["k", "l"], "parent_key": ["k", "l"], "status": ["ok", "ok"],
            "reason": pa.nulls(2, pa.string()), "decided_by": ["x", "x"], "image": picture,
            "variant": ["v", "w"], "points": [[[1.0]], [[2.0]]],
        }
    )  # fmt: skip
    after = neutral(before, 10, {11: ("n#face1", "n")})
    assert after.schema == before.schema and after.slice(0, 1).equals(before.slice(0, 1))
    assert after.slice(1, 1).to_pylist() == [
        {
            "key": "n#face1", "parent_key": "n", "status": "rejected", "reason": "withdrawn",
            "decided_by": "withdraw", "image": None, "variant": "w", "points": None,
        }
    ]  # fmt: skip
    assert neutral(before, 12, {11: ("n", "n")}) is before
