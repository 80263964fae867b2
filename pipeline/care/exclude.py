"""Leave rows of a job out where it is read, and take them in again: nothing is made anew."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute

from ...manifests.schema import OPENED_FIRST
from ..errors import InputError, first_few, printable
from ..read.columns import rows_where
from ..read.exclusions import EXCLUDED, SCHEMA, read_exclusions, write_exclusions
from ..read.opening import open_rows
from ..store.derive import derive_again
from ..store.job_file import read_job
from ..store.labels import job_folder
from ..store.lock import locked
from ..store.shards import ShardFolder
from ..store.storage import parquet_file
from ..store.tombstones import refuse_unfinished, today
from .withdraw import described_datasets

# pyarrow makes these functions at run time; no type checker sees them.
pc: Any = pyarrow.compute

#: Characters of a reason, and unknown keys that a message names with a near one.
_LONGEST, _NAMED = 200, 3
#: Known keys that are compared with an unknown one, where none has its name.
_COMPARED = 20_000


@dataclass(frozen=True)
class ListedKeys:
    """The keys of a list.

    Attributes:
        name: of the list, for messages and as the reason.
        reasons: key → the reason that the list has for it; empty where it has none.
    """

    name: str
    reasons: dict[str, str]


@dataclass(frozen=True)
class Exclusion:
    """What a command excluded, or took in again.

    Attributes:
        changed: keys that were added or removed.
        same: keys that were given and already so.
        unknown: keys of a list that the job does not have; they are not kept.
        excluded: keys that are excluded now.
    """

    changed: int
    same: int
    unknown: tuple[str, ...]
    excluded: int


def read_key_list(path: Path) -> ListedKeys:
    """Read keys: a CSV with a column ``key``, and maybe ``reason``, or one key a line.

    Raises InputError if it is neither, is empty, or cannot be read.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the list {path}: {error}") from None
    try:
        rows = list(csv.DictReader(io.StringIO(text), strict=True))
    except csv.Error:
        rows = []
    if rows and "key" in rows[0]:
        found = {row["key"] or "": row.get("reason") or "" for row in rows}
    else:
        found = {line.rstrip("\r"): "" for line in text.split("\n")}
    found = {key: reason for key, reason in found.items() if key.strip() and key != "key"}
    if not found:
        raise InputError(f"{path} names no key: give a CSV with a column 'key', or one key a line")
    return ListedKeys(path.name, found)


def exclude(
    path: Path, given: ListedKeys | str, reason: str = "", allow_unknown: bool = False
) -> Exclusion:
    """Leave out the rows of a job that a list names, or that a condition holds for.

    Args:
        path: the job's folder, or one of its datasets, whose columns a condition is on.
        given: a list; or a condition, see ``rows_where``: it is looked up once, so that inputs
            that are added later are not excluded by it.
        reason: for all of them; empty: that of the list, else what was given.
        allow_unknown: do not refuse a list with keys that the job does not have.

    Raises:
        InputError: not a job's folder, unknown keys, or a condition that is none.
    """
    root, reason = _job(path), _checked_reason(reason)
    with locked(root):
        refuse_unfinished(root)
        before = read_exclusions(root)
        if isinstance(given, str):
            reasons = dict.fromkeys(_matching(path, given, "ok"), reason or _one_line(given))
            unknown: list[str] = []
        else:
            unknown = _unknown(root, given, allow_unknown)
            kept = given.reasons.keys() - {*unknown}
            reasons = {
                key: reason or _one_line(given.reasons[key]) or f"listed in {given.name}"
                for key in given.reasons
                if key in kept
            }
        old = {row["key"]: row for row in before.to_pylist()}
        new = {key: why for key, why in reasons.items() if key not in old}
        added = [{"key": key, "reason": why, "excluded_on": today()} for key, why in new.items()]
        if reason:  # said anew
            old |= {key: {**old[key], "reason": reason} for key in reasons if key in old}
        _write(root, [*old.values(), *added])
        return Exclusion(len(new), len(reasons) - len(new), tuple(unknown), len(old) + len(added))


def include(
    path: Path, given: ListedKeys | str | None = None, allow_unknown: bool = False
) -> Exclusion:
    """Take excluded rows in again; arguments and errors as of ``exclude``.

    Args:
        given: a list; a condition on rows that are excluded; None: all of them.
    """
    root = _job(path)
    with locked(root):
        refuse_unfinished(root)
        old = {row["key"]: row for row in read_exclusions(root).to_pylist()}
        unknown: list[str] = []
        if given is None:
            keys = {*old}
        elif isinstance(given, str):
            keys = _matching(path, given, EXCLUDED, all_names=True) & old.keys()
        else:
            keys = given.reasons.keys() & old.keys()
            unknown = [key for key in given.reasons if key not in old]
            if unknown and not allow_unknown:
                raise InputError(_complaint(given, unknown, "not excluded", [*old], [*old]))
        kept = [row for key, row in old.items() if key not in keys]
        _write(root, kept)
        return Exclusion(len(keys), 0, tuple(unknown), len(kept))


