"""Label files beside the pictures of an archive, in the layout of WebDataset.

``000001.cls``, ``000001.json`` and ``000001.txt`` are about ``000001.jpg``. WebDataset's names end
at the first point of a file name; names up to the last point are understood as well.
"""

import logging
import posixpath
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ....manifests.vocabularies import SampleError
from ..lists.json_lines import json_object
from .archives import Archive

log = logging.getLogger("normpipe")

#: Endings of label files. ``cls`` is a class by number or name, ``json`` an object, ``txt`` a text.
SIDECARS = ("cls", "json", "txt")
#: Larger ones are not read.
_MOST_BYTES = 2**20


@dataclass
class Sidecars:
    """What the label files of an archive say.

    Attributes:
        records: fields of each picture; empty for those without a label file.
        used: names of the label files that belong to a picture.
        unread: label files that could not be read, and why.
    """

    records: list[dict[str, Any]]
    used: set[str] = field(default_factory=lambda: set[str]())
    unread: list[str] = field(default_factory=lambda: list[str]())


def read_sidecars(archive: Archive, pictures: Sequence[str]) -> Sidecars:
    """Read the label files of some of an archive's pictures, given by name."""
    files = _by_name(member.path for member in archive.members)
    found = Sidecars([])
    read: dict[str, dict[str, Any]] = {}
    for picture in pictures:
        record: dict[str, Any] = {}
        for ending in SIDECARS:
            name = next(
                (f"{n}.{ending}" for n in _names(picture) if ending in files.get(n, ())), ""
            )
            if not name:
                continue
            found.used.add(name)
            if name not in read:
                read[name] = _read(archive, name, ending, found.unread)
            # A field of the JSON and a file may have the same name: the file's is the simpler.
            record |= read[name]
        found.records.append(record)
    if found.unread:
        log.warning(
            "%s: %d label files cannot be read, so their pictures lack those labels (first: %s)",
            *(archive.path.name, len(found.unread), found.unread[0]),
        )
    return found


def _by_name(paths: Iterable[str]) -> dict[str, set[str]]:
    """Return the endings of the label files with a name, by name."""
    files: dict[str, set[str]] = {}
    for path in paths:
        name, _, ending = path.rpartition(".")
        if ending in SIDECARS:
            files.setdefault(name, set()).add(ending)
    return files


def _names(picture: str) -> tuple[str, str]:
    """Return what a label file of a picture is named: up to its last point, or its first."""
    folder, name = posixpath.split(picture)
    return posixpath.splitext(picture)[0], posixpath.join(folder, name.partition(".")[0])


def _read(archive: Archive, name: str, ending: str, unread: list[str]) -> dict[str, Any]:
    try:
        data = archive.read(name, _MOST_BYTES)
        return json_object(data) if ending == "json" else {ending: data.decode().strip()}
    except SampleError as error:
        if error.reason == "empty_file":
            return {}
        unread.append(f"{name}: {error.reason}")
    except ValueError as error:  # of JSON, and of text that is not UTF-8
        unread.append(f"{name}: {error}")
    return {}


def frequent_fields(records: Sequence[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """Return records with the most frequent fields only; log how many were left out."""
    counts = Counter(name for record in records for name in record)
    if len(counts) <= most:
        return list(records)
    kept = {name for name, _ in counts.most_common(most)}
    log.warning("labels: %d rare fields are left out", len(counts) - most)
    return [{n: v for n, v in record.items() if n in kept} for record in records]
