"""Agreed facts about public datasets: layouts, folds, splits, action units, class numbers, counts.

The facts are in ``datasets/*.toml``, each with its sources; ``docs/protocols.md`` explains them. A
user's own file has the same fields (``docs/releases.md``).
"""

import hashlib
import tomllib
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from .layouts import LabelFiles, ReleaseLayout

_FOLDER = Path(__file__).parent / "datasets"

#: Spellings of the usual splits; ``Description.splits`` adds to them.
SPLITS = {
    **dict.fromkeys(("train", "training", "train_set", "training_set"), "train"),
    **dict.fromkeys(
        ("validation", "val", "valid", "dev", "val_set", "validation_set"), "validation"
    ),
    **dict.fromkeys(("test", "testing", "test_set"), "test"),
}


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Group(_Facts):
    """Subjects who are tested together.

    Attributes:
        subjects: their names in the dataset.
        frames: how many labelled frames they have.
    """

    subjects: tuple[str, ...]
    frames: int


class Protocol(_Facts):
    """How one task is trained and tested on a dataset.

    Attributes:
        kind: of task, as in ``classification.tasks``.
        names: the action units or classes that are scored.
        folds: the group that each fold tests, fold 1 first; empty if there are none.
        train, test: the subjects of a fixed split; empty if there is none.
        canonical: whether publications agree on these folds.
        present_from: the lowest intensity that counts as present, if labels are intensities.
        whole_rows: whether a picture counts only if all of ``names`` are coded.
        train_rows, test_rows: published counts.
        test_counts: published counts of the test set by class.
        verified: False if the counts are only as usually quoted; ``sources`` says what was read.
        note: what users must know.
    """

    kind: Literal["emotion", "action_units", "intensity"]
    names: tuple[str, ...]
    folds: tuple[str, ...] = ()
    train: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    canonical: bool = True
    present_from: float | None = None
    whole_rows: bool = False
    train_rows: int | None = None
    test_rows: int | None = None
    test_counts: dict[str, int] = {}
    verified: bool = True
    note: str = ""


Allowed = Literal["yes", "no", "unknown"]


class Terms(_Facts):
    """What a dataset's agreement allows. ``unknown``: no source was found, so it counts as no.

    Attributes:
        licence: its name or SPDX identifier; empty if there is none, or it is unknown.
        originals: whether its pictures, or crops of them, may be given to others.
        derived_pictures: the same for pictures made from them, such as normalized faces.
        labels: the same for its labels.
        non_commercial: whether it may be used only for research, or without profit.
        sources: where this comes from; what was not read.
    """

    licence: str = ""
    originals: Allowed = "unknown"
    derived_pictures: Allowed = "unknown"
    labels: Allowed = "unknown"
    non_commercial: Allowed = "unknown"
    sources: tuple[str, ...] = ()


