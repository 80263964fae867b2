"""What the texts of a release mean, as its description says: splits, classes, folds, occurrence."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np

from ....manifests.arrays import Floats, Rows
from ....manifests.datasets import Description
from ....manifests.vocabularies import EMOTION_SYNONYMS, EMOTIONS, VOTE_COLUMNS, emotion_name
from ....pipeline.errors import InputError, nearest
from ..lists.chosen import most_voted, the_one
from .sheets import Cells, LabelSheet

_ACTION_UNIT = re.compile(r"au_?0*(?P<number>[1-9]\d?)(?P<kind>_intensity)?", re.IGNORECASE)
_SHOWN = 12


class Meanings:
    """The words and numbers of one description.

    Args:
        description: the release's.
        about: how messages name it: its title, or its file.
        folder: of the release, for messages.
    """

    def __init__(self, description: Description, about: str, folder: Path) -> None:
        self.description = description
        self._about = about
        self._folder = folder
        self._splits = description.split_names
        self._words = description.emotion_words
        self._missing = {*description.missing_numbers}
        self._seen: dict[str, str | None] = {}

    def same(self, column: str, text: str | None) -> str | None:
        """Return a text as it is compared with one from elsewhere."""
        if text is None:
            return None
        if column == "split":
            return self._split(text)
        number = as_number(text)
        return text.lower() if number is None else f"{number:g}"

    def words(self) -> dict[str, list[str]]:
        """Return the known words of splits and emotions, for patterns of what a folder needs."""
        named = [word for word in self._words if as_number(word) is None]
        return {"split": [*self._splits], "emotion": [*EMOTIONS, *EMOTION_SYNONYMS, *named]}

    def apply(self, sheet: LabelSheet, from_paths: set[str]) -> None:
        """Replace the sheet's texts by what they mean; fill in folds.

        Args:
            sheet: changed in place.
            from_paths: columns that came from the names of folders and files.

        Raises:
            InputError: a text contradicts the description.
        """
        if "split" in sheet.columns:
            texts = sheet.columns["split"]
            sheet.columns["split"] = [None if one is None else self._split(one) for one in texts]
        if "emotion" in sheet.columns:
            strict = bool(self._words) or "emotion" in from_paths
            sheet.columns["emotion"] = [
                self._emotion(sheet, row, text, strict)
                for row, text in enumerate(sheet.columns["emotion"])
            ]
        for name in list(sheet.columns):
            if _ACTION_UNIT.fullmatch(name):
                sheet.columns[name] = _without(sheet.columns[name], self._missing)
        unknown = self.description.valence_arousal_missing
        for name in ("valence", "arousal"):
            if name in sheet.columns and unknown is not None:
                sheet.columns[name] = _without(sheet.columns[name], {unknown})
        self._check_subjects(sheet)
        self._fold(sheet)
        self._occurrence(sheet)

    def _split(self, text: str) -> str:
        return self._splits.get(text.strip().lower(), text.strip())

    def _emotion(self, sheet: LabelSheet, row: int, text: str | None, strict: bool) -> str | None:
        if text is None:
            return None
        if text not in self._seen:
            number = as_number(text)
            if number is not None and number in self._missing:
                self._seen[text] = None
                return None
            word = text.strip().lower() if number is None else f"{number:g}"
            plain = emotion_name(word)
            if word in self._words:
                self._seen[text] = self._words[word] or None
            elif number is not None:
                self._refuse_number(sheet.where(row), text)
            elif plain in EMOTIONS or not strict:
                self._seen[text] = plain
            else:
                raise InputError(
                    f"{self._folder}: the emotion in {sheet.where(row)} is '{text}', which "
                    f"{self._about} does not name{nearest(plain, [*EMOTIONS, *self._words])}: name "
                    "it under [class_names] of a description of your own ('' for no emotion)"
                )
        return self._seen[text]

    def _refuse_number(self, where: str, text: str) -> NoReturn:
        classes = ", ".join(f"{n} {name}" for n, name in self.description.class_numbers.items())
        if not classes:
            raise InputError(
                f"{self._folder}: the emotion in {where} is the number {text}: say in the "
                "description what it means, under [class_numbers]"
            )
        raise InputError(
            f"{self._folder}: the emotion in {where} is {text}, which is no class of "
            f"{self._about} ({classes}): this is another release, or another description is needed"
        )

    def _check_subjects(self, sheet: LabelSheet) -> None:
        groups = self.description.groups
        known = {one for group in groups.values() for one in group.subjects}
        for row, subject in enumerate(sheet.columns.get("subject", []) if known else []):
            if subject is not None and subject not in known:
                raise InputError(
                    f"{self._folder}: '{subject}' ({sheet.where(row)}) is no subject of "
                    f"{self._about}{nearest(subject, sorted(known))}"
                )

    def _fold(self, sheet: LabelSheet) -> None:
        task = next((name for name, one in self.description.tasks.items() if one.folds), None)
        if task is None or "fold" in sheet.columns or "subject" not in sheet.columns:
            return
        folds = self.description.fold_of(task)
        sheet.columns["fold"] = [
            None if one is None else str(folds[one]) for one in sheet.columns["subject"]
        ]

    def _occurrence(self, sheet: LabelSheet) -> None:
        """Add occurrence where levels alone are given, for the units that the protocol scores."""
        units = {_unit_name(name): name for name in sheet.columns if _unit_name(name)}
        for task in self.description.tasks.values():
            if task.present_from is None:
                continue
            for unit in task.names:
                levels = units.get(f"{unit}_intensity")
                if levels is None or unit in units:
                    continue
                present = task.present_from
                sheet.columns[unit] = [
                    None if (level := as_number(text)) is None else str(int(level >= present))
                    for text in sheet.columns[levels]
                ]


def add_one_hot(sheet: LabelSheet, one_hot: dict[str, str], folder: Path) -> None:
    """Replace columns of which one is 1 by the column ``emotion``.

    Raises:
        InputError: a row has several, or anything but 0 and 1.
    """
    columns = {emotion: sheet.columns.pop(name, []) for emotion, name in one_hot.items()}
    marks = _as_numbers(columns, len(sheet.places))
    for emotion, texts in columns.items():
        wrong = next(
            (i for i, one in enumerate(texts) if one and as_number(one) not in (0, 1)), None
        )
        if wrong is not None:
            raise InputError(
                f"{folder}: '{one_hot[emotion]}' in {sheet.where(wrong)} is {texts[wrong]!r}, but "
                "one-hot columns are 0 or 1"
            )
    places, several = the_one(marks)
    names = [*columns]
    if several is not None:
        marked = [names[place] for place in np.flatnonzero(marks[several])]
        raise InputError(
            f"{folder}: {sheet.where(several)} is marked as {' and '.join(marked)}: one-hot labels "
            "name one emotion"
        )
    sheet.columns["emotion"] = _named(names, places)


def add_majority(sheet: LabelSheet, others: Sequence[str]) -> None:
    """Add the column ``emotion``: what most raters chose; see ``most_voted``.

    Args:
        sheet: changed in place.
        others: columns of votes for no emotion, besides ``unknown_votes``.
    """
    voted = [name for name in VOTE_COLUMNS if name in sheet.columns and name != "unknown_votes"]
    none = [name for name in ("unknown_votes", *others) if name in sheet.columns]
    votes, without = (
        _as_numbers({name: sheet.columns[name] for name in names}, len(sheet.places))
        for names in (voted, none)
    )
    names = [name.removesuffix("_votes") for name in voted]
    places = most_voted(votes, without) if voted else np.full(len(sheet.places), -1)
    sheet.columns["emotion"] = _named(names, places)


def _as_numbers(columns: Mapping[str, Cells], rows: int) -> Floats:
    """Return columns as numbers (rows, C), 0 where they are none."""
    made = np.zeros((rows, len(columns)))
    for place, texts in enumerate(columns.values()):
        if texts:
            made[:, place] = [as_number(text) or 0.0 for text in texts]
    return made


def _named(names: Sequence[str], places: Rows) -> Cells:
    found: list[int] = places.tolist()
    return [names[place] if place >= 0 else None for place in found]


def check_counts(
    sheet: LabelSheet, description: Description, counts: dict[str, int], folder: Path
) -> list[str]:
    """Compare labelled rows with published counts; return what to say of them.

    A copy may lack pictures, but it cannot have more, nor other counts where it is whole.

    Raises:
        InputError: it has.
    """
    emotions = sheet.columns.get("emotion")
    labelled = [True] * len(sheet.places) if emotions is None else [e is not None for e in emotions]
    splits = sheet.columns.get("split", [None] * len(sheet.places))
    by_split = Counter(split for split, known in zip(splits, labelled, strict=True) if known)
    lines: list[str] = []
    for split, published in counts.items():
        found = sum(labelled) if split == "all" else by_split[split]
        lines.append(f"{found:,} of {published:,}{'' if split == 'all' else ' ' + split}")
        if found > published and split != "all":
            raise InputError(
                f"{folder} has {found:,} labelled rows in split {split}, but "
                f"{description.title} has {published:,}: is it another release?"
            )
        if split == "test" and emotions is not None:
            chosen = [e for e, s in zip(emotions, splits, strict=True) if e and s == split]
            _check_classes(Counter(chosen), description, found == published, folder)
    return lines


def _check_classes(
    found: Counter[str], description: Description, whole: bool, folder: Path
) -> None:
    for task in description.tasks.values():
        for name, published in task.test_counts.items():
            if found[name] > published or (whole and found[name] < published):
                raise InputError(
                    f"{folder} has {found[name]:,} test rows of {name}, but {description.title} "
                    f"has {published:,}: the labels are not numbered as {description.title}'s are "
                    "(is it another release, or a copy with its own numbers?)"
                )


def as_number(text: str | None) -> float | None:
    """Return the number that a text is, in any spelling; None for anything else."""
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if number == number else None


def _without(texts: Cells, numbers: set[float]) -> Cells:
    if not numbers:
        return texts
    unknown = {text for text in {*texts} if text is not None and as_number(text) in numbers}
    return [None if text in unknown else text for text in texts] if unknown else texts


def _unit_name(column: str) -> str:
    match = _ACTION_UNIT.fullmatch(column)
    return f"AU{int(match['number'])}{(match['kind'] or '').lower()}" if match else ""
