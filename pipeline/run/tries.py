"""The folder of a run: which shards were begun in it, and what each try at one made of it.

::

    OUT/.making/<run>/settings.json         what workers are told; gone, where the run is over
    OUT/.making/<run>/begun/<token>         somebody makes a shard, or died or fell silent over it
    OUT/.making/<run>/made/<token>.parquet  the shard
    OUT/.making/<run>/made/<token>.json     its record, once it is whole

A token, ``<stage>-<shard>-<32 digits>``, is drawn by the process that makes a shard, for that one
try. Nobody else ever writes under it, so two that make the same shard never meet, however late one
of them wakes up. Nothing here is part of a dataset until the coordinator, which alone holds the
job's lock, puts it in place (``ShardFolder.put_in_place``).
"""

import contextlib
import shutil
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import NormpipeError
from ..store.commit import json_bytes, remove_file, storage_errors, write_bytes
from ..store.storage import create, is_store, read_all, remove_tree, sizes

if TYPE_CHECKING:
    from ..store.shards import ShardFolder, ShardRecord

#: Holds the folders of runs; ``.cluster`` is what release 0.1.0 left of runs with workers.
MAKING_FOLDER = ".making"
_OLD_FOLDER = ".cluster"
#: Read by workers: the settings that build the stages, and what each stage must be like.
SETTINGS_FILE = "settings.json"


class RunOver(NormpipeError):
    """The run is over, or this try is given up: nothing of it may be put in place."""


class RunFolder:
    """What the processes of one run tell each other."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.root = path.parent.parent

    @classmethod
    def new(cls, root: Path) -> "RunFolder":
        """Return the folder of a new run in a job's folder; it is there once it is laid."""
        return cls(root.resolve() / MAKING_FOLDER / uuid.uuid4().hex[:12])

    def lay(self, settings: dict[str, Any]) -> None:
        """Make the folder. ``settings``: what workers are told, ready for JSON."""
        data = json_bytes(settings)
        if is_store(self.path):
            return write_bytes(self.path / SETTINGS_FILE, data)
        with storage_errors(self.path):  # nothing reads it after a power cut: no fsync
            for part in ("begun", "made"):
                (self.path / part).mkdir(parents=True)
            (self.path / SETTINGS_FILE).write_bytes(data)
        return None

    def close(self) -> None:
        """Let the run be over: what is left of it changes nothing any more. Others' stay."""
        with contextlib.suppress(OSError, NormpipeError):  # else the next run does it
            _move_away(self.path)
            if not is_store(self.path):
                self.path.parent.rmdir()

    def description_path(self, stage: str) -> Path:
        """Return where the coordinator writes what every worker's stage must be like."""
        return self.path / f"stage-{stage}.json"

    def begin(self, stage: str, number: int) -> str:
        """Draw a token for a try at a shard, and write that it is begun.

        Raises:
            RunOver: its folder is gone.
        """
        token = f"{stage}-{number:05d}-{uuid.uuid4().hex}"
        mark = self.path / "begun" / token
        try:
            if not is_store(mark):
                # No folder is made: that of a run that is over must not come back.
                with storage_errors(mark), mark.open("wb"):
                    return token
            if sizes(self.path):
                create(mark, b"")
                return token
        except FileNotFoundError:
            pass
        raise RunOver("the run is over")

    def is_begun(self, token: str) -> bool:
        """Say whether a try still counts: the run goes on, and nobody gave the try up."""
        return read_all([self.path / "begun" / token]) != [None]

    def end(self, *tokens: str) -> None:
        """Note that tries have ended, or need not go on."""
        for token in tokens:
            with contextlib.suppress(OSError, NormpipeError):  # the folder may be gone, or its disk
                remove_file(self.path / "begun" / token)

    def begun(self, stage: str, number: int | None = None) -> list[str]:
        """Return the tokens of what is begun and not ended, of one shard or of all of a stage."""
        wanted = f"{stage}-" if number is None else f"{stage}-{number:05d}-"
        names = sizes(self.path / "begun")
        return [one for one in names if one.startswith(wanted) and stage_of(one)[0] == stage]

    def shard(self, token: str) -> Path:
        """Return where a try writes its shard."""
        return self.path / "made" / f"{token}.parquet"

    def _record_path(self, token: str) -> Path:
        return self.path / "made" / f"{token}.json"

    def finish(self, token: str, record: "ShardRecord") -> None:
        """Say that a try's shard is whole."""
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
        """Return the record of what a try made; None where it made nothing, or is not seen yet."""
        return read_all([self._record_path(token)])[0]

    def made(self, stage: str, number: int) -> list[str]:
        """Return the tokens of tries at a shard that are whole and not put in place."""
        wanted = f"{stage}-{number:05d}-"
        names = (Path(name) for name in sizes(self.path / "made"))
        return [one.stem for one in names if one.suffix == ".json" and one.name.startswith(wanted)]

    def adopt(self, token: str, record: "ShardRecord", folder: "ShardFolder") -> None:
        """Put in place what a try made. For the coordinator, which holds the job's lock."""
        folder.put_in_place(record, self.shard(token))
        with contextlib.suppress(OSError, NormpipeError):
            remove_file(self._record_path(token))


def stage_of(token: str) -> tuple[str, int]:
    """Return the stage and the shard that a token is of."""
    stage, number, _ = token.rsplit("-", 2)
    return stage, int(number)


def clear(root: Path) -> None:
    """Remove what earlier runs left. For the process that holds the job's lock."""
    for name in (MAKING_FOLDER, _OLD_FOLDER):
        if is_store(root):
            remove_tree(root / name)
            continue
        with storage_errors(root):
            for run in list((root / name).glob("*")):
                _move_away(run)
        shutil.rmtree(root / name, ignore_errors=True)


def _move_away(folder: Path) -> None:
    """Make a folder's path vanish at once, and then its files, whoever may be writing them."""
    if is_store(folder):
        return remove_tree(folder)
    gone = folder.with_name(f"gone-{uuid.uuid4().hex}")
    with contextlib.suppress(FileNotFoundError):
        folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
    return None
