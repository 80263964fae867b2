"""Withdraw people from every dataset of a job's folder: plan the changes, and start them.

An input of a withdrawn person keeps its rows, so that positions and counts stay correct, but their
content is removed: ``rejected``, reason ``withdrawn``, and a key made from the position.
``withdrawal`` carries out the changes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..errors import InputError, nearest
from ..read.exclusions import read_exclusions
from ..run.plan import Inputs, fingerprint
from ..run.tries import clear
from ..store.commit import fsync_folder, remove_temporaries, write_json
from ..store.job_file import read_job
from ..store.labels import LABELS_FILE, label_rows, labels_digest, read_labels
from ..store.lock import locked
from ..store.shards import ShardFolder, datasets_in
from ..store.storage import parquet_file
from ..store.tombstones import (
    INTENT_FILE,
    WITHDRAWN,
    Withdrawal,
    Withdrawn,
    new_salt,
    read_withdrawn,
    today,
)
from .traces import find_traces
from .withdrawal import SHEET_FILE, Intent, ShardStep, carry_out


@dataclass
class _Person:
    """The people to withdraw, and where they occur."""

    subjects: list[str]
    keys: list[str]
    #: Key of each of their inputs → the neutral key that replaces it.
    inputs: dict[str, str] = field(default_factory=lambda: dict[str, str]())
    #: All their keys, in labels and datasets.
    names: set[str] = field(default_factory=lambda: set[str]())
    rows: int = 0


def withdraw(root: Path, subjects: Sequence[str], keys: Sequence[str]) -> list[Intent]:
    """Withdraw people; first finish an earlier withdrawal that was stopped.

    Returns:
        The withdrawals carried out: the earlier one, the new one, both or none.

    Raises:
        InputError: not a job's folder, or an unknown name.
    """
    read_job(root)
    done: list[Intent] = []
    with locked(root):
        clear(root)
        before = carry_out(root)
        if before is not None:
            done.append(before)
        elif not subjects and not keys:
            raise InputError("no one to withdraw: give --subject NAME or --key KEY")
        remove_temporaries(root)
        _remove_uncommitted(root)
        intent = plan_withdrawal(root, subjects, keys)
        if intent is not None:
            write_json(root / INTENT_FILE, intent.model_dump(mode="json"))
            carry_out(root)
            done.append(intent)
    return done


def described_datasets(root: Path) -> dict[str, dict[str, Any]]:
    """Return the datasets of a job's folder and their descriptions, inputs first."""
    found = {name: one.description() or {} for name, one in datasets_in(root).items()}
    order = TopologicalSorter({name: made.get("reads", []) for name, made in found.items()})
    return {name: found[name] for name in order.static_order() if name in found}


def _remove_uncommitted(root: Path) -> None:
    """Remove shards without a record: they do not exist, but a face may be in them."""
    for name in described_datasets(root):
        folder = ShardFolder(root / name)
        records = folder.records()
        uncommitted = [number for number in folder.shard_sizes() if number not in records]
        for number in uncommitted:
            folder.remove(number)
        if uncommitted:  # a power cut must not bring them back
            fsync_folder(folder.path)


def plan_withdrawal(root: Path, subjects: Sequence[str], keys: Sequence[str]) -> Intent | None:
    """Return the changes to make; None if there is nothing to do. Reads only."""
    made = described_datasets(root)
    read_exclusions(root)  # a damaged file would stop the withdrawal half-way
    before = read_withdrawn(root) or Withdrawn(salt=new_salt())
    person = _Person(list(subjects), list(keys))
    labels = read_labels(root / LABELS_FILE) if (root / LABELS_FILE).is_file() else None
    for name, description in made.items():
        if not description.get("reads"):
            _find_inputs(ShardFolder(root / name), labels, person)
    _refuse_unknown(root, person, labels, before)
    if not person.names:
        return None
    relabelled = _relabelled(labels, person, made)
    steps = _steps(root, made, person, relabelled)
    withdrawal = Withdrawal(
        on=today(),
        by=(*(["subject"] if subjects else []), *(["key"] if keys else [])),
        inputs=len(person.inputs),
        rows=person.rows,
    )
    sheet = [SHEET_FILE] if (root / SHEET_FILE).is_file() else []
    files, remains = find_traces(root, list(made), person.names)
    return Intent(
        after=before.adding(person.names, person.subjects, withdrawal),
        steps=tuple(steps),
        relabelled=tuple(relabelled),
        derived=tuple(n for n in made if ShardFolder(root / n).manifest_path.is_file()),
        files=(*sheet, *files),
        remains=tuple(remains),
    )


