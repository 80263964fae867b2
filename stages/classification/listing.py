"""Faces of a dataset, labelled or not, and access to their views."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray

from ...manifests.arrays import Floats, Mask, Pixels, Rows
from ...manifests.vocabularies import EMOTIONS, vote_columns
from ...pipeline.errors import InputError, nearest
from ...pipeline.read.exclusions import EXCLUDED, excluded_digest
from ...pipeline.store.labels import holds_job, vote_shares
from ...pipeline.store.shards import ShardFolder
from ..training.pictures import Form, decode_picture
from .tasks import Task, check_labels, places_of

if TYPE_CHECKING:
    from ...pipeline.read.dataset import ShardDataset

log = logging.getLogger(__name__)

# pyarrow makes these functions at run time; type checkers cannot see them.
pc: Any = pyarrow.compute

#: View → the column of a dataset of pairs that it is read from.
COLUMNS = {"original": "image", "normalized": "normalized"}
#: Columns of a listing that are not labels.
_COMMON = ("key", "parent_key", "status", "reason", "decided_by")
_OWN = (*_COMMON, "variant")
#: Columns of pairs: what made a normalized face, how large the original is, and its photograph.
_WEIGHTS, _SIZE, _SOURCE = "normalized_weights_sha256", "face_size_px", "source_sha256"
_CHUNK = 256


@dataclass(frozen=True)
class Listing:
    """Rows of a dataset, without pictures: one per input (``list_faces``) or all (``list_rows``).

    Attributes:
        path: as given by the user.
        dataset: its rows, with the encoded pictures of the views.
        labels: ``key``, ``parent_key``, ``status``, ``reason`` and all labels of each row.
        items: (N,) its row in ``dataset``.
        variants: normalized variants of its rows.
        notes: what was done to the labels, for scores on them.
        excluded: inputs that are not among the rows, as ``normpipe exclude`` left them out.
    """

    path: Path
    dataset: ShardDataset
    labels: pa.Table
    items: Rows
    variants: tuple[str, ...]
    notes: tuple[str, ...] = ()
    excluded: int = 0

    def __len__(self) -> int:
        return len(self.items)

    @property
    def usable(self) -> NDArray[np.bool_]:
        """Return (N,) whether an input has its pictures."""
        return np.asarray([status == "ok" for status in self.labels["status"].to_pylist()])

    @property
    def name(self) -> str:
        """Return the dataset's name in score files: the first part of its keys."""
        key = str(self.labels["key"][0]) if len(self) else ""
        return key.partition("/")[0] or self.path.name

    def column(self, name: str) -> list[Any]:
        """Return a label of all inputs; None where unknown or absent."""
        if name not in self.labels.column_names:
            return [None] * len(self)
        return self.labels[name].to_pylist()

    def subjects(self) -> list[str | None]:
        """Return the subject of each input; None where the labels have none."""
        return [None if name is None else str(name) for name in self.column("subject")]

    def take(self, rows: Sequence[int] | Rows) -> Listing:
        """Return some of the inputs; ``rows`` (M,) are their indices."""
        places = np.asarray(rows, np.int64)
        labels = self.labels.take(pa.array(places))
        return replace(self, labels=labels, items=self.items[places])

    def digest(self, task: Task, further: Sequence[str] = ()) -> str:
        """Return the sha256 of keys, pictures and truth: all that training on them depends on.

        ``further``: labels that count, too.
        """
        hashed = hashlib.sha256(ShardFolder(self.dataset.opened.folder).content_digest().encode())
        for name in ("key", "status", *task.columns, *further):
            hashed.update(repr((name, self.column(name))).encode())
        return hashed.hexdigest()


