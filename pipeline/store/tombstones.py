"""``withdrawn.json``: who was withdrawn from a job's folder, so that no one of them comes back.

Keys may contain names, so the file stores them as keyed hashes (HMAC-SHA256 with a random salt per
folder). A key that turns up again is recognized; the list cannot be read. Anyone who has the folder
can still test a guess: without that, a key could not be kept out.
"""

import datetime
import hashlib
import hmac
import json
import os
from collections.abc import Iterable, Set
from pathlib import Path
from typing import Literal, Self

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from ..errors import InputError
from ..stage import Scan

WITHDRAWN_FILE = "withdrawn.json"
#: Rows that are left out where a job is read (``read.exclusions``).
EXCLUDED_FILE = "excluded.parquet"
#: Exists from the first change of a withdrawal to the last (``care.withdrawal``).
INTENT_FILE = "withdrawing.json"
#: ``reason`` and ``decided_by`` of the rows that replace a withdrawn person's.
WITHDRAWN, DECIDED_BY = "withdrawn", "withdraw"

_Hash = str


class Withdrawal(BaseModel):
    """The record of one withdrawal."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    on: str
    by: tuple[Literal["subject", "key"], ...]
    inputs: int
    rows: int


class Withdrawn(BaseModel):
    """All withdrawals of a job's folder.

    Attributes:
        sha256: of everything else; "" in files from before this field. One flipped bit of a hash
            would silently let its person come back.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    salt: str
    keys: tuple[_Hash, ...] = ()
    subjects: tuple[_Hash, ...] = ()
    withdrawals: tuple[Withdrawal, ...] = ()
    sha256: str = ""

    @model_validator(mode="after")
    def _undamaged(self) -> Self:
        if self.sha256 and self.sha256 != self._digest():
            raise ValueError("its content is not what was written")
        return self

    def _digest(self) -> str:
        plain = self.model_dump(mode="json", exclude={"sha256"})
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()

    def hashed(self, text: str) -> _Hash:
        """Return the hash that stands for a key or a subject's name."""
        return hmac.digest(bytes.fromhex(self.salt), text.encode(), "sha256").hex()

    def found(self, texts: Iterable[str | None], hashes: Iterable[_Hash]) -> set[str]:
        """Return those of ``texts`` whose hash is among ``hashes`` (``keys`` or ``subjects``)."""
        known = set(hashes)
        if not known:
            return set()
        return {text for text in texts if text is not None and self.hashed(text) in known}

    def adding(
        self, keys: Iterable[str], subjects: Iterable[str], withdrawal: Withdrawal
    ) -> "Withdrawn":
        """Return this with one more withdrawal."""
        more = self.model_copy(
            update={
                "keys": tuple(sorted({*self.keys, *map(self.hashed, keys)})),
                "subjects": tuple(sorted({*self.subjects, *map(self.hashed, subjects)})),
                "withdrawals": (*self.withdrawals, withdrawal),
            }
        )
        return more.model_copy(update={"sha256": more._digest()})


def new_salt() -> str:
    """Return a salt for a folder."""
    return os.urandom(16).hex()


def today() -> str:
    """Return today's date in UTC: a record of a withdrawal needs its date."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def read_withdrawn(root: Path) -> Withdrawn | None:
    """Return a folder's withdrawals, or None if nobody was withdrawn.

    Raises InputError for a file that cannot be read: without it, people would come back.
    """
    path = root / WITHDRAWN_FILE
    try:
        return Withdrawn.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError:
        raise InputError(
            f"{path} cannot be read (damaged, or from a newer normpipe): restore it, because "
            "without it withdrawn people would come back"
        ) from None


def refuse_unfinished(root: Path) -> None:
    """Raise InputError if a withdrawal is running or was stopped: its person may still be there."""
    if (root / INTENT_FILE).is_file():
        raise InputError(
            f"a withdrawal from {root} is not finished: finish it with normpipe withdraw {root}"
        )


def exclude_withdrawn(
    scan: Scan, withdrawn: Withdrawn, known: Set[str]
) -> tuple[Scan, set[str], set[str]]:
    """Return a scan without withdrawn inputs and their labels, and two sets of keys.

    Args:
        known: keys in the manifest.

    Returns:
        The scan; the keys left out; and known keys that are now labelled with a withdrawn subject,
        which stay until ``normpipe withdraw`` removes them from the shards, too.
    """
    out = withdrawn.found(scan.rows["key"].to_pylist(), withdrawn.keys)
    named: set[str] = set()
    labels = scan.labels
    if labels is not None and "subject" in labels.column_names:
        who = labels["subject"].to_pylist()
        gone = withdrawn.found(set(who), withdrawn.subjects)
        pairs = zip(labels["key"].to_pylist(), who, strict=True)
        named = {key for key, subject in pairs if subject in gone} - out
        out |= named - known
    return (
        Scan(
            without(scan.rows, out),
            None if labels is None else without(labels, out),
            scan.ignored,
            scan.complete,
        ),
        out,
        named & known,
    )


def without(table: pa.Table, keys: Set[str]) -> pa.Table:
    """Return a table without the rows of some keys."""
    return table.filter(pa.array([key not in keys for key in table["key"].to_pylist()], pa.bool_()))
