"""Shards that are not as their records say when a run begins, and shards that nothing stands for.

A run looks at sizes, which costs nothing; ``normpipe verify`` looks at every byte.
"""

import logging
from collections.abc import Set
from pathlib import Path

from .commit import fsync_folder
from .errors import OutputError
from .shards import ShardFolder, ShardRecord

log = logging.getLogger("normpipe")


def damage(folder: ShardFolder, record: ShardRecord) -> str | None:
    """Return in what way a shard is not as its record says; None: it has the recorded size."""
    path = folder.shard(record.shard)
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return f"{path} is gone"
    return None if size == record.bytes else f"{path} has {size} bytes, recorded {record.bytes}"


def damaged(folder: ShardFolder) -> dict[int, str]:
    """Return number → what is wrong, of all shards that have a record."""
    found: dict[int, str] = {}
    for number in folder.recorded():
        record = folder.stated(number)
        wrong = damage(folder, record) if record is not None else None
        if wrong is not None:
            found[number] = wrong
    return found


def drop_damaged(folder: ShardFolder) -> None:
    """Remove damaged shards of a dataset that is about to be made: they are made again."""
    for number, wrong in damaged(folder).items():
        log.warning("%s: it is made again", wrong)
        folder.remove(number)


def refuse_damaged(folder: ShardFolder, needed_by: str) -> None:
    """Raise where a dataset that is read, and not made in this run, has a damaged shard."""
    for wrong in damaged(folder).values():
        raise OutputError(
            f"{wrong}, and {needed_by} reads it: make it again with the run that made it (normpipe "
            "run without --stage and --from), or put the file back"
        )


def drop_orphans(root: Path, inputs: Set[int]) -> None:
    """Remove shards whose number the source has not: it was cut anew, into fewer shards."""
    for path in sorted(root.rglob("stage.json")):
        folder = ShardFolder(path.parent)
        shards = {int(p.stem.removeprefix("shard-")) for p in folder.path.glob("shard-*.parquet")}
        for number in sorted({*folder.recorded(), *shards} - inputs, reverse=True):
            folder.remove(number)


def remove_all(folder: ShardFolder) -> None:
    """Remove a dataset's shards, then their records, each for good before the next begins.

    As long as one is left, its record says that it is of old, however the removal was stopped: a
    shard without a record would pass for one whose commit was cut off.
    """
    shards = sorted(folder.path.glob("shard-*.parquet"))
    for paths in (shards, [folder.record_path(number) for number in folder.recorded()]):
        for path in paths:
            path.unlink()
        if paths:
            fsync_folder(paths[0].parent)
