"""A table that a command writes, Parquet or CSV: in pieces, complete or not at all, with a card.

The card, ``<name>.json`` next to the table, says what it was made from, so that the same command
does its work once.
"""

import json
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from ..errors import InputError, OutputError
from ..stage import sha256_file
from .commit import commit_file, make_folder, storage_errors, temporary, write_json

#: Suffixes of the files that a table can be written to.
SUFFIXES = (".parquet", ".csv")
#: Rows of a row group, and so the rows that are held in memory.
GROUP_ROWS = 1 << 14
# Cards of release 0.1.0 do not say which command wrote them.
_FIRST_COMMAND = "predict"


@dataclass(frozen=True)
class ResultTable:
    """A table and its card.

    Attributes:
        path: of the table; its suffix is the format.
        command: the command that writes it, such as ``predict``.
    """

    path: Path
    command: str

    @property
    def card_path(self) -> Path:
        """Return the file of the card."""
        return self.path.with_name(self.path.name + ".json")

    def check_path(self) -> None:
        """Raise InputError if no table can be written to the path."""
        if self.path.suffix not in SUFFIXES:
            raise InputError(
                f"{self.path} is not a {' or '.join(SUFFIXES)} file: give --output such a name"
            )
        if self.path.is_dir():
            raise InputError(f"{self.path} is a folder: give --output the name of a file")

    def finished(self, about: Mapping[str, Any], overwrite: bool) -> dict[str, Any] | None:
        """Return the card of a table that exists and was made from the same; else None.

        Args:
            about: what it is made from, ready for JSON.
            overwrite: as ``check_replaceable``.

        Raises:
            OutputError: as ``check_replaceable``.
        """
        self.check_replaceable(overwrite)
        card = self._card()
        if not card or not self.path.exists():
            return None
        same = card["about"] == json.loads(json.dumps(about))
        return card if same and sha256_file(self.path) == card.get("sha256") else None

    def check_replaceable(self, overwrite: bool) -> None:
        """Check, before any work, that the file may be replaced.

        Args:
            overwrite: accept a file that the command did not write, or that was changed since.

        Raises:
            OutputError: the file exists, and is not as the command wrote it.
        """
        if overwrite or not self.path.exists():
            return
        card = self._card()
        what = f"normpipe {self.command} did not write it"
        if card:
            # After a kill between card and table, the table is still the one that was replaced.
            if sha256_file(self.path) in (card.get("sha256"), card.get("replaces")):
                return
            what = f"was changed since normpipe {self.command} wrote it"
        raise OutputError(
            f"{self.path} exists and {what}: choose another --output, or give --overwrite"
        )

    def _card(self) -> dict[str, Any]:
        """Return the card that the command wrote; empty if there is none."""
        try:
            card = json.loads(self.card_path.read_bytes())
            ours = "about" in card and card.get("command", _FIRST_COMMAND) == self.command
        except (OSError, ValueError, AttributeError, TypeError):
            return {}
        return card if ours else {}

    def write(
        self,
        schema: pa.Schema,
        tables: Iterable[pa.Table],
        about: Mapping[str, Any],
        more: Mapping[str, Any],
    ) -> None:
        """Write the table, holding ``GROUP_ROWS`` rows at a time, and its card.

        Args:
            schema: of all tables.
            tables: the rows, in order.
            about: what it is made from, ready for JSON.
            more: further entries of the card, ready for JSON once ``tables`` are through.
        """
        with _open_table(self.path, schema) as write:
            for table in grouped_rows(tables, GROUP_ROWS):
                write(table)
        digest = sha256_file(temporary(self.path))
        card = {**more, "command": self.command, "about": about, "sha256": digest}
        if self.path.exists():
            card["replaces"] = sha256_file(self.path)
        # The card first: its digest does not match until the table is there, so a retry starts
        # again.
        write_json(self.card_path, card)
        commit_file(self.path)


def grouped_rows(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Yield the same rows in tables of at least ``rows`` rows, except the last."""
    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        if sum(one.num_rows for one in held) >= rows:
            yield pa.concat_tables(held).combine_chunks()
            held = []
    if held:
        yield pa.concat_tables(held).combine_chunks()


@contextmanager
def _open_table(path: Path, schema: pa.Schema) -> Generator[Callable[[pa.Table], None], None, None]:
    """Write tables under the temporary name of ``path``, for the caller to commit."""
    make: Any = pq.ParquetWriter if path.suffix == ".parquet" else pyarrow.csv.CSVWriter
    whole = False
    with storage_errors(path):
        make_folder(path.parent)
        try:
            with temporary(path).open("wb") as stream:
                with make(stream, schema) as writer:
                    yield writer.write_table
                stream.flush()
                os.fsync(stream.fileno())
            whole = True
        finally:
            if not whole:  # half a table is of no use, and its rows name people
                temporary(path).unlink(missing_ok=True)
