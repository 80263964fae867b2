"""What ``--retry-failed`` keeps: settled rows stay as they are, failed ones are retried."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ...manifests.keys import belongs_to
from ..stage import Row
from ..store.storage import parquet_file


class Kept(NamedTuple):
    """Output rows of an input that an earlier run settled; takes the place of its batch item."""

    rows: list[Row]


class SettledRows:
    """The rows of a committed shard, read in step with its input's rows.

    One row group is in memory at a time. The shard may be replaced meanwhile: the old file stays
    open.
    """

    def __init__(self, path: Path, stage: str) -> None:
        self._stage = stage
        self._rows = _rows(path)
        self._next: Row | None = next(self._rows, None)

    def of(self, row: Row) -> Kept | None:
        """Return the output rows of the next input row; None if it must be retried.

        A row is settled if this stage decided it and it did not fail.
        """
        found: list[Row] = []
        while (out := self._next) is not None:
            if _comes_from(out, row):
                found.append(out)
            # An input that failed before has one row here, and may have several now.
            elif out["parent_key"] != row["parent_key"] or out["status"] != "failed":
                break
            self._next = next(self._rows, None)
        settled = found and all(
            one["status"] != "failed" and one["decided_by"] == self._stage for one in found
        )
        return Kept(found) if settled else None


def _rows(path: Path) -> Iterator[Row]:
    with parquet_file(path) as file:
        for group in range(file.num_row_groups):
            yield from file.read_row_group(group).to_pylist()


def _comes_from(out: Row, row: Row) -> bool:
    """Return whether an output row was made from an input row."""
    return out["parent_key"] == row["parent_key"] and belongs_to(out["key"], row["key"])
