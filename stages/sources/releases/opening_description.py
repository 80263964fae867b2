"""Opens the description of a release: a known one, or a user's file."""

from __future__ import annotations

from pathlib import Path

from ....manifests.datasets import Description, described_in, load_description
from ....pipeline.errors import InputError


def open_description(name: str, file: Path | None) -> Description:
    """Return the description of a known release, or of a user's file.

    Raises InputError if there is none, or it is not valid.
    """
    if file is None:
        try:
            return load_description(name)
        except ValueError as error:
            raise InputError(f"{error} (normpipe releases lists them)") from None
    try:
        description = described_in(file.read_text(encoding="utf-8"), file.stem)
    except OSError as error:
        raise InputError(f"cannot read the description {file}: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"{file} is no description of a release: {error}") from None
    if not description.layouts:
        raise InputError(f"{file} says nothing of the layout: add a table [layouts.NAME]")
    return description
