"""Advice for a plain folder that looks like a release, or has folders of splits or emotions."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from ....manifests.datasets import SPLITS, load_description
from ....manifests.vocabularies import EMOTION_SYNONYMS, EMOTIONS
from .release import recognized

_SHOWN = 8


def advice_for(folder: Path, paths: Sequence[str], class_per_folder: bool) -> list[str]:
    """Return lines of advice about a folder that is read without a description; mostly none.

    Args:
        folder: the input.
        paths: of its pictures.
        class_per_folder: whether their folders are read as emotions already.
    """
    known = recognized(folder)
    if known:
        titles = " or ".join(load_description(name).title for name in known)
        first, *others = known
        also = f" (or --release {' or '.join(others)})" if others else ""
        return [
            f"{folder} looks like {titles}; its labels are not read like this: "
            f"{_command(first, folder)}{also} reads them"
        ]
    folders = [path.split("/")[:-1] for path in paths]
    first = {steps[0] for steps in folders if steps}
    last = {steps[-1] for steps in folders if steps}
    splits = _named(first, {*SPLITS})
    emotions = _named(last, {*EMOTIONS, *EMOTION_SYNONYMS})
    if splits:
        also = f", and {', '.join(emotions[:_SHOWN])} as emotions" if emotions else ""
        return [
            f"the folders {', '.join(splits)} are not read as splits like this: "
            f"{_command('folders', folder)} reads them as splits{also}"
        ]
    if emotions and not class_per_folder:
        return [
            f"the folders {', '.join(emotions[:_SHOWN])} are not read as emotions like this: "
            "--set ingest.class_per_folder=true reads them as labels"
        ]
    return []


def _command(release: str, folder: Path) -> str:
    # Another output: this one has rows for pictures that the release may not have.
    place = shlex.quote(str(folder))
    return f"normpipe run --release {release} --input {place} --output ANOTHER_OUT"


def _named(folders: set[str], words: set[str]) -> list[str]:
    """Return the folders in order if there are several and all of them are such words."""
    found = sorted(one for one in folders if one.lower() in words)
    return found if len(found) > 1 and len(found) == len(folders) else []
