"""The emotion that votes, or columns of 0 and 1, name: the rules for lists and releases."""

from __future__ import annotations

import numpy as np

from ....manifests.arrays import Floats, Rows


def most_voted(votes: Floats, others: Floats) -> Rows:
    """Return the place of each row's emotion, -1 for none: FER+'s majority (arXiv 1608.01041).

    The most voted, if it has more than half of the votes for emotions, and more than all votes
    for none of them together. Ties have none. Papers differ in this rule.

    Args:
        votes: (N, C), 0 where unknown.
        others: (N, K) votes for no emotion: "unknown", "no face"; K may be 0.
    """
    most = votes.max(1)
    known = (most > votes.sum(1) / 2) & (most > others.sum(1))
    return np.where(known, votes.argmax(1), -1)


def the_one(marks: Floats) -> tuple[Rows, int | None]:
    """Return the place of each row's 1, -1 without any, and the first row that has several.

    Args:
        marks: (N, C) of 0 and 1.
    """
    count = marks.sum(1)
    several = np.flatnonzero(count > 1)
    return np.where(count == 1, marks.argmax(1), -1), int(several[0]) if len(several) else None
