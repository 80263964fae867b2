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
#: Hashes of a bucket that are all compared; of a larger one, each with so many next ones.
_BUCKET, _NEXT = 256, 32
_SIDE = 16


def picture_hash(pixels_rgb_u8: Pixels) -> NDArray[np.uint8]:
    """Return (32,) uint8: which of 16 × 16 places are brighter than their right neighbour.

    It hardly changes when a picture is scaled, compressed, or made brighter (dHash).
    ``pixels_rgb_u8``: (H, W, 3) uint8.
    """
    grey = cv2.cvtColor(pixels_rgb_u8, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (_SIDE + 1, _SIDE), interpolation=cv2.INTER_AREA)
    return np.packbits(small[:, :-1] > small[:, 1:])


def duplicate_groups(hashes: NDArray[np.uint8]) -> Rows:
    """Return (N,) the group of each picture, from 1 on; 0 for one that looks like no other.

    Two hashes that differ in at most ``MOST_BITS`` bits share one of 16 pieces of 16 bits. So only
    those with an equal piece are compared.

    Args:
        hashes: (N, 32) uint8; all zero where there is no picture.
    """
    rows = np.flatnonzero(hashes.any(axis=1))
    different, which = np.unique(hashes[rows], axis=0, return_inverse=True)
    words = np.ascontiguousarray(different).view(np.uint64)  # (M, 4)
    links: list[Rows] = [np.zeros((0, 2), np.int64)]
    for piece in np.ascontiguousarray(different).view(np.uint16).astype(np.int64).T:
        order = np.argsort(piece, kind="stable")  # within a piece, in the order of all bits
        edges = np.flatnonzero(np.diff(piece[order], prepend=-1, append=-1))
        for start, stop in pairwise(edges.tolist()):
            if stop - start > 1:
                links.append(_near(words, order[start:stop]))
    first = _joined(len(different), np.unique(np.concatenate(links), axis=0))
    return _numbered(len(hashes), rows, first[which.reshape(-1)])


def _near(words: NDArray[np.uint64], rows: Rows) -> Rows:
    """Return (M, 2) pairs of near rows of a bucket; of a large one, with the next rows alone."""
    most = len(rows) if len(rows) <= _BUCKET else _NEXT
    found: list[Rows] = []
    for step in range(1, most):
        one, other = rows[:-step], rows[step:]
        near = np.bitwise_count(words[one] ^ words[other]).sum(axis=1) <= MOST_BITS
        found.append(np.stack([one[near], other[near]], axis=1))
    return np.concatenate(found)


def _joined(count: int, links: Rows) -> Rows:
    """Return (M,) the lowest row that each is linked with, over any number of links."""
    lowest = np.arange(count)
    while True:
        before = lowest.copy()
        for one, other in (links.T, links.T[::-1]):
            np.minimum.at(lowest, one, lowest[other])
        lowest = lowest[lowest]
        if np.array_equal(lowest, before):
            return lowest


def _numbered(count: int, rows: Rows, first: Rows) -> Rows:
    """Return (N,) numbers of the groups with several of the rows, in their order, from 1 on."""
    _, start, group, size = np.unique(
        first, return_index=True, return_inverse=True, return_counts=True
    )
    number = np.zeros(len(size), np.int64)
    several = np.flatnonzero(size > 1)
    number[several[np.argsort(start[several])]] = np.arange(1, len(several) + 1)
    groups = np.zeros(count, np.int64)
    groups[rows] = number[group]
    return groups
