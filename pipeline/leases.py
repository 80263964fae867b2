"""Who may write a shard, where several processes work: leases that fence off their old owners.

A *claim* makes the next numbered folder of a shard, which no second process can make, and moves
those below it away. All that an owner writes lies in its own folder until it is renamed to where it
belongs; so an owner that was stopped at any instant, and wakes up when another has the shard, finds
every further rename impossible. Nothing hangs on clocks or locks. The number says how often the
shard was begun in this run.

::

    OUT/.cluster/<run>/leases/<dataset>/shard-00003/2/   the second claim's folder

A store has no renames. There a claim is a numbered object, which only one can make, and its owner
writes under a name that no other ever has. The coordinator alone, which holds the job, copies what
is finished to where it belongs: who wakes up late can overwrite nothing.

::

    OUT/.cluster/<run>/leases/<dataset>/shard-00003/2   the second claim
    OUT/.cluster/<run>/made/<token>/shard-00003.parquet, shard-00003.json   what it made
"""

import contextlib
import os
import shutil
import uuid
from pathlib import Path
from urllib.parse import quote

from .commit import PendingFile, commit_file, fsync_folder, storage_errors
from .errors import NormpipeError
from .shards import ShardFolder, ShardRecord, record_bytes, shard_name
from .storage import copy, create, is_store, put, read_all, remove, remove_tree, sizes

#: Holds what belongs to one run with workers; no part of the dataset.
CLUSTER_FOLDER = ".cluster"


class LeaseLost(NormpipeError):
    """Another worker has the shard, or the run is over: nothing of this try may be committed."""


class Lease:
    """One claim of one shard."""

    #: Names what the owner made, where the coordinator puts it in place.
    token = ""

    def __init__(self, folder: Path, number: int) -> None:
        """``folder``: of the shard's claims; ``number``: which of them this is, from 1."""
        self.folder = folder
        self.number = number

    @property
    def path(self) -> Path:
        """Return the folder in which the owner writes."""
        return self.folder / str(self.number)

    def target(self, dataset: Path) -> ShardFolder:
        """Return the dataset, as the owner of the shard may write it."""
        return LeasedFolder(dataset, self)

    def held(self) -> bool:
        """Say whether nobody claimed the shard since, and the run goes on."""
        return max(_numbers(self.folder), default=0) == self.number

    def check(self) -> None:
        """Raise LeaseLost where the shard is another's."""
        if not self.held():
            raise LeaseLost(f"{self.folder.name} is another worker's by now")

    def release(self) -> None:
        """Give the shard back, and forget how often it was claimed."""
        _move_away(self.folder)


def leases_of(run: Path) -> Path:
    """Return the folder that holds a run's leases. Only the coordinator makes it."""
    return run / "leases"


class StoreLease(Lease):
    """One claim of one shard in a store."""

    def __init__(self, run: Path, folder: Path, number: int) -> None:
        super().__init__(folder, number)
        self.token = uuid.uuid4().hex
        self._run = run

    def target(self, dataset: Path) -> ShardFolder:
        """Return the dataset, in which nothing is written, but under the token."""
        return _ApartFolder(dataset, _made(self._run, self.token))

    def release(self) -> None:
        """Give the shard back, and forget how often it was claimed."""
        remove_tree(self.folder)


def _claims(run: Path, dataset: str, number: int) -> Path:
    return leases_of(run) / quote(dataset, safe="") / shard_name(number)


def claim(run: Path, dataset: str, number: int) -> Lease:
    """Take a shard from whoever has it.

    Raises:
        LeaseLost: the run is over (its folder is gone).
    """
    folder = _claims(run, dataset, number)
    if is_store(run):
        return _claim_in_store(run, folder)
    try:
        # No parents are made: the folder of a run that is over must not come back.
        for path in (folder.parent, folder):
            path.mkdir(exist_ok=True)
        while True:
            lease = Lease(folder, max(_numbers(folder), default=0) + 1)
            try:
                lease.path.mkdir()
                break
            except FileExistsError:
                continue
    except FileNotFoundError:
        raise LeaseLost("the run is over") from None
    for lower in _numbers(folder):
        if lower < lease.number:
            _move_away(folder / str(lower))
    return lease


