"""Training and test inputs: a held-out split, or folds that share no subject."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...manifests.arrays import Floats, Rows
from ...manifests.datasets import Description, described, load_description, seeded_folds
from ...pipeline.errors import InputError, nearest
from .listing import Listing
from .tasks import Kind, Task, find_task, of_protocol, people_of, protocol_task

log = logging.getLogger(__name__)

#: Without splits in the labels, one of so many parts of the subjects is for testing.
_PARTS = 5


@dataclass(frozen=True)
class Partition:
    """A division of the data into training and test rows: a split, or one fold.

    Attributes:
        name: for score files: ``split test``, ``fold 1 of 3 (bp4d)``.
        folder: of its model, within the output folder; empty for the output folder itself.
        fold: its number, from 1; None without folds.
        train, test: rows of the listing with known truth; ``test`` includes unusable inputs.
    """

    name: str
    folder: str
    fold: int | None
    train: Rows
    test: Rows


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
        folds = _seeded(listing, _PARTS, seed)
        test, name = known & (folds == 1), f"a fifth of the subjects, seed {seed}"
        return Partition(name, "", None, np.flatnonzero(known & (folds != 1)), np.flatnonzero(test))
    found = sorted({str(name) for name in splits[known] if name})
    for wanted in (train_split, test_split):
        if wanted not in found:
            raise InputError(
                f"no labelled input has the split '{wanted}'{nearest(wanted, found)}: the labels "
                f"name {', '.join(found) or 'none'} (classify.train_split, classify.test_split)"
            )
    if train_split == test_split:
        raise InputError(f"the split '{test_split}' cannot both train and test: name two splits")
    train, test = (
        np.flatnonzero(known & (splits == train_split)),
        np.flatnonzero(known & (splits == test_split)),
    )
    return Partition(f"split {test_split}", "", None, train, test)


def all_of(listing: Listing, task: Task, split: str = "") -> Rows:
    """Return (N,) the labelled inputs of a split, or all: for training or testing on one dataset.

    Raises:
        InputError: there are none.
    """
    rows = _known(listing, task)
    if split:
        rows &= np.asarray([name == split for name in listing.column("split")])
    if not rows.any():
        where = f" in split '{split}'" if split else ""
        raise InputError(f"{listing.path} has no input with a known label{where} to test on")
    return np.flatnonzero(rows)


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
        numbers, source = _seeded(listing, int(which), seed), f"subjects dealt out, seed {seed}"
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
            return [_published_split(listing, known, fold_of, (which, source))]
        people = _named(listing, known, fold_of, which)
        numbers = np.asarray([fold_of.get(name, -1) for name in people], np.int64)
    names = sorted({int(n) for n in numbers[known] if n >= 0})
    if len(names) < 2:
        raise InputError(f"folds = {which}: fewer than two folds have labelled inputs")
    inside = known & (numbers >= 0)
    return [
        Partition(
            f"fold {number} of {len(names)} ({source})", f"fold-{number}", number,
            np.flatnonzero(inside & (numbers != number)),
            np.flatnonzero(inside & (numbers == number)),
        )
        for number in names
    ]  # fmt: skip


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
    listing: Listing,
    known: NDArray[np.bool_],
    part_of: Mapping[str, Any],
    which: tuple[str, str],
) -> Partition:
    """``which``: the dataset, and its name for score files."""
    names = _named(listing, known, part_of, which[0])
    parts = np.asarray([part_of.get(name, "") for name in names], object)
    train, test = (np.flatnonzero(known & (parts == side)) for side in ("train", "test"))
    return Partition(f"split of {which[1]}", "", None, train, test)


def _named(
    listing: Listing, known: NDArray[np.bool_], part_of: Mapping[str, Any], which: str
) -> list[str]:
    """Return the subjects of all rows. Raises InputError for labelled ones without a fold.

    Unlabelled pictures may show other subjects.
    """
    subjects = listing.subjects()
    labelled = [name for name, is_known in zip(subjects, known, strict=True) if is_known]
    unknown = sorted({str(name) for name in labelled if name not in part_of})
    if unknown:
        raise InputError(
            f"{which} has no fold for the subject '{unknown[0]}' ({len(unknown)} in all): name "
            "subjects as the dataset does, or use folds = labels with a column 'fold'"
        )
    return [str(name) for name in subjects]


def _known(listing: Listing, task: Task) -> NDArray[np.bool_]:
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


def check_partition(
    task: Task, listing: Listing, part: Partition, shared_subjects: bool
) -> list[str]:
    """Check labels and subjects before hours of training.

    Args:
        part: training and test rows of ``listing``.
        shared_subjects: allow a subject on both sides.

    Returns:
        Warnings: labels without an example in the test set.

    Raises:
        InputError: nothing to learn from, a label that never occurs in training, or subjects on
            both sides.
    """
    check_training(task, listing, part)
    if not len(part.test):
        raise InputError(f"{part.name}: no labelled input to test on: see 'normpipe status'")
    if not shared_subjects:
        _refuse_shared(listing.subjects(), part)
    tested = _counts(task, task.truth(listing.labels)[part.test])
    absent = [name for name, count in zip(task.names, tested, strict=True) if not count]
    return [f"the test set has no example of {', '.join(absent)}"] if absent else []


def check_training(task: Task, listing: Listing, part: Partition) -> None:
    """Raise InputError if there is nothing to learn from, or a label never occurs."""
    train = part.train[listing.usable[part.train]]
    if not len(train):
        raise InputError(
            f"{part.name}: no usable labelled input to train on: see 'normpipe status'"
        )
    seen = _counts(task, task.truth(listing.labels)[train])
    never = [name for name, count in zip(task.names, seen, strict=True) if not count]
    if never:
        raise InputError(
            f"{part.name}: no example of {', '.join(never)} among the {len(train)} training "
            "inputs: leave it out with classify.labels, or split differently"
        )


def _refuse_shared(subjects: Sequence[Any], part: Partition) -> None:
    on_both = {subjects[i] for i in part.train} & {subjects[i] for i in part.test} - {None}
    if on_both:
        some = ", ".join(sorted(map(str, on_both))[:3])
        raise InputError(
            f"{part.name}: {len(on_both)} subjects are in both training and test ({some} …): the "
            "score would measure how well they are recognized; split by subject, or set "
            "classify.shared_subjects=true"
        )


def _counts(task: Task, truth: Floats) -> NDArray[np.int64]:
    """Return (L,) how often each label occurs."""
    if task.kind == "emotion":
        known = truth[np.isfinite(truth)].astype(np.int64)
        return np.bincount(known, minlength=len(task.names))
    return np.asarray((np.nan_to_num(truth) > 0).sum(0), np.int64)
