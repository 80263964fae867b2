"""How a release lies on disk: where its pictures and its labels are, and what joins them.

Part of a dataset's description (``datasets.py``). Nothing here opens a file. Whatever pattern a
user writes, a search for it ends in time.
"""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, Self

import regex  # as the standard library's re, which has no limit on time
from pydantic import BaseModel, ConfigDict, field_validator, model_validator

#: Fields whose text is a whole number, compared as one: ``0643`` is ``643``.
NUMBER_FIELDS = frozenset({"frame", "fold"})
_FIELD = re.compile(r"\{(?P<name>_?[A-Za-z][A-Za-z0-9_]*)(?::(?P<form>[^{}]*))?\}")

#: CPU time of the process in which a name is searched. A sound pattern needs microseconds.
SECONDS = 1.0
_SHOWN = 60


class SlowPatternError(ValueError):
    """A pattern that would be searched for without an end."""


class Matcher(NamedTuple):
    """A compiled regular expression, and how messages call it."""

    compiled: Any
    shown: str

    @classmethod
    def of(cls, text: str, shown: str = "", *, ignore_case: bool = False) -> Self:
        """Compile a regular expression.

        Args:
            text: as of the module ``re``.
            shown: what the user wrote, if that is another text.
            ignore_case: whether upper and lower case are the same.

        Raises:
            ValueError: it is none.
        """
        flags = regex.DOTALL | regex.IGNORECASE if ignore_case else 0
        try:
            return cls(regex.compile(text, flags), shown or text)
        except regex.error as error:
            raise ValueError(str(error)) from None

    @property
    def groups(self) -> int:
        """Return the number of its groups."""
        return self.compiled.groups

    def search(self, name: str) -> Any:
        """Return the first match within a name, or None. Raises SlowPatternError."""
        return self._ended(self.compiled.search, name)

    def fullmatch(self, name: str) -> Any:
        """Return the match of a whole name, or None. Raises SlowPatternError."""
        return self._ended(self.compiled.fullmatch, name)

    def _ended(self, find: Any, name: str) -> Any:
        try:
            return find(name, timeout=SECONDS)
        except TimeoutError:
            some = name if len(name) <= _SHOWN else f"{name[:_SHOWN]}…"
            raise SlowPatternError(
                f"'{self.shown}' takes longer than {SECONDS:g} s to compare with '{some}': write "
                "it with fewer parts that may be of any length"
            ) from None


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Pattern:
    """A path below the release's folder, with wild cards and named fields.

    ``*`` and ``?`` are any characters within one name, ``**`` is any folders or none. ``{subject}``
    is any text within one name, ``{subject:SN*}`` such a text that begins with SN; ``{frame}`` is
    digits. A field that stands twice is the same text twice. Upper and lower case are the same.

    Args:
        text: the pattern.
        words: field → the only texts that it may be.

    Raises:
        ValueError: it is no such pattern.
    """

    def __init__(self, text: str, words: Mapping[str, Iterable[str]] | None = None) -> None:
        rest = _FIELD.sub("", text)
        if "{" in rest or "}" in rest:
            raise ValueError(f"'{text}': a field is {{name}} or {{name:A*}}, of letters and digits")
        steps = text.split("/")
        if not text or "\\" in text or any(step in ("", ".", "..") for step in steps):
            raise ValueError(f"'{text}': write a path below the folder, with / between names")
        if any("**" in step and step != "**" for step in steps):
            raise ValueError(f"'{text}': ** stands alone between two /")
        self.text = text
        self.fields = list(dict.fromkeys(match["name"] for match in _FIELD.finditer(text)))
        self.steps = [_compiled(self._step(step, words or {}, set()), text) for step in steps]
        seen: set[str] = set()
        whole = ""
        for place, step in enumerate(steps):
            last = place == len(steps) - 1
            if step == "**":
                whole += ".+" if last else "(?:[^/]+/)*"
            else:
                whole += self._step(step, words or {}, seen) + ("" if last else "/")
        self._whole = _compiled(whole, text)

    @staticmethod
    def _step(step: str, words: Mapping[str, Iterable[str]], seen: set[str]) -> str:
        """Return one name of the path as a regular expression; ``seen``: fields before it."""
        pieces: list[str] = []
        end = 0
        for match in _FIELD.finditer(step):
            name, form = match["name"], match["form"]
            pieces.append(_glob(step[end : match.start()]))
            end = match.end()
            if name in seen:
                pieces.append(f"(?P={name})")
                continue
            seen.add(name)
            inner = _glob(form) if form else r"\d+" if name in NUMBER_FIELDS else "[^/]+?"
            if name in words:
                inner = "|".join(re.escape(word) for word in words[name])
            pieces.append(f"(?P<{name}>{inner})")
        return "".join([*pieces, _glob(step[end:])])

    def match(self, path: str) -> dict[str, str] | None:
        """Return the texts of the fields in a path, or None if it is none of these paths.

        Raises SlowPatternError.
        """
        found = self._whole.fullmatch(path)
        return None if found is None else found.groupdict()


@lru_cache(maxsize=256)
def _compiled(text: str, shown: str) -> Matcher:
    return Matcher.of(text, shown, ignore_case=True)


def _glob(text: str) -> str:
    parts = (re.escape(one) for one in re.split(r"([*?])", text))
    return "".join({r"\*": "[^/]*", r"\?": "[^/]"}.get(part, part) for part in parts)


