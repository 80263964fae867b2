"""Which picture of an imported set belongs to which original: by names, or by two patterns.

Both sides are compared at once, so that a name which fits two files is never decided by chance.
"""

import posixpath
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ...manifests.keys import parse_key
from ...manifests.layouts import Matcher, SlowPatternError
from ...pipeline.errors import InputError

#: How loosely names are compared; each does what the ones before it do, and more.
#: ``exact``: as they are; ``form``: in one Unicode form, without the endings of videos in folders;
#: ``suffix``: without ``_aligned`` (RAF-DB's crops); ``case``: without upper case; ``number``: a
#: number at the end counts as a number.
SPELLINGS = ("exact", "form", "suffix", "case", "number")
_ALIGNED = "_aligned"
_VIDEO = re.compile(r"\.(?:mp4|m4v|mov|avi|mkv|webm|wmv|mpe?g|flv|3gp|gif|webp|apng)$", re.I)
#: A number at the end of a name; a word that only says "frame" before it does not count.
_NUMBERED = re.compile(r"^(?:(?:frame|image|img)[ _-]*)?(.*?)0*(\d+)$", re.DOTALL)
#: Videos of at least so many frames can show that their pictures are counted from another number.
_FEWEST_FRAMES = 2

#: Folders and name, or groups: what must be equal on both sides.
Name = tuple[str, ...]

HOW = (
    "give --original and --picture (regular expressions whose groups must be equal), or --list "
    "(a table with the columns key or path, and normalized)"
)


@dataclass(frozen=True)
class Pairing:
    """The picture of each original.

    Attributes:
        found: original → picture.
        clash: originals and pictures with one name, if any; then ``found`` lacks them.
    """

    found: dict[str, str] = field(default_factory=lambda: dict[str, str]())
    clash: tuple[list[str], list[str]] | None = None


class Names:
    """The parts of the names of originals or pictures.

    Args:
        names: keys of inputs, without the dataset, or paths; escaped as in keys.
        endings: of images, in lower case; they are left out.
        suffixes: left out, too, at the end of a name.
        shift: added to the number that ends a name.
    """

    def __init__(
        self, names: Iterable[str], endings: Sequence[str], suffixes: Sequence[str], shift: int = 0
    ) -> None:
        self._endings, self._suffixes, self._shift = frozenset(endings), tuple(suffixes), shift
        self.parts = {name: self._cut(name) for name in names}

    @property
    def depth(self) -> int:
        """Return the number of parts of the longest name."""
        return max(map(len, self.parts.values()), default=0)

    @property
    def numbers_in_folders(self) -> bool:
        """Return whether a name in a folder is a mere number, which says nothing of whose it is."""
        return any(
            len(parts) > 1 and _stem(parts[-1], len(SPELLINGS)).isdecimal()
            for parts in self.parts.values()
        )

    def _cut(self, name: str) -> Name:
        key = parse_key(f"-/{name}")
        *folders, last = key.sample_id.split("/")
        stem, ending = posixpath.splitext(last)
        if key.frame is None and ending.lower() in self._endings:
            last = stem
        for suffix in self._suffixes:
            last = last.removesuffix(suffix) or last
        if key.frame is not None:
            folders, last = [*folders, last], str(key.frame)
        if key.face is not None:
            last = f"{last}_face{key.face}"
        if self._shift and (numbered := _NUMBERED.match(last)):
            last = f"{numbered[1]}{int(numbered[2]) + self._shift}"
        return (*folders, last)

    def named(self, spelling: str, depth: int) -> dict[str, Name | None]:
        """Return each with its last ``depth`` parts, spelled as loosely as ``spelling`` says."""
        level, found = SPELLINGS.index(spelling), dict[str, Name | None]()
        for name, parts in self.parts.items():
            *folders, last = parts[-depth:]
            found[name] = (*(_folder(one, level) for one in folders), _stem(last, level))
        return found


