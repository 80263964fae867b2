"""Kills the job at random instants and at every change of the disk; prints what came of it.

From the repository's root:

    python -m tests.pipeline.durability --kills 200 --output DIR [options of normpipe run]

The table that it prints is the one of docs/durability.md. The exit status is 1 where anything is
not as after an undisturbed run.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from .disturbing import Bench, Scenario, Tally

#: Share of the kills that a scenario gets.
SHARES = {
    "first run": 0.55,
    "new photographs": 0.1,
    "run --retry-failed": 0.1,
    "run --overwrite": 0.1,
    "withdraw": 0.1,
    "to evaluate": 0.05,
}


#: Trains and scores at its end: killed, but not cut change by change, for it is no shards' work.
TO_THE_END = "to evaluate"

#: Toys, and every change only: what is different there is the engine's writing.
STORE = "in a store"

Make = Callable[[str, Path, list[str], int], Scenario]


def table(tallies: list[Tally]) -> str:
    """Return the tallies as a Markdown table."""
    head = (
        "| command | ended at | processes ended | of them midway | states finished "
        "| committed shards written again | shards in writing | differences |"
    )
    lines = [head, "|---|---|---|---|---|---|---|---|"]
    for one in tallies:
        cells = (one.ended, one.midway, one.states, one.again, one.in_writing, len(one.differing))
        lines.append(f"| {one.scenario} | {one.how} | {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def disturb(
    make: Make,
    names: Sequence[str],
    place: Path,
    kills: int,
    step: int,
    seed: int,
    extra: list[str],
) -> list[Tally]:
    """Disturb scenarios: first all kills, then all changes of the disk (``step`` 0: none)."""
    workers = int(extra[extra.index("--workers") + 1]) if "--workers" in extra else 1
    benches: list[Bench] = []
    tallies: list[Tally] = []

    def take(tally: Tally, began: float) -> None:
        tallies.append(tally)
        seconds = time.monotonic() - began
        print(f"{table([tally]).splitlines()[-1]} {seconds:.0f} s {tally.counts}", file=sys.stderr)
        print(*tally.differing[:20], sep="\n", file=sys.stderr, flush=True)

    for name in names:
        own = place / name.replace(" ", "-")
        bench = Bench(make(name, own, extra, workers), own / "bench")
        began, share = time.monotonic(), round(kills * SHARES[name])
        if share:
            take(bench.kill_at_random(share, seed), began)
        benches.append(bench)
    for bench in benches:
        began = time.monotonic()
        if step and bench.scenario.name != TO_THE_END:
            take(bench.end_at_every_change(step=step), began)
    return tallies


def disturb_store(place: Path, step: int) -> list[Tally]:
    """End toy commands at changes of an object store: S3's protocol, served from this machine."""
    from . import stores  # the server's client starts threads: not before the forks of others
    from .store_faults import disturb as disturb_in_store

    place.mkdir(parents=True)
    with stores.s3_server(place) as needed:
        os.environ.update(needed)
        return disturb_in_store(f"s3://{stores.BUCKET}/jobs", place, step)


def scenarios(toys: bool) -> Make:
    """Return what makes scenarios. Imported on use: torch takes seconds."""
    if toys:
        from . import toy_scenarios as module
    else:
        from . import real_scenarios as module
    return module.scenario


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=200, help="at random instants, in all")
    parser.add_argument("--step", type=int, default=1, help="end at 1 of so many changes; 0: none")
    parser.add_argument("--seed", type=int, default=1, help="of the instants")
    parser.add_argument(
        "--output", type=Path, help="folder to work in, made anew; default: temporary"
    )
    parser.add_argument("--only", action="append", choices=[*SHARES, STORE], help="repeatable")
    parser.add_argument("--toys", action="store_true", help="toy stages instead of the real ones")
    parser.add_argument("--json", type=Path, help="write the tallies to this file, too")
    given, extra = parser.parse_known_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as temporary:
        place = given.output or Path(temporary)
        if given.output and place.exists() and any(place.iterdir()):
            raise SystemExit(f"{place} is not empty: choose another --output")
        names = given.only or [
            n for n in (*SHARES, STORE) if n not in (TO_THE_END, STORE) or not given.toys
        ]
        in_store = STORE in names
        names = [name for name in names if name != STORE]
        make = scenarios(given.toys)
        tallies = disturb(make, names, place.resolve(), given.kills, given.step, given.seed, extra)
        if in_store and given.step:
            tallies += disturb_store(place.resolve() / "store", given.step)
    if given.json:
        given.json.write_text(json.dumps([asdict(one) for one in tallies]))
    print(table(tallies))
    for one in tallies:
        print(*(f"{one.scenario}: {line}" for line in one.differing), sep="\n", end="")
    raise SystemExit(any(one.differing for one in tallies))


if __name__ == "__main__":
    main()
