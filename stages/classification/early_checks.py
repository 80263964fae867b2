"""Checks before hours of training: is there something to learn, and does the test test it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ...manifests.arrays import Floats, Mask
from ...pipeline.errors import InputError
from .listing import Listing, photographs
from .protocol import Partition, all_of, folds, foreign_part, held_out
from .settings import ClassifyConfig
from .tasks import Task

log = logging.getLogger(__name__)


def planned_parts(
    config: ClassifyConfig, listing: Listing, task: Task, other: Listing | None, split: str
) -> list[Partition]:
    """Choose which inputs train and which test, check them, and log what is odd about them.

    Args:
        other: another dataset to test on; then the training split of ``listing`` trains, or all.
        split: of ``other``; empty: all.

    Raises:
        InputError: data that ``check_partition`` refuses, or settings that exclude each other.
    """
    sources = photographs(listing)
    there: list[str | None] = []
    if other is not None:
        if config.folds:
            raise InputError("folds and another test dataset exclude each other: give only one")
        splits = {name for name in listing.column("split") if name}
        own = config.train_split if config.train_split in splits else ""
        part = all_of(listing, task, own)
        parts = [replace(part, name="cross-dataset", test=part.test[:0], left_out={})]
        there = photographs(other.take(foreign_part(other, task, split, bool(config.labels)).test))
        if config.drop_duplicates and {config.train_split, config.test_split} <= splits:
            # The same faces train as without another dataset, so one training serves both tests.
            own_test = held_out(listing, task, config.train_split, config.test_split, config.seed)
            there = [*there, *(sources[row] for row in own_test.test)]
    elif config.folds:
        parts = folds(listing, task, config.folds, config.seed)
    else:
        parts = [held_out(listing, task, config.train_split, config.test_split, config.seed)]
    for note in dict.fromkeys(note for part in parts for note in part.notes):
        log.warning("%s", note)
    planned: list[Partition] = []
    for part in parts:
        within = there if other is not None else [sources[row] for row in part.test]
        found, warnings = without_duplicates(part, sources, within, config.drop_duplicates)
        if other is not None:
            check_training(task, listing, found)
        else:
            warnings += check_partition(task, listing, found, config.shared_subjects)
        for warning in warnings:
            log.warning("%s: %s", part.name, warning)
        planned.append(found)
    return planned


def check_partition(
    task: Task, listing: Listing, part: Partition, shared_subjects: bool
) -> list[str]:
    """Check labels and subjects before hours of training.

    Args:
        part: training and test rows of ``listing``.
        shared_subjects: allow a subject on both sides.

    Returns:
        Warnings: labels without an example in the test set, or without a counterexample.

    Raises:
        InputError: nothing to learn from, a label that never or always occurs in training, or
            subjects on both sides.
    """
    check_training(task, listing, part)
    if not len(part.test):
        raise InputError(f"{part.name}: no labelled input to test on: see 'normpipe status'")
    if not shared_subjects:
        _refuse_shared(listing.subjects(), part)
    truth = task.truth(listing.labels)[part.test]
    absent = _named_by(task, ~_occurs(task, truth))
    same = _named_by(task, _constant(task, truth) & _occurs(task, truth))
    warnings = [f"the test set has no example of {', '.join(absent)}"] if absent else []
    if same:
        warnings.append(f"{_always(task, same)} in the test set: its score says nothing")
    return warnings


def check_training(task: Task, listing: Listing, part: Partition) -> None:
    """Raise InputError if there is nothing to learn: a label never occurs, or always."""
    train = part.train[listing.usable[part.train]]
    if not len(train) and part.dropped:
        raise InputError(
            f"{part.name}: all usable training inputs have pictures that are also in the test "
            "part: test on others, or train without drop_duplicates"
        )
    if not len(train):
        raise InputError(
            f"{part.name}: no usable labelled input to train on: see 'normpipe status'"
        )
    truth = task.truth(listing.labels)[train]
    never = _named_by(task, ~_occurs(task, truth))
    if never:
        raise InputError(
            f"{part.name}: no example of {', '.join(never)} among the {len(train)} training "
            "inputs: leave it out with classify.labels, or split differently"
        )
    same = _named_by(task, _constant(task, truth))
    if same:
        way = "give inputs of other classes"
        if task.kind != "emotion":
            way = "leave it out with classify.labels, or split differently"
        raise InputError(
            f"{part.name}: {_always(task, same)} among the {len(train)} training inputs: nothing "
            f"can be learnt; {way}"
        )


def without_duplicates(
    part: Partition, sources: Sequence[str | None], tested: Sequence[str | None], drop: bool
) -> tuple[Partition, list[str]]:
    """Return a partition, and warnings about pictures that are in both its parts.

    Args:
        sources: (N,) sha256 of the photograph of each input of the listing; None if unknown.
        tested: the same of the test part.
        drop: do not train on such pictures.

    Raises:
        InputError: they are to be dropped, but no photograph's sha256 is known.
    """
    there = {one for one in tested if one}
    twice = np.asarray([sources[row] in there for row in part.train], np.bool_)
    count = int(twice.sum())
    if not any(sources) or not there:
        if drop:
            raise InputError(
                "the shards do not record source_sha256, by which drop_duplicates knows a picture: "
                "give the output of normpipe run, or leave it out"
            )
        return part, ["whether a picture is in both parts cannot be checked: no source_sha256"]
    if not count:
        return part, []
    if drop:
        return replace(part, train=part.train[~twice], dropped=count), [
            f"{count} training inputs are dropped: their pictures are also in the test part"
        ]
    return part, [
        f"{count} training inputs have pictures that are also in the test part, so the score will "
        "be too good: leave them out with --drop-duplicates"
    ]


def _refuse_shared(subjects: Sequence[Any], part: Partition) -> None:
    on_both = {subjects[i] for i in part.train} & {subjects[i] for i in part.test} - {None}
    if on_both:
        some = ", ".join(sorted(map(str, on_both))[:3])
        raise InputError(
            f"{part.name}: {len(on_both)} subjects are in both training and test ({some} …): the "
            "score would measure how well they are recognized; split by subject, or set "
            "classify.shared_subjects=true"
        )


def _occurs(task: Task, truth: Floats) -> Mask:
    """Return (L,) whether a label occurs; truth as of ``Task.truth``."""
    if task.kind == "emotion":
        return np.isin(np.arange(len(task.names)), truth)
    return np.asarray((np.nan_to_num(truth) > 0).any(0), np.bool_)


def _constant(task: Task, truth: Floats) -> Mask:
    """Return (L,) whether all known truths of a label are the same; truth as of ``Task.truth``."""
    if task.kind == "emotion":
        occurs = _occurs(task, truth)
        return occurs & (occurs.sum() == 1)
    known = np.isfinite(truth)
    highest = np.where(known, truth, -np.inf).max(0, initial=-np.inf)
    return np.asarray(known.any(0) & (highest == np.where(known, truth, np.inf).min(0)), np.bool_)


def _named_by(task: Task, which: Mask) -> list[str]:
    return [name for name, flag in zip(task.names, which, strict=True) if flag]


def _always(task: Task, names: Sequence[str]) -> str:
    if task.kind == "emotion":
        return f"{names[0]} is the only class"
    what = "occurs in every input that codes it" if task.kind == "action_units" else "has one level"
    return f"{', '.join(names)} {what}"
