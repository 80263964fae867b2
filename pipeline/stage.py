"""The contract between the engine and a stage.

Four kinds: a *source* makes rows from outside data, a *map* turns each row into one or more rows, a
*join* reads two datasets shard by shard, and a *sink* (a plain function) makes an artifact. The
engine is given stages; it never imports one.
"""

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.config import JsonDict

from ..manifests.vocabularies import status_of
from .errors import InputError

Row = dict[str, Any]


def free(
    default: Any,
    *,
    description: str,
    path: bool = False,
    relative_to_job_file: bool = False,
    per_run: bool = False,
    **limits: Any,
) -> Any:
    """Return a field of a ``StageConfig`` that does not shape results, such as a device.

    Args:
        default: its default value.
        description: passed to pydantic's ``Field``, as are ``limits``.
        path: it is a path, saved as absolute; the digest of its file shapes results instead.
        relative_to_job_file: it is a path that, in a job file, is relative to that file's folder.
        per_run: it applies to a single run, and is not saved with the job.
    """
    marks: JsonDict = {"shapes_results": False}
    if path:
        marks["path"] = True
    if relative_to_job_file:
        marks["relative_to_job_file"] = True
    if per_run:
        marks["per_run"] = True
    return Field(default, description=description, json_schema_extra=marks, **limits)


def added(default: Any, *, description: str = "", **limits: Any) -> Any:
    """Return a field of a ``StageConfig`` that shapes results, but came after a release.

    Its default must work as if the field did not exist. While it has its default, it is left out of
    what shapes results, so that datasets and trainings begun before it go on.
    """
    marks: JsonDict = {"shapes_results": "unless default"}
    return Field(default, description=description or None, json_schema_extra=marks, **limits)


class StageConfig(BaseModel):
    """Base of the settings of every stage and training: frozen, and an unknown key is an error.

    Every field shapes results, unless it is made by ``free``, or by ``added`` and has its default.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _empty_is_unset(cls, values: Any) -> Any:
        """Treat ``""`` as unset for a setting that may be unset: TOML has no null."""
        if not isinstance(values, dict):
            return values
        unset = {
            n
            for n, info in cls.model_fields.items()
            if not info.is_required() and info.default is None
        }
        return {n: v for n, v in values.items() if not (v == "" and n in unset)}

    def dataset_name(self) -> str:
        """Return the name of the dataset, if these settings say which it is; else ""."""
        return ""

    def shaping(self) -> dict[str, Any]:
        """Return the settings that shape results, ready for JSON.

        All but those made by ``free``, and those made by ``added`` that have their default; tables
        of settings likewise. Fingerprints contain these settings and no others.
        """
        plain = self.model_dump(mode="json")
        found: dict[str, Any] = {}
        for name, info in type(self).model_fields.items():
            extra, value = info.json_schema_extra, getattr(self, name)
            mark = extra.get("shapes_results") if isinstance(extra, dict) else None
            if mark is False:
                continue
            if mark and value == info.get_default(call_default_factory=True):
                continue
            found[name] = value.shaping() if isinstance(value, StageConfig) else plain[name]
        return found


class Stage(ABC):
    """What every stage declares."""

    #: Its name on the command line, in the job file and in ``decided_by``.
    name: ClassVar[str]
    #: The table of its settings in a job file; empty: the stage's name.
    settings_table: ClassVar[str] = ""
    #: The command that resumes its job; ``{}`` is the output folder.
    resume_command: str = "normpipe run {}"
    #: It adds a dataset to a finished job's, and no run makes it: ``job.toml`` stays as it is.
    beside_job: ClassVar[bool] = False
    #: Increased when the same input and settings give other bytes than before.
    version: ClassVar[int] = 1
    #: Python packages whose version shapes the bytes.
    libraries: tuple[str, ...] = ("pyarrow",)
    #: The stage's StageConfig; each stage names its own class (a mutable attribute may not narrow).
    config: Any
    #: Folders of the datasets it reads and writes, relative to the output folder.
    reads: tuple[str, ...] = ()
    writes: str
    schema: pa.Schema
    #: Shown on the dataset card.
    description: str = ""

    @property
    def table(self) -> str:
        """Return the table of its settings in a job file."""
        return self.settings_table or self.name

    def open(self) -> None:  # noqa: B027 - most stages load nothing
        """Load models, once per worker; a second call does nothing.

        Raises InputError for what the user must fix.
        """

    def close(self) -> None:  # noqa: B027 - most stages hold nothing to close
        """Release what ``open`` started; a second call does nothing."""

    def digests(self) -> dict[str, str]:
        """Return name → sha256 of every file outside the input that shapes results (open first)."""
        return {}

    def settings_for(self, digests: dict[str, str]) -> str:
        """Return the settings, as ``STAGE.KEY=VALUE``, under which it has other ``digests``.

        They go on with a dataset that an earlier release made. Empty if there are none.
        """
        return ""

    @property
    def device_class(self) -> str:
        """Return ``cpu`` or ``cuda``, resolved (open first)."""
        return "cpu"

    def resources(self) -> dict[str, float]:
        """Return what a worker must offer to run this stage: ``GPU`` and ``MEMORY``, in bytes.

        Memory is only requested if some worker declares how much it has.
        """
        return {}


@dataclass
class Scan:
    """What a source found: rows in final order, their labels, and ignored files by suffix."""

    rows: pa.Table
    labels: pa.Table | None = None
    ignored: dict[str, int] = field(default_factory=lambda: dict[str, int]())
    #: False if only the first inputs were scanned (--limit).
    complete: bool = True


class SourceStage(Stage):
    """Makes rows from data outside the job's folder."""

    @property
    @abstractmethod
    def shard_rows(self) -> int:
        """Return the rows of a shard; all later stages keep these shards."""

    @abstractmethod
    def scan(self) -> Scan:
        """Return all rows, in order."""

    def changed(self, known: pa.Table, found: pa.Table) -> list[str]:
        """Return the keys of inputs that differ from when their shard was written.

        ``known`` and ``found`` have the stage's schema and the same keys in the same order.
        """
        return []


