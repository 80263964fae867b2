"""What is left to do: decided by fingerprints, never by times."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ...manifests.schema import SCHEMA_VERSION
from ...manifests.vocabularies import is_failure
from ..config import bracketed, differences
from ..errors import OutputError
from ..stage import MapStage, SourceStage, Stage, sha256_file
from ..store.shards import ShardFolder, ShardRecord


def describe(stage: Stage) -> dict[str, Any]:
    """Return all that shapes a stage's results except its input (open the stage first)."""
    versions: dict[str, str] = {}
    for name in stage.libraries:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "absent"
    return {
        "schema_version": SCHEMA_VERSION,
        "stage": stage.name,
        "version": stage.version,
        "settings": stage.config.shaping(),
        "digests": stage.digests(),
        "libraries": versions,
        "device_class": stage.device_class,
        "reads": list(stage.reads),
    }


def fingerprint(description: dict[str, Any], inputs: Sequence[str]) -> str:
    """Return the hex sha256 of a description and of ``inputs``, each input shard's sha256."""
    text = json.dumps([description, list(inputs)], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def refuse_other_settings(stage: Stage, folder: ShardFolder, description: dict[str, Any]) -> None:
    """Raise OutputError if ``folder`` was made with other settings, naming what differs."""
    old = folder.description()
    if old is None or not folder.records():
        return
    new: dict[str, Any] = json.loads(json.dumps(description))
    settings = differences(old.get("settings", {}), new["settings"], f"{stage.table}.")
    before, after = ({**made, "settings": None} for made in (old, new))
    others = differences(before, after)
    if settings or others:
        # Users set digests through settings, except those of labels, which joins read; they do not
        # set versions.
        set_by_user = settings or (
            isinstance(stage, MapStage) and any(line.startswith("digests.") for line in others)
        )
        root = folder.path.parents[stage.writes.count("/")]
        command = stage.resume_command.format(root)
        hint = f" ('{command}' without these --set continues it)" if set_by_user else ""
        shipped = stage.settings_for(old.get("digests", {}))
        if shipped:
            hint = f" ('{command} --set {shipped}' continues it)"
        raise OutputError(
            f"{folder.path} was made with other settings{bracketed([*settings, *others])}: go back "
            f"to the old settings{hint}, choose another --output{_variant_hint(stage)}, or redo "
            "the stage with --overwrite"
        )


def _variant_hint(stage: Stage) -> str:
    return " or another variant name" if "/" in stage.writes else ""


#: Stands for an input shard that is not committed.
ABSENT = "absent"


@dataclass
class StagePlan:
    """A stage's shards: ``done`` are current, ``todo`` are to be made, ``stale`` of other input."""

    done: dict[int, ShardRecord] = field(default_factory=lambda: dict[int, ShardRecord]())
    todo: list[int] = field(default_factory=lambda: list[int]())
    stale: list[int] = field(default_factory=lambda: list[int]())


def input_digests(root: Path, reads: Sequence[str], number: int) -> list[str]:
    """Return the sha256 of shard ``number`` in every dataset that a stage reads."""
    return _digests(ShardFolder(root / name).record(number) for name in reads)


def _digests(records: Iterable[ShardRecord | None]) -> list[str]:
    return [record.sha256 if record else ABSENT for record in records]


class Inputs:
    """``input_digests`` for all shards, from records that are read once."""

    def __init__(self, root: Path, reads: Sequence[str]) -> None:
        self.records = [ShardFolder(root / name).records() for name in reads]

    def digests(self, number: int) -> list[str]:
        """Return the sha256 of shard ``number`` in every dataset that the stage reads."""
        return _digests(records.get(number) for records in self.records)


def is_current(record: ShardRecord, wanted: str, retry: Stage | None = None) -> bool:
    """Return whether a committed shard is what this job would write.

    ``retry``: the stage whose own failures are retried; those of earlier stages do not count.
    """
    return record.fingerprint == wanted and not (retry and _failed_at(record, retry.name))


def _failed_at(record: ShardRecord, stage: str) -> bool:
    reasons = [mark.partition(":") for mark in record.reasons]
    return any(by == stage and is_failure(reason) for by, _, reason in reasons)


def plan_stage(
    root: Path, stage: Stage, description: dict[str, Any], retry_failed: bool = False
) -> StagePlan:
    """Compare a stage's shards with its input's. Reads records only."""
    plan = StagePlan()
    own = ShardFolder(root / stage.writes).records()
    inputs = Inputs(root, stage.reads)
    for number in inputs.records[0]:
        digests = inputs.digests(number)
        wanted = fingerprint(description, digests)
        record = own.get(number)
        if record is not None and is_current(record, wanted, stage if retry_failed else None):
            plan.done[number] = record
        else:
            plan.todo.append(number)
            # An input that has to be made again will most likely be the same as before.
            if record is not None and record.fingerprint != wanted and ABSENT not in digests:
                plan.stale.append(number)
    return plan


#: What may differ between machines that make the same dataset, up to rounding of pixels.
_MACHINE_DEPENDENT = ("device_class", "libraries")


def is_complete(root: Path, flow: Sequence[Stage]) -> bool:
    """Return whether everything that a flow makes is there, made with its settings on any machine.

    Reads descriptions and records only. The stages need not be open.
    """
    return all(_is_complete(root, stage) for stage in flow)


def _is_complete(root: Path, stage: Stage) -> bool:
    folder = ShardFolder(root / stage.writes)
    made = folder.description()
    if made is None or not folder.manifest_path.is_file():  # written last
        return False
    if differences(_portable(made), _portable(describe(stage))):
        return False
    if isinstance(stage, SourceStage):
        rows = sum(record.rows for record in folder.records().values())
        return rows >= stage.scan().rows.num_rows
    return not plan_stage(root, stage, made).todo


def _portable(description: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in description.items() if name not in _MACHINE_DEPENDENT}
    return json.loads(json.dumps(kept))


class Retry:
    """Which shards of a job a retry may update, keeping their settled rows.

    A shard's settled rows are valid as long as its input's settled rows are unchanged: the input
    is untouched, or was only updated in this run. All other shards are made again completely.
    """

    def __init__(self, root: Path, flow: Sequence[Stage]) -> None:
        """Remember the shards' digests; call before anything is written."""
        self._root = root
        self._flow = list(flow)
        names = {name for stage in flow for name in (*stage.reads, stage.writes)}
        self._before = {
            name: {n: r.sha256 for n, r in ShardFolder(root / name).records().items()}
            for name in names
        }
        self._updated: set[tuple[str, int]] = set()

    def keeps_settled(self, stage: Stage, description: dict[str, Any], number: int) -> bool:
        """Return whether a shard may keep its settled rows, and note that it is updated."""
        folder = ShardFolder(self._root / stage.writes)
        record = folder.record(number)
        before = [self._before[name].get(number, ABSENT) for name in stage.reads]
        if record is None or record.fingerprint != fingerprint(description, before):
            return False
        for name, digest in zip(stage.reads, before, strict=True):
            now = ShardFolder(self._root / name).record(number)
            same = now is not None and now.sha256 == digest
            if not same and (name, number) not in self._updated:
                return False
        if sha256_file(folder.shard(number)) != record.sha256:  # damaged: no row can be trusted
            return False
        self.note_updated(stage.writes, number)
        return True

    def note_updated(self, name: str, number: int) -> None:
        """Note that a shard is rewritten with its settled rows unchanged."""
        self._updated.add((name, number))

    def failed_inputs(self, name: str, number: int) -> set[str]:
        """Return the keys of a source's shard that failed in it, or in a dataset made from it."""
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