def _folder(text: str, level: int) -> str:
    if level < 1:
        return text
    text = _VIDEO.sub("", unicodedata.normalize("NFC", text))
    return text.casefold() if level >= SPELLINGS.index("case") else text


def _stem(text: str, level: int) -> str:
    if level < 1:
        return text
    text = unicodedata.normalize("NFC", text)
    if level >= SPELLINGS.index("suffix"):
        text = text.removesuffix(_ALIGNED) or text
    if level >= SPELLINGS.index("case"):
        text = text.casefold()
    return plain_number(text) if level >= SPELLINGS.index("number") else text


def plain_number(text: str) -> str:
    """Return a name whose last number has no leading zeros: ``frame_0012`` and ``12`` are equal."""
    numbered = _NUMBERED.match(text)
    return f"{numbered[1]}{numbered[2]}" if numbered else text


def pair_up(originals: Mapping[str, Name | None], pictures: Mapping[str, Name | None]) -> Pairing:
    """Pair originals and pictures of one name; names that two of one side have are a clash.

    Args:
        originals, pictures: each with its name; None for one that has none.
    """
    wanted = {name for name in originals.values() if name is not None}
    ours: dict[Name | None, list[str]] = {}
    theirs: dict[Name | None, list[str]] = {}
    for picture, name in pictures.items():
        if name in wanted:
            theirs.setdefault(name, []).append(picture)
    for original, name in originals.items():
        if name in theirs:
            ours.setdefault(name, []).append(original)
    found, clash = dict[str, str](), None
    for name, those in ours.items():
        if len(those) == 1 and len(theirs[name]) == 1:
            found[those[0]] = theirs[name][0]
        elif clash is None:
            clash = (those, theirs[name])
    return Pairing(found, clash)


@dataclass(frozen=True)
class NameRule:
    """How names were compared: how loosely, and how many parts from the end."""

    spelling: str
    depth: int


def best_rule(originals: Names, pictures: Names) -> tuple[NameRule, Pairing]:
    """Return the rule that pairs most; of equal ones the first: fewer parts, then stricter.

    Raises:
        InputError: under that rule a name fits two files, or no rule pairs any.
    """
    deepest = max(originals.depth, pictures.depth)
    # F1/001 and F2/001 have one name, but are two people.
    least = 2 if originals.numbers_in_folders and pictures.numbers_in_folders else 1
    most = min(len(originals.parts), len(pictures.parts))
    best, found = None, Pairing()
    ambiguous: Pairing | None = None
    for depth in range(least, max(deepest, least) + 1):
        for spelling in SPELLINGS:
            one = by_rule(originals, pictures, NameRule(spelling, depth))
            if one.clash is not None:
                if ambiguous is None or len(one.found) > len(ambiguous.found):
                    ambiguous = one
            elif len(one.found) > len(found.found):
                best, found = NameRule(spelling, depth), one
            if len(found.found) == most:
                return NameRule(spelling, depth), found
    unclear = ambiguous is not None and (best is None or len(ambiguous.found) > len(found.found))
    if unclear and ambiguous is not None and ambiguous.clash is not None:
        raise InputError(clash_line(ambiguous.clash))
    if best is None:
        ours, theirs = next(iter(originals.parts), "none"), next(iter(pictures.parts), "none")
        raise InputError(
            f"no picture has the name of an original (originals such as {ours}, pictures such as "
            f"{theirs}): {HOW}"
        )
    return best, found


def by_rule(originals: Names, pictures: Names, rule: NameRule) -> Pairing:
    """Return what a rule pairs."""
    return pair_up(*(one.named(rule.spelling, rule.depth) for one in (originals, pictures)))


def clash_line(clash: tuple[list[str], list[str]]) -> str:
    """Return the message about files of one name."""
    ours, theirs = clash
    if len(theirs) > 1:
        return (
            f"two pictures fit {ours[0]}: {theirs[0]} and {theirs[1]}; give the folder of one "
            f"identity alone, remove one of them, or {HOW}"
        )
    return (
        f"one picture, {theirs[0]}, fits two originals: {ours[0]} and {ours[1]}; give the folder "
        f"above it, if its name tells them apart, or {HOW}"
    )


