"""Training and test inputs: a held-out split, or folds that share no subject."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...manifests.arrays import Mask, Rows
from ...manifests.datasets import Description, described, load_description, seeded_folds
from ...pipeline.errors import InputError, nearest
from .listing import Listing, learnt_from_votes, list_faces
from .scores.coverage import UNLABELLED
from .settings import EvaluateConfig
from .tasks import (
    Kind,
    Task,
    find_task,
    occurrence_from,
    of_protocol,
    people_of,
    protocol_task,
    units_of,
)

if TYPE_CHECKING:
    from ...pipeline.read.dataset import ShardDataset

log = logging.getLogger(__name__)

#: Without splits in the labels, one of so many parts of the subjects is for testing.
_PARTS = 5
#: Folders that datasets keep their parts in, by part.
_PART_FOLDERS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "publictest"), "valid"),
    **dict.fromkeys(("test", "testing", "privatetest"), "test"),
}


@dataclass(frozen=True)
class Partition:
    """A division of the data into training and test rows: a split, or one fold.

    Attributes:
        name: for score files: ``split test``, ``fold 1 of 3 (bp4d)``.
        folder: of its model, within the output folder; empty for the output folder itself.
        fold: its number, from 1; None without folds.
        train, test: rows of the listing with known truth (of ``train``: or with votes that are
            learnt); ``test`` includes unusable inputs.
        left_out: inputs of the test part that are not in ``test``, see ``Coverage``.
        dropped: pictures that do not train, as they are in the test part, too.
        notes: warnings for the score.
    """

    name: str
    folder: str
    fold: int | None
    train: Rows
    test: Rows
    left_out: Mapping[str, int] = field(default_factory=lambda: dict[str, int]())
    dropped: int = 0
    notes: tuple[str, ...] = ()


def held_out(
    listing: Listing, task: Task, train_split: str, test_split: str, seed: int
) -> Partition:
    """Split by the label ``split``; without one, test on a fifth of the subjects.

    Raises:
        InputError: no input has that split.
    """
    known = _known(listing, task)
    splits = np.asarray([name or "" for name in listing.column("split")], object)
    if not splits.astype(bool).any():
        if len({*_people(listing)}) < _PARTS:
            raise InputError(
                f"the labels have no column 'split', and fewer than {_PARTS} subjects to hold "
                "some out: add the column, or cross-validate with classify.folds"
            )
        test = _seeded(listing, _PARTS, seed) == 1
        what = "subjects" if any(listing.subjects()) else "inputs"
        part = _divided(listing, task, f"a fifth of the {what}, seed {seed}", ~test, test)
        return replace(part, notes=_random(listing, part, f"a fifth tests, drawn by seed {seed}"))
    found = sorted({str(name) for name in splits[known] if name})
    for wanted in (train_split, test_split):
        if wanted not in found:
            raise InputError(
                f"no labelled input has the split '{wanted}'{nearest(wanted, found)}: the labels "
                f"name {', '.join(found) or 'none'} (classify.train_split, classify.test_split)"
            )
    if train_split == test_split:
        raise InputError(f"the split '{test_split}' cannot both train and test: name two splits")
    train, test = splits == train_split, splits == test_split
    part = _divided(listing, task, f"split {test_split}", train, test)
    return replace(part, notes=_unused(int((known & (splits == "")).sum()), "split"))


def all_of(listing: Listing, task: Task, split: str = "") -> Partition:
    """Return a partition whose ``train`` and ``test`` are all inputs that a model of a task knows.

    For training or testing on one dataset.

    Args:
        split: only inputs of this split; empty: all.

    Raises:
        InputError: there are none.
    """
    rows = np.ones(len(listing), np.bool_)
    if split:
        rows &= np.asarray([name == split for name in listing.column("split")])
    part = _divided(listing, task, f"split {split}" if split else "all", rows, rows)
    if not len(part.test):
        where = f" in split '{split}'" if split else ""
        there = [name for name in part.left_out if name != UNLABELLED]
        hint = f"; there are {', '.join(there)}" if there else ""
        levels = units_of(listing.labels, "intensity")
        if task.kind == "action_units" and any(name in levels for name in task.names):
            hint = (
                ", and there are levels alone: say from which one on a unit occurs, such as "
                "--set evaluate.present_from=2 (DISFA)"
            )
        raise InputError(
            f"{listing.path} has no input with a known label{where} to test on: the model knows "
            f"{', '.join(task.names)}{hint}"
        )
    return part


def foreign_part(listing: Listing, task: Task, split: str, leave_out: bool) -> Partition:
    """Return a partition that tests all labelled inputs of another dataset, or of its split.

    Args:
        leave_out: leave out inputs of classes that the model does not know; else they are tested,
            and are always wrong.

    Raises:
        InputError: no input has a label that the model knows.
    """
    part = all_of(listing, task, split)
    if not leave_out:
        unlabelled = part.left_out.get(UNLABELLED, 0)
        emotions = np.asarray([bool(name) for name in listing.column("emotion")], np.bool_)
        if task.kind == "emotion":
            if split:
                emotions &= np.asarray([name == split for name in listing.column("split")])
            left_out = {UNLABELLED: unlabelled} if unlabelled else {}
            part = replace(part, test=np.flatnonzero(emotions), left_out=left_out)
    where = f"split {split}" if split else "all"
    return replace(part, name=f"{where} of {listing.name}", train=part.train[:0])


def list_elsewhere(
    data: ShardDataset, views: Sequence[str], task: Task, config: EvaluateConfig
) -> Listing:
    """List another dataset to test on, with the occurrence of action units where it is asked for.

    Args:
        data, views: as of ``list_faces``, which says what it raises.
        task: of the model.
    """
    listing = list_faces(data, views, config.variant)
    if config.present_from is None or task.kind != "action_units":
        return listing
    labels, lines = occurrence_from(listing.labels, config.present_from, task.names)
    return replace(listing, labels=labels, notes=(*listing.notes, *lines))


def _divided(
    listing: Listing, task: Task, name: str, train: Mask, test: Mask, fold: int | None = None
) -> Partition:
    """Return the partition of the inputs (N,) of two parts, of those with known truth.

    With ``task.votes`` those with votes but without a majority train, too.
    """
    known = _known(listing, task)
    learnt = known
    if task.votes:
        learnt = known | learnt_from_votes(task, listing.labels)
    lost = np.flatnonzero(test & ~known)
    column = listing.column("emotion") if task.kind == "emotion" else [None] * len(listing)
    left_out = Counter(str(column[row] or UNLABELLED) for row in lost)
    return Partition(
        name, f"fold-{fold}" if fold is not None else "", fold,
        np.flatnonzero(learnt & train), np.flatnonzero(known & test), dict(left_out.most_common()),
    )  # fmt: skip


def _unused(count: int, column: str) -> tuple[str, ...]:
    """Return the warning about labelled inputs that are in no part."""
    if not count:
        return ()
    return (f"{count} labelled inputs have no {column}: they neither train nor test",)


def _random(listing: Listing, part: Partition, how: str) -> tuple[str, ...]:
    """Return what to know of parts that are drawn at random."""
    faces = listing.take(np.union1d(part.train, part.test))
    people = [name for name in faces.subjects() if name is not None]
    without = len(faces) - len(people)
    if not people:
        who = (
            "people are unknown, so one may be in both parts and the score too good: give a list "
            "with a column 'subject' or 'split'"
        )
    elif without:
        who = f"{len({*people})} people, and {without} inputs without a subject, a person each"
    else:
        who = f"{len({*people})} people"
    notes = [f"parts drawn at random ({how}): {len(faces)} inputs; {who}"]
    folders = {one for key in faces.column("key") for one in str(key).split("/")[1:-1]}
    found = {_PART_FOLDERS[one.lower()]: one for one in folders if one.lower() in _PART_FOLDERS}
    if len(found) > 1:
        notes.append(
            f"inputs of the folders {', '.join(sorted(found.values()))} are mixed, as folders are "
            "not read as splits: normpipe run --release folders reads them, as do lists with a "
            "column split"
        )
    return tuple(notes)


def task_of(
    listing: Listing, kind: Kind | Literal["auto"], names: Sequence[str], which: str
) -> tuple[Listing, Task]:
    """Return what is predicted, and the listing with its labels: see ``protocol_task``.

    Args:
        which: ``classify.folds``; the name of a dataset means its protocol.

    Raises:
        InputError: as ``find_task`` and ``protocol_task``.
    """
    if which not in described():
        return listing, find_task(listing.labels, kind, names)
    labels, task, lines = protocol_task(listing.labels, kind, names, load_description(which))
    for line in lines:
        log.info("%s", line)
    return replace(listing, labels=labels), task


def folds(listing: Listing, task: Task, which: str, seed: int) -> list[Partition]:
    """Return the partitions of a cross-validation: each fold is tested once.

    Args:
        which: a number (subjects are assigned at random by the seed), ``labels`` (the column
            ``fold``), or a dataset with published folds (``bp4d``, ``disfa``) or with a published
            split of people (``bp4d`` for intensities), which is then the only partition.

    Raises:
        InputError: no such folds, or a subject that they do not name.
    """
    known = _known(listing, task)
    if which.isdecimal():
        if int(which) < 2:
            raise InputError(f"folds = {which}: at least two are needed")
        what = "subjects" if any(listing.subjects()) else "inputs"
        numbers, source = _seeded(listing, int(which), seed), f"{what} dealt out, seed {seed}"
    elif which == "labels":
        column = listing.column("fold")
        if not any(value is not None for value in column):
            raise InputError("folds = labels, but the labels have no column 'fold'")
        numbers = np.asarray([-1 if value is None else int(value) for value in column])
        source = "the labels' own"
    else:
        description, fold_of = _published(task, which)
        source = f"{which}, {of_protocol(task, description.protocol(task.kind))}"
        if not isinstance(next(iter(fold_of.values())), int):
            return [_published_split(listing, task, fold_of, which, source)]
        people = _named(listing, known, fold_of, which)
        numbers = np.asarray([fold_of.get(name, -1) for name in people], np.int64)
    names = sorted({int(n) for n in numbers[known] if n >= 0})
    if len(names) < 2:
        raise InputError(f"folds = {which}: fewer than two folds have labelled inputs")
    inside = numbers >= 0
    parts = [
        _divided(
            listing, task, f"fold {number} of {len(names)} ({source})",
            inside & (numbers != number), inside & (numbers == number), number,
        )
        for number in names
    ]  # fmt: skip
    if not which.isdecimal():
        notes = _unused(int((known & ~inside).sum()), "fold")
        return [replace(part, notes=notes) for part in parts]
    notes = _random(listing, parts[0], f"{which} folds, seed {seed}")
    return [replace(part, notes=notes) for part in parts]


def _published(task: Task, which: str) -> tuple[Description, dict[str, int] | dict[str, str]]:
    """Return a dataset and each subject's fold, or ``train`` or ``test``, as it publishes them."""
    try:
        description = load_description(which)
        protocol = description.protocol(task.kind)
        if protocol.test and not protocol.folds:
            parts = description.split_of(task.kind)
            return description, {who: str(part) for who, part in parts.items()}
        return description, description.fold_of(task.kind)
    except (KeyError, ValueError) as error:
        raise InputError(str(error.args[0])) from None


