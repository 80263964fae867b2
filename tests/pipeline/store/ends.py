"""What is left of a folder where the process or the power ends at each change of the disk."""

import itertools
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from ..disturbing import start, tail, wait
from ..faults import CUTS, Faults


def ends(
    place: Path, work: Callable[[Path], None], before: Callable[[Path], None] = lambda _: None
) -> Iterator[list[Path]]:
    """Yield, for each change that ``work`` makes, the folders that an end before it leaves.

    The first is a killed process's, the others are those of power cuts. One more change follows the
    work: what ends there must have kept all of it.
    """
    log = place / "log"
    for fatal in itertools.count(1):
        root, beside = place / f"{fatal}/root", place / f"{fatal}/cut"
        root.mkdir(parents=True)
        before(root)

        code = wait(start(partial(_disturbed, Faults(root, fatal, beside), work), log))
        if code == 0:
            return
        assert code == -signal.SIGKILL, tail(log)
        yield [root, *(beside / cut for cut in CUTS if (beside / cut).exists())]


def _disturbed(faults: Faults, work: Callable[[Path], None]) -> None:
    faults.install()
    work(faults.root)
    (faults.root / "through").mkdir()