def refuse_shifted(originals: Names, pictures: Names, rule: NameRule) -> None:
    """Raise InputError if frames seem to be counted from another number than their pictures."""
    ours, theirs = (_numbers(names, rule) for names in (originals, pictures))
    both = [name for name in ours if name in theirs and len(ours[name]) >= _FEWEST_FRAMES]
    for step in (1, -1):
        moved = [name for name in both if _is_moved(ours[name], theirs[name], step)]
        if moved and 2 * len(moved) >= len(both):
            where = "/".join(map(str, moved[0])) or "the originals"
            raise InputError(
                f"the frames of {where} are numbered {min(ours[moved[0]])} to "
                f"{max(ours[moved[0]])}, their pictures {min(theirs[moved[0]])} to "
                f"{max(theirs[moved[0]])}: give --shift {step} if a picture's number is its "
                f"frame's {step:+d}, or --shift 0 if equal numbers belong together"
            )


def _is_moved(ours: set[int], theirs: set[int], step: int) -> bool:
    """Return whether numbers fit when moved by ``step``, and do not as they are."""
    first, last = (min(ours), max(ours)) if step > 0 else (max(ours), min(ours))
    return first not in theirs and last + step in theirs and theirs <= {n + step for n in ours}


def _numbers(names: Names, rule: NameRule) -> dict[Name, set[int]]:
    """Return the numbers that end names, by all else of the name."""
    found: dict[Name, set[int]] = {}
    for name in names.named("number", rule.depth).values():
        if name and (numbered := _NUMBERED.match(name[-1])):
            found.setdefault((*name[:-1], numbered[1]), set()).add(int(numbered[2]))
    return found


def by_patterns(
    originals: Iterable[str], pictures: Iterable[str], patterns: tuple[str, str], shift: int
) -> Pairing:
    """Pair by the groups of two regular expressions, searched in keys and in paths.

    Numbers are compared as numbers. An empty pattern stands for the whole name without folders and
    ending. ``shift`` is added to the last number of an original.

    Raises:
        InputError: an expression is none, or takes too long; both have different numbers of
            groups; or a name fits two files.
    """
    ours, theirs = (
        _grouped(text, option)
        for text, option in zip(patterns, ("original", "picture"), strict=True)
    )
    counts = [one.groups or 1 for one in (ours, theirs)]
    if counts[0] != counts[1]:
        raise InputError(
            f"--original has {counts[0]} groups and --picture {counts[1]}: they are compared one "
            "by one, so give both the same number"
        )
    try:
        found = pair_up(
            {name: _groups(ours, name, shift) for name in originals},
            {name: _groups(theirs, name, 0) for name in pictures},
        )
    except SlowPatternError as error:
        raise InputError(f"the regular expression {error}") from None
    if found.clash is not None:
        raise InputError(clash_line(found.clash))
    return found


#: What an empty pattern stands for: the last part without its ending, ``12`` of ``clip#frame12``.
_STEM = r"(?:^|/|#frame)([^/#]+?)(?:\.\w+)?(?:#face\d+)?$"


def _grouped(pattern: str, option: str) -> Matcher:
    try:
        return Matcher.of(pattern or _STEM)
    except ValueError as error:
        raise InputError(
            f"--{option} '{pattern}' is no regular expression ({error}): correct it"
        ) from None


def _groups(pattern: Matcher, name: str, shift: int) -> Name | None:
    match = pattern.search(unicodedata.normalize("NFC", name))
    if match is None:
        return None
    found = [one or "" for one in match.groups()] or [match[0]]
    numbers = [i for i, one in enumerate(found) if one.isdecimal()]
    for i in numbers:
        found[i] = str(int(found[i]) + (shift if i == numbers[-1] else 0))
    return tuple(found)
