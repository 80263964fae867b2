"""Where what is said of a dataset lies: beside the folder of its shards, of old within it.

Other tools open the folder of shards as it is. Some fail on whatever is no Parquet file below it,
hidden or not, and some read an index in it as rows; so nothing else may lie there.

Release 0.1.0 laid all of it into the dataset's own folder. Such a dataset is read and gone on with
in its old places: its files are moved nowhere, and it is never half one and half the other.
"""

from pathlib import Path

from ..errors import InputError
from .storage import is_store, read_all

STAGE_FILE = "stage.json"
INDEX_FILE = "index.parquet"
MANIFEST_FILE = "manifest.json"
CARD_FILE = "README.md"
#: Lies there while a dataset is cleaned, until it is made again.
CLEANED_FILE = "cleaned.json"
#: The folder of the records.
RECORDS = "records"

#: Stands before a dataset's name in that of the folder beside it; no dataset's name begins so.
ABOUT = "_"


class DatasetFiles:
    """Where the files of one dataset lie, its shards apart: paths, whether or not they are there.

    Attributes:
        path: the folder of the shards.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._about: Path | None = None

    @property
    def about(self) -> Path:
        """Return the folder of all that is not shards: the one beside, or of old the same.

        Looked up when it is first asked for, once, for a store is slow to answer. Raises InputError
        where the dataset's folder cannot be looked into.
        """
        if self._about is None:
            self._about = _about(self.path)
        return self._about

    @property
    def records_path(self) -> Path:
        """Return the folder of the shards' records."""
        return self.about / RECORDS

    @property
    def stage_path(self) -> Path:
        """Return the path of the description of what made the dataset."""
        return self.about / STAGE_FILE

    @property
    def index_path(self) -> Path:
        """Return the path of the derived index."""
        return self.about / INDEX_FILE

    @property
    def manifest_path(self) -> Path:
        """Return the path of the derived manifest."""
        return self.about / MANIFEST_FILE

    @property
    def card_path(self) -> Path:
        """Return the path of the derived dataset card."""
        return self.about / CARD_FILE

    @property
    def cleaned_path(self) -> Path:
        """Return the path of the note that the shards are freed until they are made again."""
        return self.about / CLEANED_FILE


def _about(path: Path) -> Path:
    if _is_of_old(path):
        return path
    beside = _beside(path)
    if is_store(path) or not path.is_symlink() or beside.is_dir():
        return beside
    # A link from elsewhere to the dataset's folder alone.
    there = _beside(path.resolve())
    return there if there.is_dir() else beside


def _beside(path: Path) -> Path:
    whole = path if is_store(path) or path.name not in ("", "..") else path.resolve()
    return whole.with_name(ABOUT + whole.name) if whole.name else whole


def _is_of_old(path: Path) -> bool:
    """Say whether release 0.1.0 began a dataset."""
    if is_store(path):  # one request; a folder is not there without something in it
        return read_all([path / STAGE_FILE]) != [None]
    try:
        return (path / STAGE_FILE).is_file() or (path / RECORDS).is_dir()
    except PermissionError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; mend its permissions") from None


def dataset_names(root: Path) -> list[str]:
    """Return the datasets of a job that were begun, of either layout: paths below ``root``, sorted.

    Hidden folders hold what is in the making, and no dataset.
    """
    found: set[tuple[str, ...]] = set()
    for path in root.rglob(STAGE_FILE):
        *above, name = path.parent.relative_to(root).as_posix().split("/")
        parts = (*above, name.removeprefix(ABOUT))
        if parts[-1] and not any(part.startswith(".") for part in parts):
            found.add(parts)
    return ["/".join(parts) for parts in sorted(found)]
