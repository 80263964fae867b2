"""Columns of all rows as a table: the same values as the items have."""

import pytest

from normpipe.pipeline.errors import InputError
from normpipe.pipeline.read.columns import offered_schema, read_columns, rows_where
from normpipe.pipeline.read.opening import open_rows

from .pictured import ROWS


def test_columns_are_those_of_the_items(paired, job):
    opened = open_rows(paired, None, "all")
    schema = offered_schema(opened)
    assert {"brightness", "normalized_brightness", "AU12", "subject", "key"} <= {*schema.names}
    assert not {"image", "normalized", "_source"} & {*schema.names}
    table = read_columns(opened, ["normalized_brightness", "AU12", "brightness", "key"])
    assert table.column_names == ["normalized_brightness", "AU12", "brightness", "key"]
    assert table["brightness"].to_pylist()[:9] == [0, 1, 2, 3, 4, 5, 6, None, 8]
    assert table["normalized_brightness"].to_pylist()[6:9] == [6, None, None]
    assert table["brightness"][149].as_py() == 149  # in the second shard
    some = open_rows(job / "aligned", None, "ok")
    assert read_columns(some, ["brightness"])["brightness"][7].as_py() == 8
    assert read_columns(some, []).num_rows == 0


def test_rows_that_a_condition_holds_for(paired):
    opened = open_rows(paired, None, "all")
    found = rows_where(opened, "brightness >= 100 and subject == 'S0'")
    wanted = list(range(100, ROWS, 10))
    assert found["_row"].to_pylist() == wanted
    assert found["key"].to_pylist() == [f"d/{n:03d}.jpg" for n in wanted]
    with pytest.raises(InputError, match="did you mean 'brightness'"):
        rows_where(opened, "brightnes > 1")