def list_faces(dataset: ShardDataset, views: Sequence[str], variant: str = "") -> Listing:
    """List the labelled inputs of a dataset, one face each: the largest of several.

    Inputs whose face is excluded are left out, even if another face would be usable: labels are
    mostly about the largest.

    Args:
        dataset: opened with ``status="all", decode=False``: output of ``normpipe run``, or a
            dataset within it.
        views: which of ``original`` and ``normalized`` are required.
        variant: which normalized faces; empty: the only ones.

    Raises:
        InputError: no labels, or such as ``check_labels`` refuses, a missing view, or several
            variants.
    """
    listing = list_rows(dataset, views, variant)
    if not {*listing.labels.column_names} - {*_OWN}:
        raise InputError(
            f"{listing.path} has no labels: give them when it is made (--input faces.csv, or "
            "ingest.class_per_folder), or add a labels.parquet with a column 'key' next to it"
        )
    check_labels(listing.labels, listing.path)
    chosen = listing.take(_one_per_input(listing, dataset))
    kept = np.asarray([status != EXCLUDED for status in chosen.column("status")], np.bool_)
    count = int((~kept).sum())
    if not count:
        return chosen
    note = f"{count} inputs are excluded (normpipe exclude): they neither train nor test"
    return replace(chosen.take(np.flatnonzero(kept)), notes=(note,), excluded=count)


def class_shares(task: Task, labels: pa.Table) -> Floats:
    """Return the raters' shares of a task's classes, (N, L) float32; NaN rows without such votes.

    Raises:
        InputError: the task is not ``emotion``, or no row has votes.
    """
    if task.kind != "emotion":
        raise InputError("classify.votes = true works for emotions only: set it to false")
    votes = np.zeros((labels.num_rows, len(task.names)), np.float64)
    given, own = vote_shares(labels), places_of(task)
    for place, name in enumerate(EMOTIONS):
        if name in own:
            votes[:, own[name]] = given[:, place]
    total = votes.sum(1, keepdims=True)
    found = np.divide(votes, total, out=np.full_like(votes, np.nan), where=total > 0)
    if not np.isfinite(found).any():
        raise InputError(
            "classify.votes = true, but the labels have no votes for these emotions: give columns "
            "such as happiness_votes, or set it to false"
        )
    return found.astype(np.float32)


def learnt_from_votes(task: Task, labels: pa.Table) -> Mask:
    """Return (N,) which inputs without an emotion have votes to learn: over half for its classes.

    So an input whose raters mostly chose another emotion, or none, does not train.
    """
    every, own = np.zeros(labels.num_rows), np.zeros(labels.num_rows)
    classes = places_of(task)
    for name in vote_columns(labels.column_names):
        found: Any = labels[name].cast(pa.float64())
        votes = np.nan_to_num(found.to_numpy())
        every += votes
        own += votes * (name.removesuffix("_votes") in classes)
    named = np.zeros(labels.num_rows, np.bool_)
    if "emotion" in labels.column_names:
        named = np.asarray([bool(name) for name in labels["emotion"].to_pylist()], np.bool_)
    return ~named & (own > every / 2)


def list_rows(dataset: ShardDataset, views: Sequence[str], variant: str = "") -> Listing:
    """List all rows of a dataset, with labels or without; arguments and errors as ``list_faces``.

    Also raises InputError for normalized faces that would be mistaken for originals.
    """
    opened = dataset.opened
    path, offered = opened.path, {*opened.offered}
    if opened.status != "all":
        raise ValueError("open the dataset with status='all': rows without a face are needed, too")
    table = _without_pictures(dataset)
    pictures = sorted({COLUMNS[view] for view in views})
    if not offered.issuperset(pictures):
        raise InputError(
            f"{path} has no {' and no '.join(views)} faces side by side: give the output of "
            "normpipe run, with its stage pair done"
        )
    if "weights_sha256" in offered:
        raise InputError(
            f"{path} holds normalized faces alone, without their originals: give the output of "
            "normpipe run, with its stage pair done"
        )
    rows, variants = _of_variant(table, variant, path)
    chosen = dataset.select(pictures)
    return Listing(path, chosen, table.take(pa.array(rows)), rows, variants)


