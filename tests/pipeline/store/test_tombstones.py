"""Who was withdrawn, and that nobody comes back."""

from pathlib import Path

import pyarrow as pa
import pytest

from normpipe.pipeline.errors import InputError
from normpipe.pipeline.stage import Scan
from normpipe.pipeline.store.commit import json_bytes
from normpipe.pipeline.store.tombstones import (
    Withdrawal,
    Withdrawn,
    exclude_withdrawn,
    new_salt,
    read_withdrawn,
    refuse_unfinished,
    without,
)

GONE = Withdrawal(on="2026-11-25", by=("subject",), inputs=1, rows=4)


def test_no_flipped_bit_brings_anybody_back(tmp_path: Path) -> None:
    written = Withdrawn(salt=new_salt()).adding(["photos/a.jpg"], ["anna"], GONE)
    path = tmp_path / "withdrawn.json"
    whole = json_bytes(written.model_dump(mode="json"), ascii_only=False)
    path.write_bytes(whole)
    assert read_withdrawn(tmp_path) == written
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="restore it"):
            read_withdrawn(tmp_path)


def test_hashes_are_those_of_the_standard() -> None:
    """RFC 4231, test case 1."""
    digest = "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
    assert Withdrawn(salt="0b" * 20).hashed("Hi There") == digest
    assert Withdrawn(salt="0c" * 20).hashed("Hi There") != digest


def test_withdrawals_add_up_and_name_nobody() -> None:
    first = Withdrawn(salt=new_salt()).adding(["d/b.jpg", "d/a.jpg"], ["anna"], GONE)
    both = first.adding(["d/b.jpg", "d/c.jpg"], [], GONE)
    names = [f"d/{name}.jpg" for name in "abcd"]
    assert both.found(names, both.keys) == {*names[:3]} and len(both.keys) == 3
    assert both.found(["anna", None, "ann"], both.subjects) == {"anna"}
    assert both.found(names, ()) == set() and both.found(names, first.subjects) == set()
    assert len(both.withdrawals) == 2 and both.sha256 != first.sha256
    text = both.model_dump_json()
    assert "anna" not in text and "jpg" not in text
    assert Withdrawn.model_validate_json(text) == both


def test_nobody_comes_in_again_by_key_or_by_name() -> None:
    withdrawn = Withdrawn(salt=new_salt()).adding(["d/gone"], ["anna"], GONE)
    keys = ["d/gone", "d/new", "d/kept", "d/known", "d/nobody"]
    subjects = [None, "anna", "bea", "anna", None]
    labels = pa.table({"key": keys, "subject": subjects})
    scan = Scan(pa.table({"key": keys}), labels, {".txt": 2}, complete=False)
    found, out, named = exclude_withdrawn(scan, withdrawn, {"d/known", "d/kept"})
    assert (out, named) == ({"d/gone", "d/new"}, {"d/known"})
    assert found.rows["key"].to_pylist() == ["d/kept", "d/known", "d/nobody"]
    assert found.labels is not None and found.labels["subject"].to_pylist() == ["bea", "anna", None]
    assert (found.ignored, found.complete) == ({".txt": 2}, False)
    plain, out, named = exclude_withdrawn(Scan(scan.rows), withdrawn, set())
    assert plain.labels is None and (out, named) == ({"d/gone"}, set())


def test_a_withdrawal_that_is_not_finished_bars_the_folder(tmp_path: Path) -> None:
    refuse_unfinished(tmp_path)
    (tmp_path / "withdrawing.json").write_text("{}")
    with pytest.raises(InputError, match=f"finish it with normpipe withdraw {tmp_path}"):
        refuse_unfinished(tmp_path)


def test_a_folder_that_nobody_left_has_no_list(tmp_path: Path) -> None:
    assert read_withdrawn(tmp_path) is None
    assert without(pa.table({"key": ["a", "b"]}), set()).num_rows == 2
