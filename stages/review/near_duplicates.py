"""Finds pictures that look almost the same, by a difference hash of each."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from ...manifests.arrays import Pixels, Rows

#: Bytes of a hash: 16 × 16 comparisons.
HASH_BYTES = 32
#: Pictures whose hashes differ in at most so many of 256 bits are near-duplicates.
MOST_BITS = 12
#: Hashes of a bucket that are compared with each other; of a larger one, each with its next ones.
_BUCKET = 256
_SIDE = 16

#: N hashes: (N, 32) uint8.
Hashes = NDArray[np.uint8]


def picture_hash(pixels_rgb_u8: Pixels) -> Hashes:
    """Return (32,) uint8: which of 16 × 16 places are brighter than their right neighbour.

    It hardly changes when a picture is scaled, compressed, or made brighter (dHash).
    ``pixels_rgb_u8``: (H, W, 3) uint8.
    """
    grey = cv2.cvtColor(pixels_rgb_u8, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (_SIDE + 1, _SIDE), interpolation=cv2.INTER_AREA)
    return np.packbits(small[:, :-1] > small[:, 1:])


def duplicate_groups(hashes: Hashes) -> Rows:
    """Return (N,) the group of each picture, from 1 on; 0 for one that looks like no other.

    Two hashes that differ in at most ``MOST_BITS`` bits share one of 16 pieces of 16 bits. So only
    those with an equal piece are compared.

    Args:
        hashes: (N, 32) uint8; all zero where there is no picture.
    """
    words = np.ascontiguousarray(hashes).view(np.uint64)  # (N, 4)
    some = np.flatnonzero(words.any(axis=1))
    links: list[NDArray[np.int64]] = []
    for piece in np.ascontiguousarray(hashes[some]).view(np.uint16).astype(np.int64).T:
        order = np.argsort(piece, kind="stable")
        starts = np.flatnonzero(np.diff(piece[order], prepend=-1, append=-1))
        for start, stop in pairwise(starts.tolist()):
            if stop - start > 1:
                links.append(_near(words, some[order[start:stop]]))
    pairs = np.concatenate(links) if links else np.zeros((0, 2), np.int64)
    return _numbered(_joined(len(hashes), np.unique(pairs, axis=0)))


def _near(words: NDArray[np.uint64], rows: Rows) -> NDArray[np.int64]:
    """Return (M, 2) pairs of near rows of a bucket."""
    if len(rows) > _BUCKET:
        # Such as faces of one film: alike ones are next to each other when sorted by all bits.
        rows = rows[np.lexsort(words[rows].T)]
    found: list[NDArray[np.int64]] = []
    for step in range(1, min(len(rows), _BUCKET)):
        one, other = rows[:-step], rows[step:]
        bits = np.bitwise_count(words[one] ^ words[other]).sum(axis=1)
        near = bits <= MOST_BITS
        found.append(np.stack([one[near], other[near]], axis=1))
    return np.concatenate(found)


def _joined(count: int, pairs: NDArray[np.int64]) -> Rows:
    """Return (N,) the lowest row of each one's group."""
    first = np.arange(count)

    def lowest(row: int) -> int:
        while first[row] != row:
            first[row] = first[first[row]]
            row = int(first[row])
        return row

    for one, other in pairs.tolist():
        low, high = sorted((lowest(one), lowest(other)))
        first[high] = low
    return np.array([lowest(row) for row in range(count)], np.int64)


def _numbered(first: Rows) -> Rows:
    """Return (N,) numbers of the groups with several rows, from 1 on."""
    alone = np.bincount(first, minlength=len(first))[first] < 2
    _, numbers = np.unique(first[~alone], return_inverse=True)
    groups = np.zeros(len(first), np.int64)
    groups[~alone] = numbers + 1
    return groups