def _published_split(
    listing: Listing, task: Task, part_of: Mapping[str, Any], which: str, source: str
) -> Partition:
    names = _named(listing, _known(listing, task), part_of, which)
    parts = np.asarray([part_of.get(name, "") for name in names], object)
    return _divided(listing, task, f"split of {source}", parts == "train", parts == "test")


def _named(listing: Listing, known: Mask, part_of: Mapping[str, Any], which: str) -> list[str]:
    """Return the subjects of all rows. Raises InputError for labelled ones without a fold.

    Unlabelled pictures may show other subjects.
    """
    subjects = listing.subjects()
    labelled = [name for name, is_known in zip(subjects, known, strict=True) if is_known]
    if without := sum(name is None for name in labelled):
        raise InputError(
            f"{without} labelled inputs have no subject, and the folds of {which} are of people: "
            "give each a subject in the list, or leave its labels empty"
        )
    unknown = sorted({str(name) for name in labelled if name not in part_of})
    if unknown:
        raise InputError(
            f"{which} has no fold for the subject '{unknown[0]}' ({len(unknown)} in all): name "
            "subjects as the dataset does, or use folds = labels with a column 'fold'"
        )
    return [str(name) for name in subjects]


def _known(listing: Listing, task: Task) -> Mask:
    truth = np.isfinite(task.truth(listing.labels))
    return np.asarray(truth.reshape(len(listing), -1).any(axis=1), np.bool_)


def _seeded(listing: Listing, count: int, seed: int) -> NDArray[np.int64]:
    """Return (N,) folds from 1; an input without a subject counts as a person of its own."""
    people = _people(listing)
    try:
        fold_of = seeded_folds(sorted({*people}), count, seed)
    except ValueError as error:
        raise InputError(str(error)) from None
    return np.asarray([fold_of[name] for name in people], np.int64)


def _people(listing: Listing) -> list[str]:
    return people_of(listing.subjects(), listing.column("parent_key"))
