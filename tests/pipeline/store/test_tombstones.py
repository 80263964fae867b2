"""Who was withdrawn, and that nobody comes back."""

from pathlib import Path

import pytest

from normpipe.pipeline.errors import InputError
from normpipe.pipeline.store.derive import to_json
from normpipe.pipeline.store.tombstones import Withdrawal, Withdrawn, new_salt, read_withdrawn


def test_no_flipped_bit_brings_anybody_back(tmp_path: Path) -> None:
    gone = Withdrawal(on="2026-11-25", by=("subject",), inputs=1, rows=4)
    written = Withdrawn(salt=new_salt()).adding(["photos/a.jpg"], ["anna"], gone)
    path = tmp_path / "withdrawn.json"
    whole = to_json(written.model_dump(mode="json"))
    path.write_bytes(whole)
    assert read_withdrawn(tmp_path) == written
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="restore it"):
            read_withdrawn(tmp_path)
