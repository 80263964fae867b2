"""Tables that commands write: whole or not at all, and made once."""

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from normpipe.pipeline.errors import InputError, OutputError
from normpipe.pipeline.stage import sha256_file
from normpipe.pipeline.store import result_tables
from normpipe.pipeline.store.result_tables import ResultTable, grouped_rows

SCHEMA = pa.schema([("key", pa.string()), ("value", pa.float32())])


def tables(count: int = 5, broken: bool = False) -> Iterator[pa.Table]:
    for number in range(count):
        if broken and number == 3:
            raise KeyboardInterrupt
        yield pa.table({"key": [f"d/{number}"], "value": [number / 3]}, SCHEMA)


@pytest.mark.parametrize("name", ["a.parquet", "a.csv"])
def test_the_rows_come_in_order_and_their_card_vouches_for_them(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result_tables, "GROUP_ROWS", 2)
    table = ResultTable(tmp_path / "new/folder" / name, "toy")
    table.write(SCHEMA, tables(), {"from": "x"}, {"rows": 5})
    whole = pa.concat_tables(tables())
    if name.endswith("csv"):
        options = pyarrow.csv.ConvertOptions(column_types=SCHEMA)
        assert pyarrow.csv.read_csv(table.path, convert_options=options).equals(whole)
    else:
        assert pq.read_table(table.path).equals(whole)
        assert pq.ParquetFile(table.path).num_row_groups == 3
    card = json.loads(table.card_path.read_bytes())
    about = {"from": "x"}
    assert card == {"command": "toy", "about": about, "rows": 5, "sha256": sha256_file(table.path)}
    assert table.finished(about, overwrite=False) == card
    assert table.finished({"from": "y"}, overwrite=False) is None
    assert {path.name for path in table.path.parent.iterdir()} == {name, f"{name}.json"}


@pytest.mark.parametrize("name", ["a.parquet", "a.csv"])
def test_what_is_stopped_leaves_nothing_and_harms_nothing(tmp_path: Path, name: str) -> None:
    table = ResultTable(tmp_path / name, "toy")
    with pytest.raises(KeyboardInterrupt):
        table.write(SCHEMA, tables(broken=True), {}, {})
    assert not [*tmp_path.iterdir()]
    table.write(SCHEMA, tables(), {}, {})
    before = table.path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        table.write(SCHEMA, tables(broken=True), {"other": 1}, {})
    assert table.path.read_bytes() == before and table.finished({}, overwrite=False)


def test_a_table_that_was_edited_is_not_replaced_unasked(tmp_path: Path) -> None:
    table = ResultTable(tmp_path / "a.csv", "toy")
    table.write(SCHEMA, tables(), {"from": "x"}, {})
    table.path.write_text(table.path.read_text() + "d/mine,1\n")
    for about in ({"from": "x"}, {"from": "y"}):
        with pytest.raises(OutputError, match=r"changed since normpipe toy wrote .*--overwrite"):
            table.finished(about, overwrite=False)
        assert table.finished(about, overwrite=True) is None
    table.write(SCHEMA, tables(), {"from": "x"}, {})
    assert table.finished({"from": "x"}, overwrite=False)


def test_a_kill_between_card_and_table_is_no_edit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table is then the one before, which the new card still knows."""
    table = ResultTable(tmp_path / "a.csv", "toy")
    table.write(SCHEMA, tables(2), {"rows": 2}, {})
    before = table.path.read_bytes()

    def killed(_: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(result_tables, "commit_file", killed)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                table.write(SCHEMA, tables(3), {"rows": 3}, {})
            assert table.path.read_bytes() == before
            assert table.finished({"rows": 3}, overwrite=False) is None
    table.write(SCHEMA, tables(3), {"rows": 3}, {})
    assert table.finished({"rows": 3}, overwrite=False)
    table.path.write_bytes(before)  # restored by hand: still ours
    assert table.finished({"rows": 3}, overwrite=False) is None


@pytest.mark.parametrize("card", [None, "no JSON", "[]", "3", '{"command": "other", "about": {}}'])
def test_other_peoples_files_are_refused(tmp_path: Path, card: str | None) -> None:
    table = ResultTable(tmp_path / "a.csv", "toy")
    assert table.finished({}, overwrite=False) is None
    table.path.write_text("mine")
    if card is not None:
        table.card_path.write_text(card)
    with pytest.raises(OutputError, match=r"normpipe toy did not write it: .*--overwrite"):
        table.finished({}, overwrite=False)
    assert table.finished({}, overwrite=True) is None


def test_cards_of_the_first_release_are_of_predict(tmp_path: Path) -> None:
    table = ResultTable(tmp_path / "a.csv", "predict")
    table.path.write_text("key\n")
    card = {"about": {"model": "m"}, "sha256": sha256_file(table.path)}
    table.card_path.write_text(json.dumps(card))
    assert table.finished({"model": "m"}, overwrite=False) == card


def test_a_path_is_a_file_of_a_known_format(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is not a .parquet or .csv file"):
        ResultTable(tmp_path / "a.txt", "toy").check_path()
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        ResultTable(tmp_path / "a.csv", "toy").check_path()


def test_rows_are_grouped_and_none_is_lost() -> None:
    assert [table.num_rows for table in grouped_rows(tables(5), 2)] == [2, 2, 1]
    assert [*grouped_rows([], 2)] == []