def _find_inputs(folder: ShardFolder, labels: pa.Table | None, person: _Person) -> None:
    """Add a source's inputs of a person, and the neutral keys that replace them."""
    if labels is not None and "subject" in labels.column_names:
        pairs = zip(labels["key"].to_pylist(), labels["subject"].to_pylist(), strict=True)
        person.names.update(key for key, subject in pairs if subject in person.subjects)
    else:
        labels = None
    for number in folder.records():
        table = _columns(folder, number, ["key", "reason"])
        keys: list[str] = table["key"].to_pylist()
        who: list[str | None] = [None] * len(keys)
        if labels is not None:
            column = table["key"].combine_chunks()
            who = labels["subject"].take(label_rows(column, column, labels)).to_pylist()
        for row, (key, reason) in enumerate(zip(keys, table["reason"].to_pylist(), strict=True)):
            if reason != WITHDRAWN and (key in person.keys or who[row] in person.subjects):
                # No file name gives such a key: a "%" in it would be encoded.
                person.inputs[key] = f"{key.partition('/')[0]}/%withdrawn-{number}-{row}"
    person.names.update(person.inputs)


def _columns(folder: ShardFolder, number: int, names: list[str]) -> pa.Table:
    try:
        with parquet_file(folder.shard(number)) as file:
            return file.read(columns=names)
    except (OSError, pa.ArrowException) as error:
        line = str(error).splitlines()[0]
        raise InputError(
            f"cannot read {folder.shard(number)}: {line}; repair it first ('normpipe verify', "
            "'normpipe run'), to find out who is in it"
        ) from None


def _refuse_unknown(
    root: Path, person: _Person, labels: pa.Table | None, before: Withdrawn
) -> None:
    """Raise InputError for unknown people; skip those who were withdrawn before."""
    earlier = before.found(person.keys, before.keys)
    for key in person.keys:
        if key in person.inputs or key in earlier:
            continue
        image = key.partition("#")[0]
        if image in person.inputs or _is_input(root, image):
            raise InputError(
                f"{key} is not an input but was made from one, which would bring it back: give "
                f"--key {image} (that withdraws all faces in it)"
            )
        raise InputError(
            f"no input has the key {key}: keys are those in manifest/, such as "
            "dataset/folder/image.jpg"
        )
    known: set[str] = set()
    if labels is not None and "subject" in labels.column_names:
        known = {name for name in labels["subject"].to_pylist() if name}
    for subject in person.subjects:
        if subject in known or before.found([subject], before.subjects):
            continue
        if not known:
            raise InputError(
                f"{root / LABELS_FILE} names no subjects: withdraw by --key, once for each input"
            )
        raise InputError(f"no subject '{subject}' in the labels{nearest(subject, sorted(known))}")


def _is_input(root: Path, key: str) -> bool:
    for name, description in described_datasets(root).items():
        if not description.get("reads"):
            folder = ShardFolder(root / name)
            for number in folder.records():
                if key in _columns(folder, number, ["key"])["key"].to_pylist():
                    return True
    return False


def _relabelled(
    labels: pa.Table | None, person: _Person, made: dict[str, dict[str, Any]]
) -> list[str]:
    """Return the datasets whose shards contain the current labels, if any of these are removed."""
    if labels is None or not person.names.intersection(labels["key"].to_pylist()):
        return []
    digest = labels_digest(labels)
    return [n for n, about in made.items() if about.get("digests", {}).get("labels") == digest]


def _steps(
    root: Path, made: dict[str, dict[str, Any]], person: _Person, relabelled: Iterable[str]
) -> list[ShardStep]:
    """Return the shards that change, or whose records change, inputs first."""
    steps: list[ShardStep] = []
    rewritten: set[tuple[str, int]] = set()
    for name, description in made.items():
        folder, reads = ShardFolder(root / name), description.get("reads", [])
        inputs = Inputs(root, reads)
        for number, record in folder.records().items():
            rows = _rows(folder, number, person)
            person.rows += len(rows)
            if rows:
                rewritten.add((name, number))
            wanted = fingerprint(description, inputs.digests(number))
            current = bool(reads) and record.fingerprint == wanted
            moved = name in relabelled or any((read, number) in rewritten for read in reads)
            if rows or (moved and current):
                steps.append(
                    ShardStep(
                        dataset=name,
                        shard=number,
                        sha256=record.sha256,
                        fingerprint=None if current else record.fingerprint,
                        quarantined=record.quarantined,
                        why=record.why,
                        rows=rows,
                    )
                )
    return steps


def _rows(folder: ShardFolder, number: int, person: _Person) -> dict[int, tuple[str, str]]:
    """Return position → neutral key and parent_key of a person's rows in a shard."""
    table = _columns(folder, number, ["key", "parent_key"])
    rows: dict[int, tuple[str, str]] = {}
    pairs = zip(table["key"].to_pylist(), table["parent_key"].to_pylist(), strict=True)
    for place, (key, parent) in enumerate(pairs):
        if parent in person.inputs:
            person.names.add(key)
            # Keep which face and variant it was; a key of another form might contain a name.
            tail = key.removeprefix(parent) if key.startswith(parent) else f"#row{place}"
            rows[place] = (person.inputs[parent] + tail, person.inputs[parent])
    return rows
