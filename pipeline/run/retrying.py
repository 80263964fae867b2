"""What ``--retry-failed`` keeps: settled rows stay as they are, failed ones are tried again."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..stage import Row, Stage, sha256_file
from ..store.shards import ShardFolder
from ..store.storage import parquet_file
from .plan import ABSENT, fingerprint


class Kept(NamedTuple):
    """Output rows of an input that an earlier run settled; stands in a batch for its item."""

    rows: list[Row]


class SettledRows:
    """The rows of a committed shard, handed out in step with its input's rows.

    One row group is in memory at a time. The shard may be replaced meanwhile: the old file is held.
    """

    def __init__(self, path: Path, stage: str) -> None:
        self._stage = stage
        self._rows = _rows(path)
        self._next: Row | None = next(self._rows, None)

    def of(self, row: Row) -> Kept | None:
        """Return what became of the next input row; None where it is to be tried again.

        A row is settled where this stage decided it and did not fail.
        """
        found: list[Row] = []
        while (out := self._next) is not None:
            if _comes_from(out, row):
                found.append(out)
            # A picture that failed before has one row here, and now as many as it has faces.
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
    """Say whether an output row was made of an input row: it has its key, or is a face in it."""
    key: str = out["key"]
    return out["parent_key"] == row["parent_key"] and (
        key == row["key"] or key.startswith(f"{row['key']}#face")
    )


class Retry:
    """Which shards of a job a retry may mend in place.

    A shard's settled rows are good as long as its input's settled rows are what they were: the
    input is untouched, or was only mended in this run. Anything else is made anew as a whole.
    """

    def __init__(self, root: Path, flow: Sequence[Stage]) -> None:
        """Remember the shards as they are; nothing may have been written yet."""
        self._root = root
        self._flow = list(flow)
        names = {name for stage in flow for name in (*stage.reads, stage.writes)}
        self._before = {
            name: {n: r.sha256 for n, r in ShardFolder(root / name).records().items()}
            for name in names
        }
        self._mended: set[tuple[str, int]] = set()

    def settled(self, stage: Stage, description: dict[str, Any], number: int) -> bool:
        """Say whether a shard is to be mended, its settled rows as they are, or made as a whole."""
        folder = ShardFolder(self._root / stage.writes)
        record = folder.record(number)
        before = [self._before[name].get(number, ABSENT) for name in stage.reads]
        if record is None or record.fingerprint != fingerprint(description, before):
            return False
        for name, digest in zip(stage.reads, before, strict=True):
            now = ShardFolder(self._root / name).record(number)
            same = now is not None and now.sha256 == digest
            if not same and (name, number) not in self._mended:
                return False
        if sha256_file(folder.shard(number)) != record.sha256:  # a damaged shard vouches for none
            return False
        self.mends(stage.writes, number)
        return True

    def mends(self, name: str, number: int) -> None:
        """Note that a shard is rewritten with its settled rows as they were."""
        self._mended.add((name, number))

    def failed_inputs(self, name: str, number: int) -> set[str]:
        """Return the keys of a source's shard that failed in it, or in a dataset made of it."""
        failed: set[str] = set()
        datasets = [name, *(stage.writes for stage in self._flow if name in stage.reads[:1])]
        for dataset in datasets:
            folder = ShardFolder(self._root / dataset)
            if folder.record(number) is None:
                continue
            table = folder.read(number, ["parent_key", "status"])
            columns = (table["parent_key"].to_pylist(), table["status"].to_pylist())
            failed.update(key for key, status in zip(*columns, strict=True) if status == "failed")
        return failed
