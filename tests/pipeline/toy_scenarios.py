"""The same commands with toy stages: the engine and its files, without the time of networks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from normpipe.pipeline.care import withdraw as module
from normpipe.pipeline.config import RunConfig
from normpipe.pipeline.run.progress import Progress
from normpipe.pipeline.run.runner import Options, Runner
from normpipe.pipeline.store.tombstones import INTENT_FILE

from . import living
from .disturbing import Scenario, must
from .layouts import as_of_old
from .toys import ToyConfig, ToyMap

#: Option: the folder that a command begins with is of 0.1.0's layout.
OLD_LAYOUT = "--old-layout"
#: Two shards; Anna is in the first.
NAMES = (*(f"n{i}" for i in range(9)), "twins35", "n41", "n42")


def job(
    names: tuple[str, ...] = NAMES,
    config: ToyConfig | None = None,
    broken: str = "",
    **options: Any,
) -> Callable[[Path], None]:
    """Return a run of the toy job; the shard of the input ``broken`` is quarantined."""

    def command(root: Path) -> None:
        stages = living.flow(root, list(names))
        stages[0] = living.LabelledSource(list(names), config)
        stages[1] = first = ToyMap(config)
        first.breaks = {broken: 99}
        wanted = Options(identity={"dataset": "toy", "input": "here"}, **options)
        settings = RunConfig(threads=1, retries=0)
        Runner(root, stages, settings, wanted, Progress(bars=False)).run(stages)

    return command


def withdraw(subject: str) -> Callable[[Path], None]:
    """Return a withdrawal that draws no salt and knows no day."""

    def command(root: Path) -> None:
        module.new_salt = lambda: "00" * 16
        module.today = lambda: "2000-01-01"
        module.withdraw(root, [subject], [])

    return command


def finish_withdrawal(
    command: Callable[[Path], None], run: Callable[[Path], None]
) -> Callable[[Path, int], None]:
    """Return what finishes a withdrawal that was begun: either of the two commands, by turns."""

    def finish(root: Path, number: int) -> None:
        (run if number % 2 and (root / INTENT_FILE).is_file() else command)(root)

    return finish


def scenario(name: str, place: Path, extra: list[str], workers: int = 1) -> Scenario:
    """Lay the folder that a scenario starts from, and return it."""
    place.mkdir(parents=True)
    if extra not in ([], [OLD_LAYOUT]):
        raise SystemExit(f"toys take no options but {OLD_LAYOUT}: {extra}")
    if name == "first run":
        return Scenario(name, job())
    found = _further(name, place, place / "base")
    if extra and found.base is not None:
        as_of_old(found.base)
    return found


def _further(name: str, place: Path, base: Path) -> Scenario:
    if name == "withdraw":
        must(lambda: living.make(base, list(NAMES)), place / "log.txt")
        out = withdraw("anna")
        return Scenario(name, out, base, finish_withdrawal(out, job()))
    before = job(broken="n3") if name == "run --retry-failed" else job()
    must(lambda: before(base), place / "log.txt")
    if name == "new photographs":
        # The joined shards hold labels, so new ones count as another making.
        return Scenario(name, job(("a5", *NAMES, "n50"), overwrite=True), base)
    if name == "run --retry-failed":
        return Scenario(name, job(retry_failed=True), base)
    assert name == "run --overwrite"
    # Cut anew, into fewer shards.
    return Scenario(name, job(config=ToyConfig(factor=3, shard_rows=20), overwrite=True), base)
