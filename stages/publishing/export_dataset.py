"""export: hands the normalized faces of a job to others, in formats that other tools read.

An export is made part by part. What is whole is recorded in ``.export/`` in its folder, so that
the same command goes on after a kill and ends with the same bytes. The last file is ``SHA256SUMS``:
an export that has it is complete.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...pipeline.errors import OutputError, first_few
from ...pipeline.store.commit import (
    fsync_folder,
    json_bytes,
    remove_temporaries,
    write_bytes,
    write_json,
)
from ...pipeline.store.lock import LOCK_FILE, locked
from .croissant import croissant_of
from .dataset_card import CardFacts, dataset_card
from .export_files import FORMATS, WrittenFile
from .export_plan import ExportPart, ExportPlan
from .export_sums import ABOUT_FILE, SUMS_FILE, changed_files, read_sums, saved_object

log = logging.getLogger("normpipe")

CARD_FILE, CROISSANT_FILE = "README.md", "croissant.json"
#: While it is made: what is whole.
_WORK = ".export"
_STATE = "state.json"
#: Raised when the same plan gives other bytes than before.
_VERSION = 1


@dataclass(frozen=True)
class Exported:
    """A finished export: ``about`` is the content of its ``export.json``."""

    target: Path
    about: dict[str, Any]
    again: bool

    def lines(self) -> list[str]:
        """Return lines that account for every row."""
        left = self.about["left_out"]
        splits = ", ".join(f"{name} {count}" for name, count in self.about["splits"].items())
        count = sum(left.values())
        counted = ", ".join(f"{reason} {n}" for reason, n in left.items())
        already = " (already complete: nothing was written)" if self.again else ""
        return [
            f"{self.about['exported']} of {self.about['rows']} rows exported: {splits}",
            f"{count} left out" + (f": {counted}" if counted else ""),
            f"{self.about['format']}: {self.target}{already}",
        ]


def is_begun(plan: ExportPlan, facts: CardFacts, layout: str, target: Path) -> bool:
    """Return whether the same export was begun, or finished, in a folder before."""
    state = saved_object(target / _WORK / _STATE) or saved_object(target / ABOUT_FILE)
    return state is not None and state.get("fingerprint") == _fingerprint(plan, facts, layout)


def export_dataset(
    plan: ExportPlan, facts: CardFacts, layout: str, target: Path, overwrite: bool
) -> Exported:
    """Write an export, or what is left of it.

    Args:
        plan: what it has.
        facts: what its card says besides.
        layout: of ``FORMATS``.
        target: its folder: new, empty, or of the same export.
        overwrite: replace another export there.

    Raises:
        OutputError: the folder holds something else, or cannot be written.
    """
    wanted = _fingerprint(plan, facts, layout)
    with locked(target):
        if _is_complete(target, wanted):
            return Exported(target, _about(plan, facts, layout, wanted), again=True)
        _make_room(target, wanted, overwrite)
        work = target / _WORK
        write_json(work / _STATE, {"fingerprint": wanted})
        log.info("export: %d rows in %d parts", plan.exported, len(plan.parts))
        for number, part in enumerate(plan.parts, 1):
            if not _part_file(target, part).is_file():
                made = FORMATS[layout].write(plan, part, target)
                write_json(_part_file(target, part), [list(one) for one in made])
            log.info("export: %d of %d parts", number, len(plan.parts))
        about = _finish(plan, facts, layout, target, wanted)
        shutil.rmtree(work)
        fsync_folder(target)
    return Exported(target, about, again=False)


def _finish(
    plan: ExportPlan, facts: CardFacts, layout: str, target: Path, wanted: str
) -> dict[str, Any]:
    """Write all that describes the parts; the checksums are last. Return ``export.json``."""
    finish = FORMATS[layout].finish

    def written(part: ExportPart) -> list[WrittenFile]:
        return _written(target, part)

    tables = finish(plan, written, target) if finish is not None else []

    def pictures() -> Iterator[WrittenFile]:
        for part in plan.parts:
            yield from written(part)
        yield from tables

    sizes = dict.fromkeys(plan.splits, 0)
    for part in plan.parts:
        sizes[part.split] += sum(one.bytes for one in written(part))
    about = _about(plan, facts, layout, wanted)
    card = dataset_card(plan, facts, layout, sizes).encode()
    described = {CARD_FILE: card, ABOUT_FILE: json_bytes(about, ascii_only=False)}
    if layout == "hub":
        described[CROISSANT_FILE] = json_bytes(croissant_of(plan, facts, written), ascii_only=False)
    sums: list[str] = []
    for name, data in described.items():
        write_bytes(target / name, data)
        sums.append(f"{hashlib.sha256(data).hexdigest()}  {name}\n")
    sums += [f"{one.sha256}  {one.path}\n" for one in pictures()]
    write_bytes(target / SUMS_FILE, "".join(sums).encode())
    return about


def _about(plan: ExportPlan, facts: CardFacts, layout: str, wanted: str) -> dict[str, Any]:
    """Return the content of ``export.json``."""
    return {
        "normpipe_export": _VERSION,
        "normpipe": facts.version,
        "name": plan.request.name,
        "format": layout,
        "rows": plan.rows,
        "exported": plan.exported,
        "splits": plan.splits,
        "left_out": plan.left_out,
        "columns": [one.name for one in plan.columns],
        "originals": plan.request.with_originals,
        "hashed_keys": plan.request.salt is not None,
        "licence": facts.grant.licence,
        "permission": facts.grant.permission,
        "fingerprint": wanted,
    }


def _fingerprint(plan: ExportPlan, facts: CardFacts, layout: str) -> str:
    request, grant = plan.request, facts.grant
    salt = "" if request.salt is None else hashlib.sha256(request.salt).hexdigest()
    what = [
        *(_VERSION, layout, plan.content, request.variant, request.name, request.file_rows),
        *([one.name for one in plan.columns], [*plan.classes], request.with_originals, salt),
        *(grant.origin.title, grant.licence, grant.permission),
    ]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()


def _part_file(target: Path, part: ExportPart) -> Path:
    return target / _WORK / "parts" / f"{part.name}.json"


def _written(target: Path, part: ExportPart) -> list[WrittenFile]:
    """Return the files of a part that is whole."""
    return [WrittenFile(*one) for one in json.loads(_part_file(target, part).read_bytes())]


# ---------------------------------------------------------------- the folder


def _is_complete(target: Path, wanted: str) -> bool:
    """Return whether the same export is finished there.

    Raises OutputError if it is, and its files were changed since.
    """
    about = saved_object(target / ABOUT_FILE)
    if about is None or about.get("fingerprint") != wanted or not (target / SUMS_FILE).is_file():
        return False
    if (target / _WORK).is_dir():  # killed when all but this was done
        shutil.rmtree(target / _WORK)
    changed = changed_files(target)
    if changed:
        raise OutputError(
            f"{target} was changed since it was exported ({first_few(changed, 3)}): put it right, "
            "or choose another --to"
        )
    return True


def _make_room(target: Path, wanted: str, overwrite: bool) -> None:
    """Let a folder hold only what is whole of the same export.

    Raises OutputError if it holds anything else that may not be replaced.
    """
    state = saved_object(target / _WORK / _STATE)
    about = saved_object(target / ABOUT_FILE)
    if state is not None and state.get("fingerprint") == wanted:
        remove_temporaries(target)
        return
    ours = state is not None or (about is not None and "normpipe_export" in about)
    held = [path.name for path in sorted(target.iterdir()) if path.name != LOCK_FILE]
    if held and set(held) != {_WORK} and not ours:
        raise OutputError(
            f"{target} is not empty ({first_few(held, 3)}) and no export: choose another --to"
        )
    if ours and not overwrite:
        raise OutputError(
            f"{target} holds another export (of other rows, or made with other options): choose "
            "another --to, or add --overwrite"
        )
    _remove_export(target)


def _remove_export(target: Path) -> None:
    """Remove an export, whole or not, and no other files."""
    names: list[str] = []
    if (target / SUMS_FILE).is_file():
        names = [*read_sums(target)] if (target / ABOUT_FILE).is_file() else []
        (target / SUMS_FILE).unlink()
    for record in sorted((target / _WORK).glob("parts/*.json")):
        names += [path for path, _, _ in json.loads(record.read_bytes())]
    remove_temporaries(target)
    for name in [*names, CARD_FILE, CROISSANT_FILE, ABOUT_FILE]:
        path = target / name
        if path.resolve().is_relative_to(target.resolve()):
            path.unlink(missing_ok=True)
    shutil.rmtree(target / _WORK, ignore_errors=True)
    for folder in sorted((p for p in target.rglob("*") if p.is_dir()), reverse=True):
        if not any(folder.iterdir()):
            folder.rmdir()
    held = [path.name for path in sorted(target.iterdir()) if path.name != LOCK_FILE]
    if held:
        raise OutputError(
            f"{target} holds files that are not of the export ({first_few(held, 3)}): remove them, "
            "or choose another --to"
        )