class MapStage(Stage):
    """Turns each input row into one or more rows, in batches.

    The engine cuts batches of ``batch_size`` rows within a shard, so that they never depend on
    workers or order. It calls ``prepare`` and ``finish`` for single rows in a thread pool and
    ``compute`` in one thread. Input rows that are not ``ok`` pass through with their reason.
    A SampleError from prepare or finish becomes the row's status; anything else stops the shard.
    """

    #: True: ``compute`` gets every row at its position in the batch, None if it is settled already,
    #: so that a bad row does not move its neighbours to other positions of the network's batch.
    #: False: items are independent, and ``compute`` gets only those to be computed.
    keeps_positions: ClassVar[bool] = False

    def expect(self, rows: Sequence[Row]) -> None:
        """Take notice of the rows of a batch that ``prepare`` will be called with, in order.

        The engine calls it before it submits them, in one thread.
        """

    def relate(
        self,
        rows: Sequence[Row],
        results: Sequence[Any],
        settled: Sequence[list[Row] | None],
        memory: dict[str, Any],
    ) -> Sequence[Any]:
        """Return a batch's results where they depend on the rows before them; else ``results``.

        Args:
            rows: of the batch.
            results: of ``compute``, None for rows that it did not get.
            settled: output rows of an earlier run that are kept, else None.
            memory: what this method remembers; the batches of a shard share it, in order, and it is
                empty at the first.
        """
        return results

    @property
    @abstractmethod
    def batch_size(self) -> int:
        """Return the rows of a batch; the last batch of a shard may be shorter (pad it)."""

    @abstractmethod
    def prepare(self, row: Row) -> Any:
        """Read and decode one row."""

    @abstractmethod
    def compute(self, items: list[Any]) -> Sequence[Any]:
        """Run the network over prepared items; return one result for each, in order."""

    @abstractmethod
    def finish(self, row: Row, item: Any, result: Any) -> list[Row]:
        """Return the output rows (≥ 1) of one input row; encode here."""

    def finish_row(self, row: Row, item: Any, result: Any) -> list[Row]:
        """Return ``finish``'s rows with the common columns filled in."""
        rows = self.finish(row, item, result)
        if not rows:
            raise AssertionError(f"{self.name} lost {row['key']}")
        for out in rows:
            out.setdefault("key", row["key"])
            out.setdefault("parent_key", row["parent_key"])
            out.setdefault("status", "ok")
            out.setdefault("decided_by", self.name)
        return rows

    def refuse(self, row: Row, reason: str) -> Row:
        """Return the output row of an input that this stage cannot use."""
        return {
            "key": row["key"],
            "parent_key": row["parent_key"],
            "status": status_of(reason),
            "reason": reason,
            "decided_by": self.name,
        }

    def pass_through(self, row: Row) -> Row:
        """Return the output row of an input that an earlier stage decided."""
        return {
            "key": row["key"],
            "parent_key": row["parent_key"],
            "status": row["status"],
            "reason": row["reason"],
            "decided_by": row["decided_by"],
        }


class JoinStage(Stage):
    """Joins shard n of several datasets into shard n of its own."""

    #: Columns to read of each dataset in ``reads``; None for all.
    columns: Sequence[str] | None = None

    @abstractmethod
    def join(self, number: int, inputs: list[pa.Table]) -> Iterable[pa.Table]:
        """Return the rows of shard ``number`` as tables, each becoming one row group.

        Each input has, besides its own columns, ``shard``, ``row_group`` and ``row``.
        """


#: The names of a Dask worker's resources.
GPU, MEMORY = "GPU", "MEMORY"


def choose_device(name: str, gpus: int, seen: str, remedy: str) -> str:
    """Return the device of a setting; requesting a missing one is an error, never a fallback.

    Args:
        name: ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:N``.
        gpus: that the library which computes can use.
        seen: what that library sees instead, for the message.
        remedy: what the user can do about it.

    Returns:
        ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        InputError: the device is unknown or missing.
    """
    known = re.fullmatch(r"auto|cpu|cuda(?::(\d+))?", name)
    if known is None:
        raise InputError(f"unknown device '{name}': use auto, cpu, cuda or cuda:N")
    if name == "auto":
        return "cuda" if gpus else "cpu"
    if name != "cpu" and int(known[1] or 0) >= gpus:
        raise InputError(f"device '{name}' is not there ({seen}): {remedy}")
    return name


#: Pattern of a setting that pins a file's digest: a hex sha256, or empty.
DIGEST = r"^([0-9a-f]{64})?$"


def check_digest(file: str, digest: str, setting: str, pin: str) -> None:
    """Raise InputError if a file is not the one that the job pins."""
    if digest != pin:
        raise InputError(
            f"{file} has sha256 {digest}, but {setting} pins {pin}: give the file that was meant, "
            f"or change {setting}"
        )


def sha256_file(path: Path) -> str:
    """Return the hex sha256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