def _without_pictures(dataset: ShardDataset) -> pa.Table:
    """Return all rows: keys, decisions, variants and labels, wherever they are stored."""
    opened = dataset.opened
    variant = [name for name in ("variant",) if name in opened.offered]
    wanted = list(dict.fromkeys([*_COMMON, *variant, *opened.joined_labels, *opened.shard_labels]))
    found = dataset.select(wanted)
    table = found.table
    inside = [name for name in wanted if name not in table.column_names]
    if inside:  # labels within the shards
        shards = ShardFolder(opened.folder)
        schema = shards.schema(min(shards.shard_sizes()))
        items = found.__getitems__(range(len(found)))
        for name in inside:
            column = pa.array([item[name] for item in items], schema.field(name).type)
            table = table.append_column(name, column)
    return table


def holds_dataset(path: Path) -> bool:
    """Return whether a path is a folder of shards or a job's, rather than of photographs."""
    shards = (path.glob(pattern) for pattern in ("shard-*.parquet", "*/shard-*.parquet"))
    return holds_job(path) or any(next(found, None) is not None for found in shards)


def faces_folder(path: Path, views: Sequence[str]) -> Path:
    """Return the folder to read views of all faces from: a job's ``aligned`` if that is enough.

    Pairs also carry failures of normalizing, and repeat each face for each variant.
    """
    aligned = path / "aligned"
    enough = "normalized" not in views and next(aligned.glob("shard-*.parquet"), None) is not None
    return aligned if enough else path


def input_paths(listing: Listing) -> pa.Array:
    """Return (N,) the path of each row's input below the input folder; null without a manifest.

    Raises:
        InputError: the manifest has inputs that the listing lacks, so the run is not finished.
    """
    folder = listing.dataset.opened.folder.resolve()
    around = [path for path in (folder, *folder.parents[:2]) if holds_job(path)]
    manifest = ShardFolder(around[0] / "manifest") if around else None
    numbers = [*manifest.records()] if manifest else []
    parents = listing.labels["parent_key"].combine_chunks()
    if manifest is None or not numbers or "path" not in manifest.schema_names(numbers[0]):
        return pa.nulls(len(listing), pa.string())
    inputs = pa.concat_tables([manifest.read(number, ["key", "path"]) for number in numbers])
    keys = inputs["key"].combine_chunks()
    left = len(keys) - pc.sum(pc.is_in(keys, parents)).as_py()
    if left:
        raise InputError(
            f"{listing.path} has no rows of {left} of its {len(keys)} inputs: the job is not "
            "finished, run the same normpipe run again"
        )
    return inputs["path"].combine_chunks().take(pc.index_in(parents, keys))


def normalized_by(listing: Listing) -> tuple[str, ...] | None:
    """Return the sha256 of the weights behind a listing's normalized faces; None if unknown."""
    usable = listing.take(np.flatnonzero(listing.usable))
    found = stored_column(usable, _WEIGHTS)
    if found is None:
        found = _weights_of_job(usable)
    if not all(found):
        return None
    return tuple(sorted({str(digest) for digest in found}))


def _weights_of_job(listing: Listing) -> list[str | None]:
    """Return the weights of each variant, as its description beside the pairs has them.

    Pairs with pictures that were begun before ``pair.origins`` do not say it themselves.
    """
    job = listing.dataset.opened.folder.resolve().parent
    variants = sorted({*listing.column("variant")} - {None})
    if not variants or not holds_job(job):
        return [None]
    made = [ShardFolder(job / "normalized" / variant).description() for variant in variants]
    return [(one or {}).get("digests", {}).get("weights") for one in made]


def photographs(listing: Listing) -> list[str | None]:
    """Return the sha256 of each input's file; None where the shards do not record it."""
    return stored_column(listing, _SOURCE) or [None] * len(listing)


def stored_column(listing: Listing, name: str) -> list[Any] | None:
    """Return a column of the shards, of each input; None if the dataset does not have it."""
    if name not in listing.dataset.opened.offered:
        return None
    return listing.dataset.read([name])[name].take(pa.array(listing.items)).to_pylist()


