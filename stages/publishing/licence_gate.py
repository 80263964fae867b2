"""What may be given to others: the terms of the dataset that an export's pictures come from."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import cv2
import skimage.data

from ...manifests.datasets import Description, Terms, described, load_description
from ...pipeline.errors import InputError
from ..sources.releases.opening_description import open_description

#: What an export may give to others, as fields of ``Terms``, with their names for people.
PARTS = {
    "derived_pictures": "pictures made from its pictures",
    "originals": "its pictures, cropped",
    "labels": "its labels",
}
#: A release that is no dataset: folders of anyone's.
_NO_DATASET = "folders"
#: The samples: renders of ICT-FaceKit Light (MIT), and a portrait in the public domain (NOTICE).
_SAMPLES = Terms(
    licence="apache-2.0",
    originals="yes",
    derived_pictures="yes",
    labels="yes",
    non_commercial="no",
    sources=("normpipe, NOTICE",),
)


@dataclass(frozen=True)
class Origin:
    """The dataset that pictures come from.

    Attributes:
        title: its name; empty: unknown.
        terms: what its agreement allows; None: no description says so.
        by: who says so.
        description: of the release, if it is known.
    """

    title: str = ""
    terms: Terms | None = None
    by: Literal["normpipe", "a description of the user's", ""] = ""
    description: Description | None = None


@dataclass(frozen=True)
class Grant:
    """Under which terms an export is made; the card states all of it.

    Attributes:
        origin: what the pictures come from.
        licence: name or SPDX identifier; empty: unknown.
        stated: whether the user gave the licence.
        permission: what the user says about the owner's permission; empty: none was needed.
        needed: what the permission was needed for, as fields of ``Terms``.
        non_commercial: whether only non-commercial use is allowed, as far as is known.
    """

    origin: Origin
    licence: str
    stated: bool
    permission: str
    needed: tuple[str, ...]
    non_commercial: Literal["yes", "no", "unknown"]


def find_origin(job: Mapping[str, Any], source_sha256: Iterable[str | None]) -> Origin:
    """Return the dataset that a job read.

    Args:
        job: as saved in its folder.
        source_sha256: of the files of its usable faces.
    """
    if _only_samples(source_sha256):
        return Origin("samples of normpipe", _SAMPLES, "normpipe")
    ingest = job.get("ingest", {})
    file = ingest.get("release_file") or None
    if file is not None:
        try:
            own = open_description("", Path(file))
        except InputError:  # it has moved since: then nobody says what is allowed
            return Origin()
        return Origin(own.title or own.name, own.terms, "a description of the user's", own)
    name = ingest.get("release") or _described_name(str(job.get("dataset", "")))
    if name not in described() or name == _NO_DATASET:
        return Origin()
    known = load_description(name)
    return Origin(known.title, known.terms, "normpipe", known)


def _described_name(dataset: str) -> str:
    """Return the described dataset that a job's dataset is named after; "" if there is none."""
    plain = _plain(dataset)
    named = (n for n in described() if plain in (_plain(n), _plain(load_description(n).title)))
    return next(named, "") if plain else ""


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9+]", "", name.lower())


def _only_samples(source_sha256: Iterable[str | None]) -> bool:
    """Return whether all files are the package's samples, and there are some."""
    known: set[str] | None = None
    for digest in source_sha256:
        if known is None:
            known = _sample_digests()
        if digest not in known:
            return False
    return known is not None


def _sample_digests() -> set[str]:
    folder = Path(str(files("normpipe.stages") / "samples"))
    found = {hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    # The demo's photograph, as `sample_list` writes it.
    pixels = cv2.cvtColor(skimage.data.astronaut(), cv2.COLOR_RGB2BGR)
    return found | {hashlib.sha256(cv2.imencode(".png", pixels)[1].tobytes()).hexdigest()}


def require_grant(origin: Origin, parts: Sequence[str], licence: str, permission: str) -> Grant:
    """Return the terms of an export, or refuse it.

    Args:
        origin: what the pictures come from.
        parts: what is exported, of ``PARTS``.
        licence: given by the user; empty: none.
        permission: the same.

    Raises:
        InputError: nothing says that this may be given to others; the line says what is missing.
    """
    terms = origin.terms
    if terms is None:
        if not licence:
            raise InputError(
                "nothing says what may be done with these pictures, for their dataset is not one "
                "that normpipe knows: add --licence 'NAME', such as CC-BY-4.0 or 'all rights ours'"
            )
        if _no_derivatives(licence) and not permission:
            raise InputError(
                f"'{licence}' forbids pictures made from its pictures: with the owner's "
                "permission, add --i-have-permission 'WHOSE, AND WHEN'"
            )
        commercial = "yes" if re.search(r"\bNC\b|non.?commercial", licence, re.I) else "unknown"
        needed = ("derived_pictures",) if _no_derivatives(licence) else ()
        return Grant(origin, licence, True, permission, needed, commercial)
    needed = tuple(part for part in parts if getattr(terms, part) != "yes")
    if needed and not permission:
        raise InputError(f"{_why_not(origin.title, terms, needed)}. {_ADVICE}")
    return Grant(
        origin, licence or terms.licence, bool(licence), permission, needed, terms.non_commercial
    )


_ADVICE = (
    "Ask its owners; with their permission, add --i-have-permission 'WHOSE, AND WHEN', which the "
    "card states"
)


def _why_not(title: str, terms: Terms, needed: Sequence[str]) -> str:
    forbidden = [PARTS[part] for part in needed if getattr(terms, part) == "no"]
    unknown = [PARTS[part] for part in needed if getattr(terms, part) == "unknown"]
    said: list[str] = []
    if forbidden:
        said.append(f"its agreement forbids giving others {' and '.join(forbidden)}")
    if unknown:
        said.append(f"no source says that others may get {' and '.join(unknown)}")
    sources = f" ({'; '.join(terms.sources)})" if terms.sources else ""
    return f"{title}: {', and '.join(said)}{sources}"


def _no_derivatives(licence: str) -> bool:
    return re.search(r"\bND\b|no.?deriv", licence, re.IGNORECASE) is not None
