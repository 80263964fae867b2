"""Shards that differ from their records when a run starts, and shards without an input.

A run only checks sizes, which costs nothing; ``normpipe verify`` reads every byte.
"""

import logging
from collections.abc import Mapping, Set
from pathlib import Path

from ..errors import OutputError
from .commit import fsync_folder, remove_file
from .shards import ShardFolder, ShardRecord, datasets_in

log = logging.getLogger("normpipe")


def damaged(
    folder: ShardFolder, records: Mapping[int, ShardRecord] | None = None
) -> dict[int, str]:
    """Return number → what is wrong, for all shards whose size differs from their record's.

    ``records``: all stored records, if already read.
    """
    found: dict[int, str] = {}
    records = folder.stored_records() if records is None else records
    there = folder.shard_sizes() if records else {}
    for number, record in records.items():
        size = there.get(number)
        if size is None:
            found[number] = f"{folder.shard(number)} is gone"
        elif size != record.bytes:
            found[number] = f"{folder.shard(number)} has {size} bytes, recorded {record.bytes}"
    return found


def drop_damaged(folder: ShardFolder) -> None:
    """Remove damaged shards of a dataset that is about to be made, so that they are made again."""
    for number, wrong in damaged(folder).items():
        log.warning("%s: making it again", wrong)
        folder.remove(number)


def refuse_damaged(folder: ShardFolder, needed_by: str) -> None:
    """Raise OutputError if a dataset that this run reads, but does not make, is damaged."""
    for wrong in damaged(folder).values():
        raise OutputError(
            f"{wrong}, and {needed_by} reads it: make it again with the run that made it (normpipe "
            "run without --stage and --from), or put the file back"
        )


def drop_orphans(root: Path, inputs: Set[int]) -> None:
    """Remove shards with a number that the source no longer has: it was cut into fewer shards."""
    for folder in datasets_in(root).values():
        numbers = {*folder.recorded_numbers(), *folder.shard_sizes()}
        for number in sorted(numbers - inputs, reverse=True):
            folder.remove(number)


def remove_all(folder: ShardFolder) -> None:
    """Remove a dataset's shards, then their records, each step durable before the next.

    As long as a shard is left, its record says that it is outdated, wherever the removal stopped: a
    shard without a record would look like one whose commit was cut off.
    """
    shards = [folder.shard(number) for number in folder.shard_sizes()]
    for paths in (shards, [folder.record_path(number) for number in folder.recorded_numbers()]):
        for path in paths:
            remove_file(path)
        if paths:
            fsync_folder(paths[0].parent)
