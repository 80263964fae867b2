"""Where a dataset's metadata is: in a folder next to its shards; in release 0.1.0, among them.

Other tools open the folder of shards as it is. Some fail on any file in it that is not Parquet,
hidden or not, and some read an index in it as rows; so nothing else may be there.

Release 0.1.0 put everything into the dataset's own folder. Such a dataset is read and continued in
its old layout: its files are not moved, and the two layouts are never mixed.
"""

from pathlib import Path

from ..errors import InputError
from .storage import is_store, read_files

STAGE_FILE = "stage.json"
INDEX_FILE = "index.parquet"
MANIFEST_FILE = "manifest.json"
CARD_FILE = "README.md"
#: Exists while a dataset is cleaned, until it is made again.
CLEANED_FILE = "cleaned.json"
#: The folder of the records.
RECORDS = "records"

#: Prefix of a dataset's name that gives its metadata folder's; no dataset's name starts with it.
METADATA_PREFIX = "_"


class DatasetFiles:
    """The paths of one dataset's files except its shards, whether or not they exist.

    Attributes:
        path: the folder of the shards.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._metadata: Path | None = None

    @property
    def metadata_folder(self) -> Path:
        """Return the folder of everything but shards: ``_NAME`` next to theirs; in 0.1.0, theirs.

        Looked up once, on first use, because a store is slow to answer. Raises InputError if the
        dataset's folder cannot be read.
        """
        if self._metadata is None:
            self._metadata = _find_metadata(self.path)
        return self._metadata

    @property
    def records_path(self) -> Path:
        """Return the folder of the shards' records."""
        return self.metadata_folder / RECORDS

    @property
    def stage_path(self) -> Path:
        """Return the path of the description of what made the dataset."""
        return self.metadata_folder / STAGE_FILE

    @property
    def index_path(self) -> Path:
        """Return the path of the derived index."""
        return self.metadata_folder / INDEX_FILE

    @property
    def manifest_path(self) -> Path:
        """Return the path of the derived manifest."""
        return self.metadata_folder / MANIFEST_FILE

    @property
    def card_path(self) -> Path:
        """Return the path of the derived dataset card."""
        return self.metadata_folder / CARD_FILE

    @property
    def cleaned_path(self) -> Path:
        """Return the path of the file that marks the shards as cleaned."""
        return self.metadata_folder / CLEANED_FILE


def _find_metadata(path: Path) -> Path:
    if _is_release_0_1_0(path):
        return path
    sibling = _sibling(path)
    if is_store(path) or not path.is_symlink() or sibling.is_dir():
        return sibling
    # A link from elsewhere to the dataset's folder only.
    there = _sibling(path.resolve())
    return there if there.is_dir() else sibling


def _sibling(path: Path) -> Path:
    full = path if is_store(path) or path.name not in ("", "..") else path.resolve()
    return full.with_name(METADATA_PREFIX + full.name) if full.name else full


def _is_release_0_1_0(path: Path) -> bool:
    """Return whether release 0.1.0 started a dataset."""
    if is_store(path):  # one request; a store has no empty folders
        return read_files([path / STAGE_FILE]) != [None]
    try:
        return (path / STAGE_FILE).is_file() or (path / RECORDS).is_dir()
    except PermissionError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; fix its permissions") from None


def dataset_names(root: Path) -> list[str]:
    """Return a job's datasets that were started, of either layout: paths below ``root``, sorted.

    Hidden folders contain unfinished work, not datasets.
    """
    found: set[tuple[str, ...]] = set()
    for path in root.rglob(STAGE_FILE):
        *above, name = path.parent.relative_to(root).as_posix().split("/")
        parts = (*above, name.removeprefix(METADATA_PREFIX))
        if parts[-1] and not any(part.startswith(".") for part in parts):
            found.add(parts)
    return ["/".join(parts) for parts in sorted(found)]
