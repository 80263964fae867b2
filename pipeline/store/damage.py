"""Shards that are not as their records say when a run begins, and shards that nothing stands for.

A run looks at sizes, which costs nothing; ``normpipe verify`` looks at every byte.
"""

import logging
from collections.abc import Mapping, Set
from pathlib import Path

from ..errors import OutputError
from .commit import fsync_folder, remove_file
from .shards import ShardFolder, ShardRecord, datasets_in

log = logging.getLogger("normpipe")


def damaged(folder: ShardFolder, stated: Mapping[int, ShardRecord] | None = None) -> dict[int, str]:
    """Return number → what is wrong, of all shards that have not the size that their record says.

    ``stated``: the records, if they are at hand.
    """
    found: dict[int, str] = {}
    stated = folder.all_stated() if stated is None else stated
    there = folder.shard_sizes() if stated else {}
    for number, record in stated.items():
        size = there.get(number)
        if size is None:
            found[number] = f"{folder.shard(number)} is gone"
        elif size != record.bytes:
            found[number] = f"{folder.shard(number)} has {size} bytes, recorded {record.bytes}"
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
    for folder in datasets_in(root).values():
        for number in sorted({*folder.recorded(), *folder.shard_sizes()} - inputs, reverse=True):
            folder.remove(number)


def remove_all(folder: ShardFolder) -> None:
    """Remove a dataset's shards, then their records, each for good before the next begins.

    As long as one is left, its record says that it is of old, however the removal was stopped: a
    shard without a record would pass for one whose commit was cut off.
    """
    shards = [folder.shard(number) for number in folder.shard_sizes()]
    for paths in (shards, [folder.record_path(number) for number in folder.recorded()]):
        for path in paths:
            remove_file(path)
        if paths:
            fsync_folder(paths[0].parent)
