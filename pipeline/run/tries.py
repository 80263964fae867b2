"""The folder of a run: attempts in progress, and the shards that finished attempts have made.

::

    OUT/.making/<run>/settings.json         the workers' settings; gone once the run is over
    OUT/.making/<run>/begun/<token>         an attempt started; it runs, or its process died or hung
    OUT/.making/<run>/made/<token>.parquet  the shard
    OUT/.making/<run>/made/<token>.json     its record, once the shard is complete

The process that makes a shard draws a token, ``<stage>-<shard>-<32 digits>``, for each attempt. No
other process ever writes under it, so two attempts at the same shard cannot collide, however late
one of them wakes up. Nothing here is part of a dataset until the coordinator, the only holder of
the job's lock, puts it in place (``ShardFolder.put_in_place``).
"""

import contextlib
import shutil
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import NormpipeError
from ..store.commit import json_bytes, remove_file, storage_errors, write_bytes
from ..store.storage import create, is_store, read_files, remove_tree, sizes

if TYPE_CHECKING:
    from ..store.shards import ShardRecord

#: Holds the folders of runs; release 0.1.0 left ``.cluster`` after runs with workers.
MAKING_FOLDER = ".making"
_OLD_FOLDER = ".cluster"
#: Read by workers: the settings that they build the stages from.
SETTINGS_FILE = "settings.json"


class RunOver(NormpipeError):
    """The run is over, or this attempt was given up: its shard must not be put in place."""


class RunFolder:
    """The files through which the processes of one run communicate."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.root = path.parent.parent

    @classmethod
    def new(cls, root: Path) -> "RunFolder":
        """Return the folder of a new run in a job's folder; ``create`` makes it."""
        return cls(root.resolve() / MAKING_FOLDER / uuid.uuid4().hex[:12])

    def create(self, settings: dict[str, Any]) -> None:
        """Make the folder. ``settings``: for the workers, ready for JSON."""
        data = json_bytes(settings)
        if is_store(self.path):
            return write_bytes(self.path / SETTINGS_FILE, data)
        with storage_errors(self.path):  # nothing reads it after a power cut: no fsync
            for part in ("begun", "made"):
                (self.path / part).mkdir(parents=True)
            (self.path / SETTINGS_FILE).write_bytes(data)
        return None

    def close(self) -> None:
        """End the run: remove its folder, so that late workers change nothing. Others' stay."""
        with contextlib.suppress(OSError, NormpipeError):  # then the next run removes it
            _remove_at_once(self.path)
            if not is_store(self.path):
                self.path.parent.rmdir()

    def description_path(self, stage: str) -> Path:
        """Return where the coordinator writes the description that every worker must match."""
        return self.path / f"stage-{stage}.json"

    def begin(self, stage: str, number: int) -> str:
        """Draw a token for an attempt at a shard, and record that it has started.

        Raises:
            RunOver: the run's folder is gone.
        """
        token = f"{stage}-{number:05d}-{uuid.uuid4().hex}"
        mark = self.path / "begun" / token
        try:
            if not is_store(mark):
                # Make no folder: that of a finished run must not come back.
                with storage_errors(mark), mark.open("wb"):
                    return token
            if sizes(self.path):
                create(mark, b"")
                return token
        except FileNotFoundError:
            pass
        raise RunOver("the run is over")

    def is_active(self, token: str) -> bool:
        """Return whether an attempt is still wanted: neither the run nor the attempt has ended."""
        return read_files([self.path / "begun" / token]) != [None]

    def end(self, *tokens: str) -> None:
        """Record that attempts have ended, or are given up."""
        for token in tokens:
            with contextlib.suppress(OSError, NormpipeError):  # the folder may be gone, or its disk
                remove_file(self.path / "begun" / token)

    def active(self, stage: str, number: int | None = None) -> list[str]:
        """Return the tokens of attempts that started and have not ended, at one shard or all."""
        wanted = f"{stage}-" if number is None else f"{stage}-{number:05d}-"
        names = sizes(self.path / "begun")
        return [one for one in names if one.startswith(wanted) and stage_of(one)[0] == stage]

    def shard(self, token: str) -> Path:
        """Return where an attempt writes its shard."""
        return self.path / "made" / f"{token}.parquet"

    def _record_path(self, token: str) -> Path:
        return self.path / "made" / f"{token}.json"

    def finish(self, token: str, record: "ShardRecord") -> None:
        """Record that an attempt's shard is complete."""
        data = record.to_json()
        try:
            if is_store(self.path):
                write_bytes(self._record_path(token), data)
            else:
                # Nothing reads it after a power cut, so it needs no fsync.
                unfinished = self._record_path(token).with_suffix(".part")
                with storage_errors(unfinished), unfinished.open("wb") as stream:
                    stream.write(data)
                unfinished.replace(self._record_path(token))
        except FileNotFoundError:
            raise RunOver("the run is over") from None

    def record(self, token: str) -> bytes | None:
        """Return the record of an attempt's shard; None if there is none, or none visible yet."""
        return read_files([self._record_path(token)])[0]

    def finished(self, stage: str, number: int) -> list[str]:
        """Return the tokens of attempts whose shard is complete and not yet put in place."""
        wanted = f"{stage}-{number:05d}-"
        names = (Path(name) for name in sizes(self.path / "made"))
        return [one.stem for one in names if one.suffix == ".json" and one.name.startswith(wanted)]

    def forget(self, token: str) -> None:
        """Remove the record of an attempt whose shard is in place."""
        with contextlib.suppress(OSError, NormpipeError):
            remove_file(self._record_path(token))


def stage_of(token: str) -> tuple[str, int]:
    """Return the stage and the shard number of a token."""
    stage, number, _ = token.rsplit("-", 2)
    return stage, int(number)


def clear(root: Path) -> None:
    """Remove what earlier runs left behind. For the process that holds the job's lock."""
    for name in (MAKING_FOLDER, _OLD_FOLDER):
        if is_store(root):
            remove_tree(root / name)
            continue
        with storage_errors(root):
            for run in list((root / name).glob("*")):
                _remove_at_once(run)
        shutil.rmtree(root / name, ignore_errors=True)


def _remove_at_once(folder: Path) -> None:
    """Rename a folder first, so that its path is gone at once; then delete its files."""
    if is_store(folder):
        return remove_tree(folder)
    gone = folder.with_name(f"gone-{uuid.uuid4().hex}")
    with contextlib.suppress(FileNotFoundError):
        folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
    return None