class Description(_Facts):
    """One dataset.

    Attributes:
        name: of its file, as ``load_description`` takes it.
        title: the name in publications.
        sources: where the facts come from, or that this was not recorded.
        subject_count: how many people; None if unknown.
        missing: the number, or numbers, that mean "not coded" and are never a value, for action
            units and emotions (``ingest.au_missing``).
        valence_arousal_missing: the same for valence and arousal.
        cameras: those that projects choose from; state with every score which one was used.
        groups: subjects who are tested together, by name.
        class_numbers: number in the dataset → emotion.
        class_names: word in the dataset → emotion, for words other than the usual; "" for none.
        other_numbers: number in the dataset → its meaning, if that is not an emotion.
        splits: word in the dataset → split, for words other than the usual.
        tasks: how each task is trained and tested.
        layouts: how the release lies on disk, by name; the first that fits a folder is used.
        terms: what its agreement allows (``normpipe export``).
        note: how to read its label files.
    """

    name: str = ""
    title: str = ""
    sources: tuple[str, ...] = ()
    subject_count: int | None = None
    missing: float | tuple[float, ...] | None = None
    valence_arousal_missing: float | None = None
    cameras: tuple[str, ...] = ()
    groups: dict[str, Group] = {}
    class_numbers: dict[int, str] = {}
    class_names: dict[str, str] = {}
    other_numbers: dict[int, str] = {}
    splits: dict[str, str] = {}
    tasks: dict[str, Protocol] = {}
    layouts: dict[str, ReleaseLayout] = {}
    terms: Terms = Terms()
    note: str = ""

    @model_validator(mode="after")
    def _groups_exist(self) -> "Description":
        for task, protocol in self.tasks.items():
            if unknown := {*protocol.folds} - {*self.groups}:
                raise ValueError(f"{self.name}, {task}: no groups {sorted(unknown)}")
        return self

    @property
    def missing_numbers(self) -> tuple[float, ...]:
        """Return the numbers that mean "not coded"."""
        if self.missing is None:
            return ()
        return self.missing if isinstance(self.missing, tuple) else (self.missing,)

    @property
    def split_names(self) -> dict[str, str]:
        """Return word → split, for the usual words and the dataset's; words in lower case."""
        return {**SPLITS, **{word.lower(): split for word, split in self.splits.items()}}

    @property
    def emotion_words(self) -> dict[str, str]:
        """Return word or number → emotion, "" for none; words in lower case."""
        words = {name.lower(): emotion for name, emotion in self.class_names.items()}
        words |= {str(number): "" for number in self.other_numbers}
        return words | {str(n): emotion for n, emotion in self.class_numbers.items()}

    @property
    def emotion_names(self) -> tuple[str, ...]:
        """Return the class names by number from 0, as ``ingest.emotion_names`` takes them.

        Numbers that do not stand for an emotion have an empty name.
        """
        last = max([*self.class_numbers, *self.other_numbers], default=-1)
        return tuple(self.class_numbers.get(number, "") for number in range(last + 1))

    @property
    def frames(self) -> int | None:
        """Return how many labelled frames all groups have; None if unknown."""
        return sum(group.frames for group in self.groups.values()) if self.groups else None

    def protocol(self, task: str) -> Protocol:
        """Return how a task is trained and tested. Raises ValueError for an unknown task."""
        if task not in self.tasks:
            raise ValueError(f"{self.title} has no task '{task}'{_nearest(task, [*self.tasks])}")
        return self.tasks[task]

    def fold_of(self, task: str) -> dict[str, int]:
        """Return subject → the fold, from 1, that tests it.

        Raises:
            ValueError: the dataset has no such task, or no folds for it.
        """
        protocol = self.protocol(task)
        if not protocol.folds:
            other = (
                "use its fixed split (split_of)"
                if protocol.test
                else "give a number to deal people out, a column 'fold' and folds = labels, or a "
                "column 'split' and no folds"
            )
            raise ValueError(f"no folds of {self.title} are published for task '{task}': {other}")
        return {
            subject: fold
            for fold, group in enumerate(protocol.folds, 1)
            for subject in self.groups[group].subjects
        }

    def split_of(self, task: str) -> dict[str, Literal["train", "test"]]:
        """Return subject → its part of the fixed split.

        Raises:
            ValueError: the dataset has no such task, or no fixed split of subjects for it.
        """
        protocol = self.protocol(task)
        if not protocol.test:
            raise ValueError(f"{self.title} has no fixed split of subjects for task '{task}'")
        parts: dict[str, Literal["train", "test"]] = dict.fromkeys(protocol.train, "train")
        return {**parts, **dict.fromkeys(protocol.test, "test")}


def described() -> list[str]:
    """Return the names of all described datasets, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def load_description(name: str) -> Description:
    """Return the description of a dataset.

    Raises:
        ValueError: no dataset of this name is described; the message names the nearest.
    """
    if name not in described():
        raise ValueError(f"no description of dataset '{name}'{_nearest(name, described())}")
    text = (_FOLDER / f"{name}.toml").read_text(encoding="utf-8")
    return Description.model_validate({"name": name, **tomllib.loads(text)})


def described_in(text: str, name: str) -> Description:
    """Return the description in a file's text; ``name``: if the text gives none.

    Raises:
        ValueError: with one line: it is no TOML, or no description.
    """
    values = tomllib.loads(text)
    try:
        return Description.model_validate({"name": name, **values})
    except ValidationError as error:
        problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        word = str(problem["loc"][-1])
        known = {key for model in _MODELS for key in model.model_fields}
        raise ValueError(f"unknown key '{where}'{_nearest(word, sorted(known))}")
    message = problem["msg"].removeprefix("Value error, ")
    raise ValueError(f"{where + ': ' if where else ''}{message}")


#: What a description consists of.
_MODELS = (Description, ReleaseLayout, LabelFiles, Group, Protocol, Terms)


def seeded_folds(subjects: Iterable[str], folds: int, seed: int = 0) -> dict[str, int]:
    """Return subject → fold, from 1: the same on every machine and Python version.

    Subjects are sorted by the SHA-256 of seed and name and assigned to folds in turn. So neither
    order nor repetition of ``subjects`` matters, and sizes differ by at most one. A different set
    of subjects may get entirely different folds.

    Args:
        subjects: names; may repeat.
        folds: how many, at least 2.
        seed: another seed gives other folds.

    Raises:
        ValueError: fewer than two folds, or fewer subjects than folds.
    """
    distinct = {*subjects}
    if not 2 <= folds <= len(distinct):
        raise ValueError(f"cannot split {len(distinct)} subjects into {folds} folds")

    def digest(subject: str) -> bytes:
        return hashlib.sha256(f"{seed}\0{subject}".encode()).digest()

    ordered = sorted(distinct, key=lambda subject: (digest(subject), subject))
    return {subject: place % folds + 1 for place, subject in enumerate(ordered)}


def _nearest(word: str, known: list[str]) -> str:
    # Same as pipeline.errors.nearest, which this package may not import.
    match = get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean '{match[0]}'?" if match else f"; known: {', '.join(sorted(known))}"
