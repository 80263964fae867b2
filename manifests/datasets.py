"""What is agreed on about public datasets: folds, splits, action units, class numbers, counts.

The facts stand in ``datasets/*.toml``, each with its sources; ``docs/protocols.md`` explains them.
"""

import hashlib
import tomllib
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, model_validator

_FOLDER = Path(__file__).parent / "datasets"


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Group(_Facts):
    """People who are tested together.

    Attributes:
        subjects: their names in the dataset.
        frames: how many labelled frames they have.
    """

    subjects: tuple[str, ...]
    frames: int


class Protocol(_Facts):
    """How one task is trained and tested on a dataset.

    Attributes:
        kind: of the task, as in ``classification.tasks``.
        names: the action units or classes that are scored.
        folds: the group that each fold tests, fold 1 first; empty where there are none.
        train, test: the subjects of a fixed split; empty where there is none.
        canonical: whether these folds are what publications agree on.
        present_from: the least intensity that counts as present, where labels are intensities.
        train_rows, test_rows: published counts.
        test_counts: published counts of the test set by class.
        verified: False where the counts are only as usually quoted; ``sources`` says what was read.
        note: what a reader must know.
    """

    kind: Literal["emotion", "action_units", "intensity"]
    names: tuple[str, ...]
    folds: tuple[str, ...] = ()
    train: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    canonical: bool = True
    present_from: float | None = None
    train_rows: int | None = None
    test_rows: int | None = None
    test_counts: dict[str, int] = {}
    verified: bool = True
    note: str = ""


class Description(_Facts):
    """One dataset.

    Attributes:
        name: of its file, as ``load_description`` takes it.
        title: as publications write it.
        sources: where the facts come from, or that it was not recorded.
        subject_count: how many people; None where unknown.
        missing: the label that stands for "not coded" and is never a value (``ingest.au_missing``).
        cameras: those that projects choose from; the one used belongs to every score.
        groups: people who are tested together, by name.
        class_numbers: number in the dataset → emotion.
        other_numbers: number in the dataset → what it says that is no emotion.
        tasks: how each task is trained and tested.
        note: how its label files are read.
    """

    name: str
    title: str
    sources: tuple[str, ...]
    subject_count: int | None = None
    missing: float | None = None
    cameras: tuple[str, ...] = ()
    groups: dict[str, Group] = {}
    class_numbers: dict[int, str] = {}
    other_numbers: dict[int, str] = {}
    tasks: dict[str, Protocol]
    note: str = ""

    @model_validator(mode="after")
    def _groups_exist(self) -> "Description":
        for task, protocol in self.tasks.items():
            if unknown := {*protocol.folds} - {*self.groups}:
                raise ValueError(f"{self.name}, {task}: no groups {sorted(unknown)}")
        return self

    @property
    def emotion_names(self) -> tuple[str, ...]:
        """Return the classes by number from 0, as ``ingest.emotion_names`` takes them.

        Numbers that are no emotion have an empty name.
        """
        last = max([*self.class_numbers, *self.other_numbers], default=-1)
        return tuple(self.class_numbers.get(number, "") for number in range(last + 1))

    @property
    def frames(self) -> int | None:
        """Return how many labelled frames all groups have; None where it is unknown."""
        return sum(group.frames for group in self.groups.values()) if self.groups else None

    def protocol(self, task: str) -> Protocol:
        """Return how a task is trained and tested. Raises ValueError for a task that it has not."""
        if task not in self.tasks:
            raise ValueError(f"{self.title} has no task '{task}'{_nearest(task, [*self.tasks])}")
        return self.tasks[task]

    def fold_of(self, task: str) -> dict[str, int]:
        """Return for each subject the fold, from 1, that tests it.

        Raises:
            ValueError: the dataset has no such task, or no folds for it.
        """
        protocol = self.protocol(task)
        if not protocol.folds:
            other = "use its fixed split (split_of)" if protocol.test else "give folds, or a seed"
            raise ValueError(f"{self.title} has no folds for task '{task}': {other}")
        return {
            subject: fold
            for fold, group in enumerate(protocol.folds, 1)
            for subject in self.groups[group].subjects
        }

    def split_of(self, task: str) -> dict[str, Literal["train", "test"]]:
        """Return for each subject of a fixed split its part.

        Raises:
            ValueError: the dataset has no such task, or no split of people for it.
        """
        protocol = self.protocol(task)
        if not protocol.test:
            raise ValueError(f"{self.title} has no fixed split of subjects for task '{task}'")
        parts: dict[str, Literal["train", "test"]] = dict.fromkeys(protocol.train, "train")
        return {**parts, **dict.fromkeys(protocol.test, "test")}


def described() -> list[str]:
    """Return the names of all datasets that are described, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def load_description(name: str) -> Description:
    """Return what is known of a dataset.

    Raises:
        ValueError: no dataset of this name is described; the message names the nearest.
    """
    if name not in described():
        raise ValueError(f"no description of dataset '{name}'{_nearest(name, described())}")
    text = (_FOLDER / f"{name}.toml").read_text(encoding="utf-8")
    return Description.model_validate({"name": name, **tomllib.loads(text)})


def seeded_folds(subjects: Iterable[str], folds: int, seed: int = 0) -> dict[str, int]:
    """Return a fold, from 1, for each subject: the same on every machine and Python.

    Subjects are sorted by the SHA-256 of seed and name and dealt out in turn. So neither the order
    nor the repetition of ``subjects`` matters, and sizes differ by one at most. Another set of
    subjects is dealt anew.

    Args:
        subjects: names; may repeat.
        folds: how many, at least 2.
        seed: another seed deals otherwise.

    Raises:
        ValueError: fewer than two folds, or fewer subjects than folds.
    """
    distinct = {*subjects}
    if not 2 <= folds <= len(distinct):
        raise ValueError(f"cannot deal {len(distinct)} subjects into {folds} folds of one or more")

    def digest(subject: str) -> bytes:
        return hashlib.sha256(f"{seed}\0{subject}".encode()).digest()

    ordered = sorted(distinct, key=lambda subject: (digest(subject), subject))
    return {subject: place % folds + 1 for place, subject in enumerate(ordered)}


def _nearest(word: str, known: list[str]) -> str:
    # As pipeline.errors.nearest, which this package may not import.
    match = get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean '{match[0]}'?" if match else f"; known: {', '.join(sorted(known))}"
