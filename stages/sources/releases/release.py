"""A release in a folder: the layout that fits it, and its rows as the table of a list."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from ....manifests.datasets import Description, described, load_description
from ....manifests.layouts import Pattern, ReleaseLayout, choices
from ....manifests.schema import LABEL_COLUMNS
from ....pipeline.errors import InputError, nearest
from ....pipeline.store.storage import is_store
from ...videos.frame_settings import VIDEO_SUFFIXES
from ..containers.pixel_tables import PIXEL_SUFFIXES, PixelTable
from ..files import FileFacts, Root, walk
from ..lists.table import ListTable
from .assembling import Assembled, assemble, pictures_among
from .label_files import exists_below, found_below, read_label_files
from .meanings import Meanings, add_majority, add_one_hot, check_counts
from .opening_description import open_description
from .sheets import LabelSheet, joined_sheets

log = logging.getLogger("normpipe")

#: Settings of ingest that say what a description says.
_FOR_OTHERS = (*("class_per_folder", "root", "path_column", "columns", "emotion_names"),)
#: From so many labelled rows on, a class that never occurs is worth a warning.
_MANY = 1000


class ReleaseRows(NamedTuple):
    """What a release says.

    Attributes:
        found: its rows.
        ignored: what became no row.
        inspect: what is known of a picture; None: the pictures are files.
        first_frame: what the labels call the first frame of a video.
    """

    found: ListTable
    ignored: Counter[str]
    inspect: Callable[[str], FileFacts] | None
    first_frame: int


def release_of(settings: Any, source: Path) -> Release | None:
    """Return the release that ingest's settings name, in a folder; None if they name none.

    Raises InputError if other settings say what the description says.
    """
    name, file = settings.release, settings.release_file
    if not name and file is None:
        return None
    if name and file is not None:
        raise InputError("ingest.release and ingest.release_file: give one of them")
    if is_store(source):
        raise InputError(f"a release is read from a folder: copy {source} to a disk")
    plain = type(settings)()
    for other in _FOR_OTHERS:
        if getattr(settings, other) != getattr(plain, other):
            raise InputError(
                f"ingest.{other} is for lists and folders: remove it, the release's description "
                "says what its labels mean (--release my.toml: a description of your own)"
            )
    description = open_description(name, file)
    return Release(description, str(file or name), source, settings.layout, own=file is not None)


class Release:
    """A release that lies in a folder, or whose pictures are in one file.

    Args:
        description: what it is.
        about: how messages name the description: ``raf_db``, or the user's file.
        source: the folder, or the file with pixels.
        layout: name of the layout; empty: the first that fits.
        own: whether the description is the user's.
    """

    def __init__(
        self, description: Description, about: str, source: Path, layout: str, own: bool
    ) -> None:
        self.description = description
        self._about = about
        self._source = source
        self._folder = (source if source.is_dir() else source.parent).resolve()
        self._asked = layout
        self._own = own
        self._meanings = Meanings(description, self._title, self._folder)

    @property
    def _title(self) -> str:
        return self.description.title or self._about

    @cached_property
    def layout(self) -> ReleaseLayout:
        """Return the layout that the folder has. Raises InputError if it has none."""
        layouts = self.description.layouts
        if not self._source.exists():
            raise InputError(f"no folder {self._source}: give an existing one")
        if self._asked:
            if self._asked not in layouts:
                raise InputError(
                    f"ingest.layout = '{self._asked}': {self._title} has no such layout"
                    f"{nearest(self._asked, [*layouts])}"
                )
            return layouts[self._asked]
        fitting = [name for name, one in layouts.items() if self._fits(one)]
        if not fitting:
            raise InputError(self._misfit())
        others = f" (also here: {', '.join(fitting[1:])}: ingest.layout)" if fitting[1:] else ""
        log.info("%s: layout %s%s", self._title, fitting[0], others)
        return layouts[fitting[0]]

    def _fits(self, layout: ReleaseLayout) -> bool:
        if not self._source.is_dir():
            return layout.pixels and self._source.suffix.lower() in PIXEL_SUFFIXES
        return not lacking(self._folder, layout, self._meanings.words())

    def _misfit(self) -> str:
        layouts = self.description.layouts.values()
        gaps = [lacking(self._folder, one, self._meanings.words()) for one in layouts]
        what = " or ".join(dict.fromkeys(gap for gap in gaps if gap)) or "a file with pixels"
        words = self._meanings.words()
        near = next(
            (
                self._folder / name
                for name in found_below(self._folder, Pattern("*"))
                if (self._folder / name).is_dir()
                and any(not lacking(self._folder / name, one, words) for one in layouts)
            ),
            None,
        )
        others = [name for name in recognized(self._folder) if name != self.description.name]
        if near is not None:
            hint = f"give --input {near}"
        elif others:
            hint = f"it looks like {others[0]}: --release {others[0]}"
        elif self._own:
            hint = f"give another folder, or correct needs in {self._about}"
        else:
            hint = f"normpipe releases {self._about} says what the folder must contain"
        return f"{self._source} is not laid out as {self._title} is: it has no {what}; {hint}"

    @property
    def root(self) -> Path:
        """Return the folder that paths are relative to, or the file with the pixels; resolved."""
        if not self._source.exists() or not self.layout.pixels:
            return self._folder if self._source.is_dir() else self._source.resolve()
        return (self._folder / self._pixel_file()).resolve()

    def _pixel_file(self) -> str:
        """Return the path of the file with the pixels below the folder."""
        if not self._source.is_dir():
            return self._source.name
        files = found_below(self._folder, Pattern(self.layout.labels[0].files))
        if len(files) != 1:
            named = ", ".join(files[:3]) or "none"
            raise InputError(
                f"{self._source}: one file must hold the pixels ({self.layout.labels[0].files}), "
                f"and there is {named}: give the file itself as --input"
            )
        return files[0]

    def read(
        self, extensions: frozenset[str], follow_symlinks: bool, labelled_only: bool
    ) -> ReleaseRows:
        """Return the rows of the release, under the names of normpipe's columns.

        Args:
            extensions: of pictures, in lower case, with the dot.
            follow_symlinks: also follow links to folders within the release.
            labelled_only: leave out pictures without labels.

        Raises:
            InputError: the release is not as described, or contradicts the description.
        """
        layout, root = self.layout, Root(self._folder)
        if self._own:
            self._refuse_other_numbers()
        labels = self._labels(root)
        patterns = [Pattern(one) for one in layout.pictures]
        found = walk(root, extensions, follow_symlinks)
        if unreadable := next(iter(found.reasons), None):
            raise InputError(f"cannot read {self._folder / unreadable}: fix its permissions")
        pictures = pictures_among(found.paths, patterns)
        made = assemble(layout, labels, pictures, self._meanings.same, labelled_only, self._folder)
        if others := len(found.paths) - len(pictures):
            made.ignored["picture of another kind"] += others
        if layout.pixels:
            inspect = PixelTable(self.root).inspect
        else:
            inspect = None
            self._refuse_without_pictures(made, pictures)
        return ReleaseRows(self._table(made), made.ignored, inspect, layout.frames_from or 0)

    def _labels(self, root: Root) -> LabelSheet | None:
        made: LabelSheet | None = None
        match = self.layout.match
        if any(Path(one).suffix.lower() in VIDEO_SUFFIXES for one in self.layout.pictures):
            match = (*match, "frame")  # a video has many rows of labels
        for one in self.layout.labels:
            pixels = self.layout.pixels and one is self.layout.labels[0]
            if pixels:
                paths = [self._pixel_file()]
            else:
                paths = found_below(self._folder, Pattern(one.files))
            sheet = read_label_files(root, one, paths, match, self._meanings.same)
            if sheet is None and not one.optional:
                raise InputError(
                    f"{self._source} has no labels of {self._title}: no file {one.files} with rows"
                )
            if sheet is None:
                continue
            if one.one_hot:
                add_one_hot(sheet, one.one_hot, self._folder)
            made = sheet if made is None else joined_sheets(made, sheet, match, self._meanings.same)
        return made

    def _refuse_without_pictures(self, made: Assembled, pictures: Collection[str]) -> None:
        """Raise if there are no pictures, or labels name none of them."""
        where = " or ".join(self.layout.pictures) or self.layout.path
        if not pictures:
            raise InputError(
                f"{self._source} has no pictures of {self._title}: they belong at {where}"
            )
        if self.layout.labels and not made.named:
            listed = [path for path in made.sheet.columns["path"] if path not in pictures]
            raise InputError(
                f"{self._source}: none of the {len(pictures):,} pictures ({next(iter(pictures))}) "
                f"is named by a label (the first is {listed[0] if listed else 'of no picture'}): "
                f"the pictures of {self._title} belong at {where}"
            )

    def _table(self, made: Assembled) -> ListTable:
        sheet, layout = made.sheet, self.layout
        if layout.majority:
            add_majority(sheet, layout.other_votes)
        self._meanings.apply(sheet, made.from_paths)
        self._say(made, check_counts(sheet, self.description, layout.counts, self._folder))
        labels = [name for name, _ in LABEL_COLUMNS if name in sheet.columns]
        names = ["path", *(name for name in labels if name != "key")]
        names += [name for name in sheet.columns if name not in names and name[0] != "_"]
        units = any(one.units for one in layout.labels)
        columns = {
            name: pa.array(sheet.columns[name], pa.string())
            for name in names
            if not units or name == "path" or any(sheet.columns[name])
        }
        return ListTable(self._folder, pa.table(columns), places=sheet.where)

    def _say(self, made: Assembled, counts: list[str]) -> None:
        if counts:
            log.info("%s: %s labelled", self._title, ", ".join(counts))
        if made.unlabelled:
            log.warning(
                "%s: %d pictures have no label; they are rows without labels "
                "(--set ingest.labelled_only=true leaves them out)",
                *(self._title, made.unlabelled),
            )
        if made.shifted:
            log.info(
                "%s: pictures count from %d, so picture N shows the labelled frame N + 1",
                *(self._title, (self.layout.frames_from or 0) - 1),
            )
        self._refuse_another_s_labels(made.sheet)

    def _refuse_another_s_labels(self, sheet: LabelSheet) -> None:
        """Raise if labels use only some classes, and are numbered as another known release is.

        With few rows that may be chance, and is a warning.
        """
        emotions = Counter(one for one in sheet.columns.get("emotion", []) if one)
        numbers = self.description.class_numbers
        never = sorted({*numbers.values()} - {*emotions})
        used = {number for number, emotion in numbers.items() if emotion in emotions}
        if not used or not never:
            return
        other = next(
            (
                known
                for known in map(load_description, self._of_the_same_files())
                if known.class_numbers and used <= {*known.class_numbers} < {*numbers}
            ),
            None,
        )
        many = emotions.total() >= _MANY
        what = f"no row is {' or '.join(never)}"
        if other is not None and many and not self._own:
            raise InputError(
                f"{self._folder}: {what}, and all numbers are classes of {other.title}: use "
                f"--release {other.name}, or a description of your own (--release my.toml)"
            )
        if other is not None:
            log.warning(
                "%s: %s, and all numbers are classes of %s, too: is it --release %s?",
                *(self._title, what, other.title, other.name),
            )
        elif many:
            log.warning(
                "%s: %s: does the release number its classes as described?", self._title, what
            )

    def _of_the_same_files(self) -> list[str]:
        """Return other known releases that the folder may be, with the same files of labels."""
        mine = {*_label_paths(self._folder, self.layout)}
        return [
            name
            for name, layout in recognized(self._folder).items()
            if (self._own or name != self.description.name)
            and mine & {*_label_paths(self._folder, layout)}
        ]

    def _refuse_other_numbers(self) -> None:
        """Raise if a user's description numbers the classes of a known release differently."""
        mine = self.description.class_numbers
        said = ""
        for name in self._of_the_same_files():
            known = load_description(name)
            if not known.class_numbers:
                continue
            wrong = [n for n, emotion in mine.items() if known.class_numbers.get(n) != emotion]
            if not wrong:
                return
            said = said or (
                f"{self._about} says that {wrong[0]} is {mine[wrong[0]]}, but the folder is laid "
                f"out as {known.title}, where it is "
                f"{known.class_numbers.get(wrong[0], 'no class')}: correct [class_numbers], or use "
                f"--release {name}"
            )
        if said and mine:
            raise InputError(said)


def lacking(folder: Path, layout: ReleaseLayout, words: dict[str, list[str]]) -> str:
    """Return the first path that a layout needs and a folder lacks; "" if it has all."""
    for needed in layout.needs:
        if not any(exists_below(folder, Pattern(one, words)) for one in choices(needed)):
            return needed.replace("|", "or")
    return ""


def recognized(folder: Path) -> dict[str, ReleaseLayout]:
    """Return known release → its first layout that a folder has; those that are of any folder
    are not among them.
    """
    found: dict[str, ReleaseLayout] = {}
    for name in described():
        description = load_description(name)
        layouts = description.layouts.values() if description.name else ()
        fitting = next((one for one in layouts if _tells(folder, one)), None)
        if fitting is not None:
            found[name] = fitting
    return found


def _tells(folder: Path, layout: ReleaseLayout) -> bool:
    return layout.telling and bool(layout.needs) and not lacking(folder, layout, {})


def _label_paths(folder: Path, layout: ReleaseLayout) -> list[str]:
    return [path for one in layout.labels for path in found_below(folder, Pattern(one.files))]