def exclusion_lines(path: Path) -> list[str]:
    """Return the excluded keys of a job as lines of CSV, as ``read_key_list`` takes them.

    Raises InputError if it is not a job's folder.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(SCHEMA.names)
    writer.writerows(row.values() for row in read_exclusions(_job(path)).to_pylist())
    return stream.getvalue().splitlines()


def _job(path: Path) -> Path:
    root = job_folder(path)
    read_job(root)
    return root


def _checked_reason(reason: str) -> str:
    if len(reason) > _LONGEST or reason != printable(reason):
        raise InputError(f"--reason: give one line of at most {_LONGEST} characters")
    return reason.strip()


def _one_line(text: str) -> str:
    return printable(text).strip()[:_LONGEST]


def _write(root: Path, rows: Sequence[dict[str, str]]) -> None:
    """Write the exclusions, then the manifests of the datasets, which name the file."""
    write_exclusions(root, pa.Table.from_pylist([*rows], SCHEMA))
    for name in described_datasets(root):
        if ShardFolder(root / name).manifest_path.is_file():
            derive_again(root, name)


def _matching(path: Path, condition: str, status: str, all_names: bool = False) -> set[str]:
    """Return the keys of rows with a status that a condition holds for, without their variants.

    ``all_names``: also the rows' keys with a variant, and those of their inputs.
    """
    rows = _rows_where(path, condition)
    rows = rows.filter(pc.equal(rows["status"], status))
    names = ["_source", *(["key", "parent_key"] if all_names else [])]
    return {key for name in names for key in rows[name].to_pylist()}


def _rows_where(path: Path, condition: str) -> pa.Table:
    """Return the rows that a condition holds for, of the first dataset that has its columns."""
    if path.resolve() != job_folder(path).resolve():
        return rows_where(open_rows(path, None, "all"), condition)
    # Later datasets have the columns of earlier ones, if they refer to them.
    finished = [name for name in described_datasets(path) if ShardFolder(path / name).records()]
    errors: list[InputError] = []
    order = [name for name in finished if name == OPENED_FIRST]
    for name in dict.fromkeys([*order, *reversed(finished)]):
        try:
            return rows_where(open_rows(path / name, None, "all"), condition)
        except InputError as error:
            errors.append(error)
    if not errors:
        raise InputError(f"{path} has no finished shard: run the job first")
    # Best one that names a near column.
    raise next((one for one in errors if "did you mean" in str(one)), errors[0])


def _unknown(root: Path, given: ListedKeys, allowed: bool) -> list[str]:
    """Return the listed keys that no dataset of a job has. Raises InputError unless allowed."""
    left = pa.array(given.reasons, pa.string())
    for name in described_datasets(root):
        for keys in _keys(root, name):
            left = left.filter(pc.invert(pc.is_in(left, value_set=keys)))
            if not len(left):
                return []
    unknown: list[str] = left.to_pylist()
    if allowed:
        return unknown
    words = {_name(key) for key in unknown[:_NAMED]}
    near: list[str] = []
    compared: list[str] = []
    for name in described_datasets(root):
        for keys in _keys(root, name):
            for key in keys.to_pylist():
                if _name(key) in words:
                    near.append(key)
                elif len(compared) < _COMPARED:
                    compared.append(key)
    raise InputError(_complaint(given, unknown, "not in the job", near, compared))


def _keys(root: Path, dataset: str) -> Iterable[pa.Array]:
    folder = ShardFolder(root / dataset)
    for number in folder.records():
        try:
            with parquet_file(folder.shard(number)) as file:
                yield file.read(["key"])["key"].combine_chunks()
        except (OSError, pa.ArrowException) as error:
            line = str(error).splitlines()[0]
            raise InputError(f"cannot read {folder.shard(number)}: {line}; see verify") from None


def _name(key: str) -> str:
    """Return the last part of a key, without ending, face and case: what people mistype least."""
    return key.partition("#")[0].rpartition("/")[2].rsplit(".", 1)[0].lower()


def _complaint(
    given: ListedKeys, unknown: list[str], what: str, near: list[str], others: Sequence[str] = ()
) -> str:
    """Return one line that names unknown keys, each with a near one if there is one."""
    said: list[str] = []
    for key in unknown[:_NAMED]:
        alike = [one for one in near if _name(one) == _name(key)]
        match = get_close_matches(key, alike, 1, 0.0) or get_close_matches(key, others, 1, 0.5)
        said.append(f"{key} (did you mean {match[0]}?)" if match else key)
    count = len(unknown)
    return (
        f"{count} of the {len(given.reasons)} keys in {given.name} {'is' if count == 1 else 'are'} "
        f"{what}: {first_few([*said, *unknown[_NAMED:]])}; give --allow-unknown to take the others"
    )
