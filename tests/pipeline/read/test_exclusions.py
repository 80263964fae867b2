"""Which rows a list of excluded keys marks."""

import pyarrow as pa

from normpipe.pipeline.read.exclusions import (
    SCHEMA,
    exclusions_of,
    is_excluded,
    mark_excluded,
    read_exclusions,
    write_exclusions,
)

ROWS = pa.table(
    {
        "key": ["d/a@one", "d/a@two", "d/b#face0", "d/c"],
        "_source": ["d/a", "d/a", "d/b#face0", "d/c"],
        "parent_key": ["d/a", "d/a", "d/b", "d/c"],
        "status": ["ok", "rejected", "ok", "ok"],
        "reason": pa.array([None, "black_output", None, None]),
        "decided_by": ["pair", "normalize", "pair", "pair"],
    }
)


def excluded(**reasons: str) -> pa.Table:
    keys = [key.replace("_", "/") for key in reasons]
    days = ["2026-12-01"] * len(keys)
    return pa.table({"key": keys, "reason": [*reasons.values()], "excluded_on": days}, SCHEMA)


def test_a_key_its_source_and_its_input_exclude_a_row() -> None:
    marked = mark_excluded(ROWS, excluded(d_a="twice", d_b="all faces"))
    assert marked["status"].to_pylist() == ["excluded", "rejected", "excluded", "ok"]
    assert marked["reason"].to_pylist() == ["twice", "black_output", "all faces", None]
    assert marked["decided_by"].to_pylist() == ["exclude", "normalize", "exclude", "pair"]
    assert mark_excluded(ROWS, SCHEMA.empty_table()) is ROWS
    # The nearest key says why.
    both = pa.concat_tables([excluded(d_a="its input"), excluded(**{"d_a@one": "itself"})])
    assert mark_excluded(ROWS, both)["reason"][0].as_py() == "itself"
    assert is_excluded(excluded(d_a="", d_b=""), ROWS).tolist() == [True, True, True, False]
    assert not is_excluded(SCHEMA.empty_table(), ROWS).any()


def test_the_file_is_sorted_and_gone_when_empty(tmp_path) -> None:
    write_exclusions(tmp_path, excluded(d_b="y", d_a="x"))
    assert read_exclusions(tmp_path)["key"].to_pylist() == ["d/a", "d/b"]
    (tmp_path / "job.json").write_text("{}")
    assert exclusions_of(tmp_path / "aligned").num_rows == 2
    write_exclusions(tmp_path, SCHEMA.empty_table())
    assert not (tmp_path / "excluded.parquet").exists()
    assert read_exclusions(tmp_path).num_rows == 0