def _claim_in_store(run: Path, folder: Path) -> Lease:
    if not sizes(run):  # the settings lie in it, until the run is over
        raise LeaseLost("the run is over")
    while True:
        lease = StoreLease(run, folder, max(_numbers(folder), default=0) + 1)
        if create(lease.path, b""):
            return lease


def is_claimed(run: Path, dataset: str, number: int) -> bool:
    """Say whether a worker has begun a shard and not given it back."""
    return bool(_numbers(_claims(run, dataset, number)))


def clear(root: Path) -> None:
    """Remove what runs with workers left, so that what is left of *them* commits nothing more."""
    if is_store(root):
        return remove_tree(root / CLUSTER_FOLDER)
    for run in list((root / CLUSTER_FOLDER).glob("*")):
        _move_away(run)
    return shutil.rmtree(root / CLUSTER_FOLDER, ignore_errors=True)


def _numbers(folder: Path) -> list[int]:
    if is_store(folder):
        return [int(name) for name in sizes(folder)]
    try:
        return [int(name) for name in os.listdir(folder) if name.isdigit()]  # noqa: PTH208
    except FileNotFoundError:
        return []


def _move_away(folder: Path) -> None:
    """Make a folder's path vanish at once, and then its files, whoever may be writing them."""
    gone = folder.with_name(f"gone-{uuid.uuid4().hex}")
    with contextlib.suppress(FileNotFoundError):
        folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


class LeasedFolder(ShardFolder):
    """A dataset in which one shard is written under a lease."""

    def __init__(self, path: Path, lease: Lease) -> None:
        super().__init__(path)
        self.lease = lease

    def pending(self, number: int) -> PendingFile:
        """Return the file into which a shard is written before its commit: the owner's."""
        return PendingFile(self.shard(number), self.lease.path / self.shard(number).name)

    def commit(self, record: ShardRecord, file: PendingFile) -> None:
        """Give a shard and its record their names. Raises LeaseLost where it is another's."""
        number, own = record.shard, self.lease.path
        final, written = self.record_path(number), own / self.record_path(number).name
        try:
            with storage_errors(final), written.open("wb") as stream:
                stream.write(record_bytes(record))
                stream.flush()
                os.fsync(stream.fileno())
            self.lease.check()
            with contextlib.suppress(FileNotFoundError):
                # The old record must not speak of the new bytes. Moved, not removed: once the
                # shard is another's, there is no place to move to, and its record stays.
                final.rename(own / "before.json")
                fsync_folder(final.parent)
            with storage_errors(final):
                file.commit()
                self.lease.check()
                commit_file(final, written)
        except FileNotFoundError:
            raise LeaseLost(f"{self.shard(number).name} is another worker's by now") from None


def _made(run: Path, token: str) -> Path:
    return run / "made" / token


class _ApartFolder(ShardFolder):
    """A dataset in a store whose shards are written apart from it."""

    def __init__(self, path: Path, apart: Path) -> None:
        super().__init__(path)
        self._apart = apart

    def pending(self, number: int) -> PendingFile:
        """Return the file into which a shard is written before its commit."""
        return PendingFile(self._apart / self.shard(number).name)

    def commit(self, record: ShardRecord, file: PendingFile) -> None:
        """Leave a shard and its record for the coordinator."""
        file.commit()
        put(self._apart / self.record_path(record.shard).name, record_bytes(record))


def adopt(run: Path, token: str, folder: ShardFolder, number: int) -> None:
    """Put what the owner of a token made in its place: the shard, then its record.

    For the coordinator, which holds the job. Nothing happens where the owner finished nothing.
    """
    apart = _made(run, token)
    final = folder.record_path(number)
    (record,) = read_all([apart / final.name])
    if record is None:
        return
    remove(final)  # an old one must not speak of the new bytes
    copy(apart / folder.shard(number).name, folder.shard(number))
    put(final, record)
    remove_tree(apart)
