"""Free the space of a dataset that the next run can make again, byte for byte; refuse others."""

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ...manifests.schema import IMAGE
from ..errors import InputError, nearest
from ..run.plan import Inputs, fingerprint
from ..run.tries import clear
from ..store.commit import remove_file, write_json
from ..store.job_file import FLOW, read_job
from ..store.lock import locked
from ..store.shards import ShardFolder
from ..store.storage import is_store, location
from ..store.tombstones import WITHDRAWN, refuse_unfinished
from .withdraw import described_datasets


@dataclass(frozen=True)
class Cleaning:
    """What cleaning a dataset frees, and what it costs.

    Attributes:
        dataset, stage: the dataset to remove, and the stage that makes it again.
        waiting: datasets that refer to its images, and cannot be opened until it is back.
    """

    dataset: str
    stage: str
    device_class: str
    shards: int
    rows: int
    bytes: int
    waiting: tuple[str, ...]

    def lines(self) -> list[str]:
        """Return what a user must know before confirming."""
        lines = [
            f"frees {self.bytes:,} bytes: {self.dataset}, {self.rows} rows in {self.shards} shards",
            f"costs: the next normpipe run makes these rows again ({self.stage}, on "
            f"{self.device_class}); nothing else is redone. Its settings and weights must be the "
            "same. normpipe run --dry-run then estimates the time",
        ]
        if self.waiting:
            lines.append(f"cannot be opened until then: {', '.join(self.waiting)}")
        return lines


def plan_cleaning(root: Path, name: str) -> Cleaning:
    """Return what cleaning would do; remove nothing.

    Args:
        name: a stage, or the folder of one of its datasets (``normalized/compact``).

    Raises:
        InputError: no such dataset, or it cannot be made again exactly.
    """
    job = read_job(root)
    refuse_unfinished(root)
    made = described_datasets(root)
    dataset = _find(made, name)
    description = made[dataset]
    folder = ShardFolder(root / dataset)
    records = folder.records()
    if not records:
        raise InputError(f"{folder.path} has no finished shard: there is nothing to free")
    if not description.get("reads"):
        raise InputError(f"{dataset} cannot be made again from other data: it is kept")
    if description["stage"] not in {entry["stage"] for entry in job.get(FLOW, [])}:
        raise InputError(
            f"{dataset} was made by 'normpipe {description['stage']}', which no run repeats: it is "
            f"kept; to be rid of it, remove the folders {folder.path} and {folder.metadata_folder}"
        )
    _refuse_unlike(root, folder, description)
    for source in description["reads"]:
        if not made.get(source, {}).get("reads"):
            _refuse_missing(location(job.get("input_root", "")), ShardFolder(root / source))
    return Cleaning(
        dataset,
        description["stage"],
        description["device_class"],
        len(records),
        sum(record.rows for record in records.values()),
        sum(record.bytes for record in records.values()),
        tuple(_referring(root, dataset, made)),
    )


def clean(root: Path, name: str) -> Cleaning:
    """Remove a dataset's shards, index and manifest; keep its description.

    If killed, it leaves a dataset with fewer shards; the same command continues, and a run makes
    the dataset complete. Raises InputError as ``plan_cleaning`` does.
    """
    read_job(root)
    with locked(root):
        clear(root)
        cleaning = plan_cleaning(root, name)
        folder = ShardFolder(root / cleaning.dataset)
        # First: it tells verify that shards are missing on purpose.
        write_json(folder.cleaned_path, {"rows": cleaning.rows})
        for path in (folder.index_path, folder.manifest_path):
            remove_file(path)
        # From the last one, so that the remaining numbers have no gap.
        for number in sorted(folder.records(), reverse=True):
            folder.remove(number)
    return cleaning


def _find(made: dict[str, dict[str, Any]], name: str) -> str:
    if name in made:
        return name
    found = [dataset for dataset, about in made.items() if about.get("stage") == name]
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(f"'{name}' made several datasets: give one, --stage {found[0]}")
    stages = [str(about.get("stage")) for about in made.values()]
    raise InputError(f"no dataset of a stage '{name}'{nearest(name, [*stages, *made])}")


def _refuse_unlike(root: Path, folder: ShardFolder, description: dict[str, Any]) -> None:
    """Raise InputError if a run would not make exactly these shards again."""
    for name, before in description["libraries"].items():
        try:
            now = version(name)
        except PackageNotFoundError:
            now = "absent"
        if now != before:
            raise InputError(
                f"{folder.path} was made with {name} {before}, installed is {now}: a run would not "
                "make it the same; install that version, or redo it with normpipe run --overwrite"
            )
    inputs = Inputs(root, description["reads"])
    for number, record in folder.records().items():
        mark = fingerprint(description, inputs.digests(number))
        if record.quarantined or record.fingerprint != mark:
            raise InputError(
                f"{folder.shard(number)} is not what a run would make again (its input is gone "
                "or changed, or it was quarantined): bring it up to date with normpipe run first"
            )
        table = folder.read(number, ["parent_key", "reason"]).to_pylist()
        gone = [row["parent_key"] for row in table if row["reason"] == WITHDRAWN]
        if len(set(gone)) < len(gone):
            raise InputError(
                f"{folder.shard(number)} has neutral rows of several faces in one withdrawn "
                "image, which a run would not make again: it is kept"
            )


def _refuse_missing(root: Path, folder: ShardFolder) -> None:
    """Raise InputError if an input file is gone, or was changed since it was ingested."""
    columns = ["status", "path", "size_bytes", "modified_ns"]
    for number in folder.records():
        if not {*columns} <= {*folder.schema_names(number)}:
            return  # no references to files: its rows are generated
        for row in folder.read(number, columns).to_pylist():
            if row["status"] != "ok":
                continue
            try:
                found = (root / row["path"]).stat()
            except NotADirectoryError:
                raise InputError(
                    f"{row['path']} is in an archive or a table, where it cannot be told whether "
                    "it is unchanged: nothing was removed"
                ) from None
            except OSError:
                raise InputError(
                    f"{root / row['path']} is gone, so its rows could not be made again: nothing "
                    "was removed"
                ) from None
            # The times of objects are in seconds.
            modified = int(found.st_mtime) * 10**9 if is_store(root) else found.st_mtime_ns
            if (found.st_size, modified) != (row["size_bytes"], row["modified_ns"]):
                raise InputError(
                    f"{root / row['path']} was changed since it was ingested, so its rows would "
                    "change: nothing was removed"
                )


def _referring(root: Path, dataset: str, made: dict[str, dict[str, Any]]) -> list[str]:
    """Return the datasets that read this one and contain no images themselves."""
    found: list[str] = []
    for name, about in made.items():
        folder = ShardFolder(root / name)
        number = next(iter(folder.records()), None)
        if dataset in about.get("reads", []) and number is not None:
            kinds = [field.type for field in folder.schema(number)]
            if IMAGE not in kinds:
                found.append(name)
    return found