def fields_of(template: str) -> list[str]:
    """Return the names of the fields of a template such as ``{split}/{_row:05}``."""
    return [match["name"] for match in _FIELD.finditer(template)]


def fill(template: str, values: Mapping[str, str | None]) -> str | None:
    """Return a template with its fields filled in; None if one of them is unknown.

    ``{_row:05}`` pads with zeros to five digits.
    """
    texts: list[str] = []
    end = 0
    for match in _FIELD.finditer(template):
        value = values.get(match["name"])
        if not value:
            return None
        texts += [template[end : match.start()], value.zfill(int(match["form"] or 0))]
        end = match.end()
    return "".join([*texts, template[end:]])


class LabelFiles(_Facts):
    """Files with labels: text with a row for each picture (or frame), or a ``.npy`` for each.

    Attributes:
        files: pattern of their paths. Its fields are columns of every row in the file.
        header: names of the columns, if the files have no header. A name may have fields
            (``{unit}_intensity``): then each file holds one such column of the same rows.
        skip_lines: lines at the start of a file that are no rows, before any header.
        separator: between columns; empty: ``,``, ``;`` or a tab, whichever the first line has, else
            white space.
        columns: normpipe's name → the files'.
        ignored: columns to leave out.
        only: leave out all columns but those that ``columns`` names.
        units: whether numbers in the header are action units (``12`` is AU12). The first column is
            then the frame.
        row_number: a column to make that counts a file's rows; empty: none.
        first_row: number of the first row.
        one_hot: emotion → the column that is 1 where it is the label, else 0.
        optional: whether a copy without these files is whole, too.
    """

    files: str
    header: tuple[str, ...] = ()
    skip_lines: int = 0
    separator: str = ""
    columns: dict[str, str] = {}
    ignored: tuple[str, ...] = ()
    only: bool = False
    units: bool = False
    row_number: str = ""
    first_row: int = 0
    one_hot: dict[str, str] = {}
    optional: bool = False

    @field_validator("files")
    @classmethod
    def _is_pattern(cls, value: str) -> str:
        return Pattern(value).text

    @field_validator("separator")
    @classmethod
    def _is_one(cls, value: str) -> str:
        if len(value) > 1 and value != "space":
            raise ValueError('one character, or "space" for any white space')
        return value


class ReleaseLayout(_Facts):
    """One way in which a release lies on disk.

    Attributes:
        about: which pictures these are, in a few words.
        needs: paths that a folder must have to be laid out so; alternatives are separated by ``|``.
            ``{split}`` and ``{emotion}`` stand for any known name of a split or an emotion.
        pictures: patterns of the pictures. Their fields are columns (labels, if they have a label's
            name, or any other that does not begin with ``_``).
        labels: files with labels; several are joined by ``match``.
        path: the picture of a row of labels, with columns in braces: ``Image/{_stem}.jpg``.
            ``{_name}`` is the file's name in the column ``path``, ``{_stem}`` that without ending.
        match: columns that a row of labels and its picture have in common, instead of a path. Then
            ``path`` only names pictures that are missing.
        frame_offset: number of the picture of a labelled frame, less the frame's (-1: one before).
        frames_from: number of the first labelled frame. If the pictures have the number before it,
            too, they count from there, and are shifted by one.
        pixels: whether the pictures are the numbers in a column of the first label file.
        majority: whether the emotion is what most raters chose (``docs/data.md`` has the rule).
        other_votes: columns of votes for no emotion, besides ``unknown_votes``.
        counts: published numbers of labelled rows, by split; ``all`` without splits.
        telling: whether a folder that has what it needs is this release and no other.
    """

    about: str = ""
    needs: tuple[str, ...] = ()
    pictures: tuple[str, ...] = ()
    labels: tuple[LabelFiles, ...] = ()
    path: str = ""
    match: tuple[str, ...] = ()
    frame_offset: int = 0
    frames_from: int | None = None
    pixels: bool = False
    majority: bool = False
    other_votes: tuple[str, ...] = ()
    counts: dict[str, int] = {}
    telling: bool = True

    @field_validator("pictures", "needs", mode="before")
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("pictures")
    @classmethod
    def _are_patterns(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(Pattern(one).text for one in value)

    @field_validator("needs")
    @classmethod
    def _are_needs(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for one in value:
            for choice in choices(one):
                Pattern(choice)
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> "ReleaseLayout":
        if not self.pictures and not self.path:
            raise ValueError("say where the pictures are: pictures = '…', or path = '…'")
        if self.pixels and not (self.labels and self.path):
            raise ValueError("pixels need labels (the file) and path (what a row is called)")
        if self.match and not (self.path and self.labels and (self.pictures or self.pixels)):
            raise ValueError("match needs pictures, labels, and path (to name missing pictures)")
        fields = {field for one in self.pictures for field in Pattern(one).fields}
        if "path" in fields:
            raise ValueError("{path} in pictures: choose another name, the path is known")
        lacking = next((name for name in self.match if self.pictures and name not in fields), None)
        if lacking is not None:
            raise ValueError(f"match = '{lacking}': no pattern of pictures has {{{lacking}}}")
        if self.labels and not self.path:
            raise ValueError("labels need path: the picture that a row of labels belongs to")
        if len(self.labels) > 1 and not self.match:
            raise ValueError("several labels need match: the columns that join them")
        return self


def choices(needed: str) -> list[str]:
    """Return the alternatives of one entry of ``needs``."""
    return [one.strip() for one in needed.split("|")]