def _of_variant(table: pa.Table, variant: str, path: Path) -> tuple[Rows, tuple[str, ...]]:
    if "variant" not in table.column_names:
        return np.arange(table.num_rows), ()
    names = np.asarray(table["variant"].to_pylist(), object)
    found = sorted({name for name in names if name})
    if not variant and len(found) > 1:
        raise InputError(
            f"{path} has several variants: choose one of {', '.join(found)} (classify.variant; for "
            "a dataset to test on evaluate.variant; --variant of predict)"
        )
    if variant and variant not in found:
        raise InputError(f"{path} has no variant '{variant}'{nearest(variant, found)}")
    rows = np.flatnonzero(names == variant) if variant else np.arange(table.num_rows)
    return rows, (variant,) if variant else tuple(found)


def _one_per_input(listing: Listing, dataset: ShardDataset) -> Rows:
    """Return one row per input, the largest usable face: labels are of images, not of faces."""
    keys, statuses = listing.column("key"), listing.column("status")
    groups: dict[str, list[int]] = {}
    for row, parent in enumerate(listing.column("parent_key")):
        groups.setdefault(parent or keys[row], []).append(row)
    # Pairs with embedded pictures have no face size: take the first face.
    sizes = dataset.select([_SIZE]) if _SIZE in dataset.opened.offered else None
    chosen: list[int] = []
    for group in groups.values():
        faces = [row for row in group if statuses[row] in ("ok", EXCLUDED)]
        usable = faces or group
        if sizes is not None and len(faces) > 1:
            items = sizes.__getitems__(listing.items[usable].tolist())
            usable = [usable[int(np.argmax([item[_SIZE] or 0 for item in items]))]]
        chosen.append(usable[0])
    return np.asarray(chosen, np.int64)


def counted_statuses(statuses: Mapping[str, int]) -> str:
    """Return ``7 ok, 1 rejected, 0 failed``; and how many rows are excluded, if any are."""
    some = [EXCLUDED] if statuses.get(EXCLUDED) else []
    return ", ".join(f"{statuses.get(n, 0)} {n}" for n in ("ok", "rejected", "failed", *some))


def rows_digest(listing: Listing) -> str:
    """Return the sha256 of the shards that a listing is of, and of which rows are excluded."""
    digest = ShardFolder(listing.dataset.opened.folder).content_digest()
    if without := excluded_digest(listing.labels):
        digest = hashlib.sha256(f"{digest} without {without}".encode()).hexdigest()
    return digest


class ViewStore:
    """Pictures of one view of a listing, decoded in advance if memory allows, else on demand."""

    def __init__(
        self, listing: Listing, view: str, form: Form, memory_bytes: float, threads: int = 1
    ) -> None:
        """``form``: exact size, grey or colour; all inputs of the listing must be usable."""
        self._name = COLUMNS[view]
        self._dataset = listing.dataset.select([self._name])
        self._items = listing.items
        self._form = form
        size = form.size_px or 0
        shape = (len(listing), size, size, 3) if form.colour else (len(listing), size, size)
        self._held: Pixels | None = None
        if float(np.prod(shape)) <= memory_bytes:
            self._held = np.empty(shape, np.uint8)
            with ThreadPoolExecutor(max(1, threads)) as pool:
                starts = range(0, len(listing), _CHUNK)
                for start, found in zip(starts, pool.map(self._chunk, starts), strict=True):
                    self._held[start : start + len(found)] = found

    def take(self, rows: Rows) -> Pixels:
        """Return (N, C, S, S) uint8."""
        found = self._held[rows] if self._held is not None else self._read(rows)
        return found[:, None] if found.ndim == 3 else found.transpose(0, 3, 1, 2).copy()

    def _chunk(self, start: int) -> Pixels:
        return self._read(np.arange(start, min(start + _CHUNK, len(self._items))))

    def _read(self, rows: Rows) -> Pixels:
        items = self._dataset.__getitems__(self._items[rows].tolist())
        return np.stack([decode_picture(item[self._name], self._form) for item in items])
