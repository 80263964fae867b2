"""Compare the speed of two checkouts of normpipe, run alternately on one machine:

    python benchmarks/engines.py --old OLD_CHECKOUT --pack PACK             # the new one is this
    python benchmarks/engines.py --old A --new B --times 3 --only resume --json

Each round runs every case once with each checkout, old first in one round and new first in the
next, so that a change of the machine's load affects both; a first round warms the caches and is not
counted. Every run is a separate process; imports, models and ingest are done before the clock
starts. Cases:

align (…)          photographs through OpenCV's cascades, and through a pack (--pack)
normalize          faces that the same checkout aligned before
align + normalize  overlapped, with the pack if given
resume             a run that finds all --done-shards shards of a source, two maps and a join done
engine, shards     those toy stages over many shards of few rows: the cost of a shard
engine, rows       the same over few shards of many rows: the cost of a row

It prints medians over the rounds, and new over old; "rounds" is the lowest and the highest ratio of
a round, "spread" is highest minus lowest over the median. For "s", lower is better; for "…/s",
higher. CPU is the CPU time of the process, without the processes that decode pictures. Memory is
the process's resident memory: after imports, the peak while the clock ran, and its growth since the
clock started. Absolute figures hold for this machine; ratios need an idle one.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
RESULTS = HERE.parent / "results" / "engines.json"
ENGINES = ("old", "new")
#: Pictures of the sample set that are no faces.
NO_FACES = {"no_face.jpg", "truncated.jpg"}

# This process imports nothing heavy: on some systems a child inherits its parent's peak memory.

Figures = dict[str, float]


@dataclass(frozen=True)
class Case:
    """What one process runs."""

    kind: str
    name: str
    #: Inputs per second, or seconds.
    unit: str
    #: The job's folder: emptied before each run, or prepared once and copied or kept.
    output: str = ""
    photographs: str = ""
    settings: tuple[str, ...] = ()
    stages: tuple[str, ...] = ()
    #: Of the toy job.
    shards: int = 0
    shard_rows: int = 0


# ---------------------------------------------------------------- in a process of one checkout


def resident_mb() -> float:
    import psutil

    return psutil.Process().memory_info().rss / 1e6


def peak_mb() -> float:
    """Return the peak resident memory, since ``reset_peak`` if the system supports that."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1e3
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (1e6 if sys.platform == "darwin" else 1e3)


def reset_peak() -> None:
    """Reset the peak: loading a model may take more memory than using it."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def timed(work: Callable[[], object]) -> Figures:
    """Return the time and memory that ``work`` takes."""
    reset_peak()
    before, wall, cpu = resident_mb(), time.perf_counter(), time.process_time()
    work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"seconds": wall, "cpu_s": cpu, "before_mb": before, "peak_mb": peak_mb()}


def runner(job: Any, flow: list[Any]) -> Any:
    try:
        from normpipe.pipeline.run.progress import Progress
        from normpipe.pipeline.run.runner import Options, Runner
    except ModuleNotFoundError:  # an older checkout, with all of the engine in one folder
        from normpipe.pipeline.progress import Progress
        from normpipe.pipeline.runner import Options, Runner

    return Runner(job.output, flow, job.run, Options(), Progress(1e9, bars=False))


def load(case: Case) -> Any:
    from normpipe.pipeline.config import load_job
    from normpipe.stages import CONFIGS

    source = Path(case.photographs) if case.photographs else None
    given = {"input": source, "output": Path(case.output), "dataset": "benchmark"}
    return load_job(None, given, list(case.settings), CONFIGS)


def count_computed(stages: list[Any]) -> list[int]:
    """Count the items that the engine passes to the stages, in the list's only element."""
    seen = [0]

    def count(stage: Any) -> None:
        compute = stage.compute

        def counted(items: list[Any]) -> Any:
            seen[0] += len(items)
            return compute(items)

        stage.compute = counted

    for stage in stages:
        if hasattr(stage, "compute"):
            count(stage)
    return seen


def measure_photographs(case: Case) -> Figures:
    """Run the case's stages over photographs; their inputs are made first, and not timed."""
    from normpipe.stages import build_flow

    imported = resident_mb()
    job = load(case)
    flow = {stage.name: stage for stage in build_flow(job)}
    stages = [flow[name] for name in case.stages]
    if case.stages[0] == "align":
        runner(job, list(flow.values())).run([flow["ingest"]])
    for stage in stages:
        stage.open()
    seen = count_computed(stages)
    found = timed(lambda: runner(job, list(flow.values())).run(stages))
    if not seen[0]:
        raise SystemExit(f"{case.name}: there was nothing to compute in {case.output}")
    return {**found, "imported_mb": imported}


def measure_toys(case: Case) -> Figures:
    """Run the toy job; with ``resume``, all must be done already."""
    flow = toy_flow(case.shards, case.shard_rows)
    imported = resident_mb()
    job = load(case)
    seen = count_computed(flow)
    found = timed(lambda: runner(job, flow).run(flow))
    expected = 0 if case.kind == "resume" else 2 * case.shards * case.shard_rows
    if seen[0] != expected:
        raise SystemExit(f"{case.name}: {seen[0]} rows were computed, expected {expected}")
    return {**found, "imported_mb": imported}


def toy_flow(shards: int, shard_rows: int) -> list[Any]:
    """Return trivial stages: a source, two maps, and a join of their outputs."""
    import hashlib

    import pyarrow as pa

    from normpipe.pipeline.stage import JoinStage, MapStage, Scan, SourceStage, StageConfig

    common = [(n, pa.string()) for n in ("key", "parent_key", "status", "reason", "decided_by")]
    picture = ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))

    class Config(StageConfig):
        rows: int = shard_rows

    class Source(SourceStage):
        name = "toy-source"
        writes = "manifest"
        schema = pa.schema([*common, ("number", pa.int64())])
        config = Config()

        @property
        def shard_rows(self) -> int:
            return shard_rows

        def scan(self) -> Scan:
            keys = pa.array(f"toy/{number:09d}" for number in range(rows))
            words = [keys, keys, pa.repeat("ok", rows), pa.nulls(rows, pa.string())]
            columns = [*words, pa.repeat(self.name, rows), pa.array(range(rows))]
            return Scan(pa.table(columns, schema=self.schema))

    class Map(MapStage):
        name = "toy-map"
        reads = ("manifest",)
        writes = "made"
        schema = pa.schema([*common, picture, ("image_sha256", pa.string()), ("n", pa.int64())])
        config = Config()
        batch_size = 32

        def prepare(self, row: dict[str, Any]) -> int:
            return row["number"]

        def compute(self, items: list[int]) -> list[int]:
            return [item + 1 for item in items]

        def finish(self, row: dict[str, Any], item: int, result: int) -> list[dict[str, Any]]:
            data = result.to_bytes(64, "little")
            digest = hashlib.sha256(data).hexdigest()
            image = {"bytes": data, "path": row["key"]}
            return [{"image": image, "image_sha256": digest, "n": result}]

    class Second(Map):
        name = "toy-second"
        reads = ("made",)
        writes = "normalized/second"

        def prepare(self, row: dict[str, Any]) -> int:
            return row["n"]

    class Join(JoinStage):
        name = "toy-join"
        reads = ("made", "normalized/second")
        writes = "pairs"
        schema = pa.schema(common)
        columns = tuple(name for name, _ in common)
        config = Config()

        def join(self, number: int, inputs: list[pa.Table]) -> list[pa.Table]:
            return [inputs[0].select(self.schema.names).cast(self.schema)]

    rows = shards * shard_rows
    return [Source(), Map(), Second(), Join()]


def lay_photographs(folder: Path, count: int, size_px: int) -> None:
    """Fill a folder with the package's sample faces, again and again, ``size_px`` square."""
    from PIL import Image

    import normpipe

    samples = Path(str(normpipe.__file__)).parent / "stages" / "samples"
    faces = [path for path in sorted(samples.glob("*.jpg")) if path.name not in NO_FACES]
    pictures: list[bytes] = []
    folder.mkdir(parents=True)
    for number in range(count):
        path = folder / f"{number:06d}.jpg"
        if number < len(faces):
            with Image.open(faces[number]) as image:
                image.convert("RGB").resize((size_px, size_px)).save(path, quality=92)
            pictures.append(path.read_bytes())
        else:
            path.write_bytes(pictures[number % len(pictures)])


def child(words: dict[str, Any]) -> None:
    """Run what the parent requested, and print the figures as the last line."""
    import logging

    import normpipe

    logging.getLogger("normpipe").setLevel(logging.ERROR)
    place = str(Path(str(normpipe.__file__)).parent.resolve())
    if words["kind"] == "lay":
        lay_photographs(Path(words["folder"]), words["count"], words["size_px"])
        figures: Figures = {}
    else:
        settings, stages = tuple(words.pop("settings")), tuple(words.pop("stages"))
        case = Case(**words, settings=settings, stages=stages)
        figures = measure_photographs(case) if case.photographs else measure_toys(case)
    print(json.dumps({"normpipe": place, **figures}), flush=True)


# ---------------------------------------------------------------- in the process that compares


@dataclass(frozen=True)
class Checkout:
    """A checkout, and the folder from which ``import normpipe`` finds it."""

    path: Path
    parent: Path

    def run(self, words: dict[str, Any]) -> Figures:
        """Run a child with this checkout. Raises SystemExit if it fails or imports another one."""
        # Flush earlier writes now, not during the child's measurement.
        os.sync()
        command = [sys.executable, str(HERE), "--child", json.dumps(words)]
        environment = {**os.environ, "PYTHONPATH": str(self.parent)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{self.path}, {words['kind']}:\n{done.stdout}{done.stderr}")
        figures = json.loads(done.stdout.splitlines()[-1])
        taken = figures.pop("normpipe")
        if taken != str(self.path):
            sys.exit(f"import normpipe found {taken}, not {self.path}: uninstall normpipe first")
        return figures

    def commit(self) -> str:
        """Return its commit, with ``+`` if files differ from it."""
        words = ["git", "-C", str(self.path), "describe", "--always", "--dirty=+", "--exclude=*"]
        done = subprocess.run(words, capture_output=True, text=True)
        return done.stdout.strip() or "?"


def checkout(path: Path, work: Path) -> Checkout:
    """Return a checkout; if its folder has another name, it is imported through a link."""
    path = path.resolve()
    if not (path / "pipeline" / "stage.py").is_file():
        raise SystemExit(f"{path} is no checkout of normpipe: give the folder with pipeline/ in it")
    if path.name == "normpipe":
        return Checkout(path, path.parent)
    parent = Path(tempfile.mkdtemp(prefix="link-", dir=work))
    (parent / "normpipe").symlink_to(path, target_is_directory=True)
    return Checkout(path, parent)


def cases(args: argparse.Namespace, photographs: Path) -> list[Case]:
    """Return the cases to measure."""
    threads = f"run.threads={args.threads}"
    # Several shards, so that stages can overlap; multiples of 64 rows, so that batches are full.
    rows = max(64, args.images // 16 // 64 * 64)
    common = (f"ingest.shard_rows={rows}", f"ingest.limit={args.images}", threads, *args.set)
    detectors = {"opencv": (*common, "align.detector=opencv")}
    if args.pack:
        pack = str(Path(args.pack).resolve()) if Path(args.pack).is_dir() else args.pack
        detectors["pack"] = (*common, "align.detector=insightface", f"align.pack={pack}")
    best = list(detectors.values())[-1]
    source = str(photographs)

    def real(name: str, stages: tuple[str, ...], settings: tuple[str, ...]) -> Case:
        kind = "aligned" if stages == ("normalize",) else "fresh"
        return Case(kind, name, "images/s", "", source, settings, stages)

    def toy(kind: str, name: str, unit: str, shards: int, shard_rows: int) -> Case:
        return Case(kind, name, unit, settings=(threads,), shards=shards, shard_rows=shard_rows)

    return [
        *(real(f"align ({name})", ("align",), given) for name, given in detectors.items()),
        real("normalize", ("normalize",), best),
        real("align + normalize", ("align", "normalize"), best),
        toy("resume", "resume", "s", args.done_shards, 8),
        toy("fresh", "engine, shards", "shards/s", args.toy_shards, 8),
        toy("fresh", "engine, rows", "rows/s", 4, args.toy_rows // 4),
    ]


@contextmanager
def laid_out(case: Case, engine: Checkout, place: Path) -> Iterator[Case]:
    """Yield the case with the folder it starts from, whose contents are made once."""
    once, output = place / case.kind, place / "run"
    if case.kind == "aligned":
        if not once.exists():
            engine.run(asdict(replace(case, kind="fresh", stages=("align",), output=str(once))))
        shutil.copytree(once, output)
    elif case.kind == "resume":
        output = once
        if not once.exists():
            engine.run(asdict(replace(case, kind="fresh", output=str(once))))
    yield replace(case, output=str(output))
    if output != once:
        shutil.rmtree(output)


def amount(case: Case, images: int) -> float:
    """Return the amount of work of a case: its rate is this over its seconds."""
    return {
        "images/s": images,
        "shards/s": case.shards,
        "rows/s": case.shards * case.shard_rows,
        "s": 1,
    }[case.unit]


def compare(case: Case, runs: dict[str, list[Figures]], images: int) -> dict[str, Any]:
    """Return the medians, ratios and spreads of a case."""
    much = amount(case, images)
    values = {
        name: [run["seconds"] if case.unit == "s" else much / run["seconds"] for run in own]
        for name, own in runs.items()
    }
    rounds = [new / old for old, new in zip(*(values[name] for name in ENGINES), strict=True)]
    found: dict[str, Any] = {"case": case.name, "unit": case.unit}
    for name in ENGINES:
        middle = statistics.median(values[name])
        figures = {key: statistics.median(run[key] for run in runs[name]) for key in runs[name][0]}
        spread = (max(values[name]) - min(values[name])) / middle
        grown = statistics.median(run["peak_mb"] - run["before_mb"] for run in runs[name])
        found[name] = {"value": middle, "spread": spread, "grown_mb": grown, **figures}
    keys = ("value", "cpu_s", "peak_mb")
    found["new_over_old"] = {key: found["new"][key] / found["old"][key] for key in keys}
    found["rounds"] = [min(rounds), max(rounds)]
    found["runs"] = runs
    return found


def table(results: list[dict[str, Any]]) -> str:
    """Return a table of times, then one of memory."""
    times = [["case", "unit", "old", "new", "new/old", "rounds", "spread", "CPU new/old"]]
    memory = [["MB", "imports", "", "peak", "", "new/old", "grown", ""]]
    memory.append(["", *("old", "new") * 2, "", "old", "new"])
    for one in results:
        old, new, ratio = one["old"], one["new"], one["new_over_old"]
        low, high = one["rounds"]
        times.append([
            one["case"], one["unit"], f"{old['value']:.4g}", f"{new['value']:.4g}",
            f"{ratio['value']:.3f}", f"{low:.3f}–{high:.3f}",
            f"{old['spread']:.0%}, {new['spread']:.0%}", f"{ratio['cpu_s']:.3f}",
        ])  # fmt: skip
        pairs = [f"{side[key]:.0f}" for key in ("imported_mb", "peak_mb") for side in (old, new)]
        grown = [f"{side['grown_mb']:.0f}" for side in (old, new)]
        memory.append([one["case"], *pairs, f"{ratio['peak_mb']:.3f}", *grown])
    return f"{aligned(times)}\n\n{aligned(memory)}"


def aligned(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])],
        ).rstrip()
        for row in rows
    )


def arguments() -> argparse.Namespace:
    description, _, legend = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=legend, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--old", type=Path, help="checkout to compare with")
    parser.add_argument("--new", type=Path, default=HERE.parent.parent, help="default: this one")
    parser.add_argument("--times", type=int, default=7, help="rounds (default 7)")
    parser.add_argument("--images", type=int, default=512, help="photographs (default 512)")
    parser.add_argument("--size-px", type=int, default=512, help="of a photograph (default 512)")
    parser.add_argument("--pack", help="insightface pack (a folder, or a name): measure it too")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--done-shards", type=int, default=1000, help="of the job resumed")
    parser.add_argument("--toy-shards", type=int, default=200, help="of engine, shards")
    parser.add_argument("--toy-rows", type=int, default=20_000, help="of engine, rows")
    parser.add_argument("--set", action="append", default=[], help="stage.key=value, repeatable")
    parser.add_argument("--only", nargs="+", default=[""], help="names of cases, or prefixes")
    parser.add_argument("--folder", type=Path, help="work folder; default: a temporary one")
    parser.add_argument("--json", type=Path, nargs="?", const=RESULTS, help="write the figures")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child is None and args.old is None:
        parser.error("--old: give the checkout to compare with")
    if args.times < 1:
        parser.error("--times: at least one round")
    return args


def main() -> None:
    args = arguments()
    if args.child is not None:
        return child(json.loads(args.child))
    with tempfile.TemporaryDirectory(prefix="normpipe-", dir=args.folder) as folder:
        work = Path(folder)
        engines = {name: checkout(getattr(args, name), work) for name in ENGINES}
        for name, engine in engines.items():
            print(f"{name}: {engine.path} ({engine.commit()})")
        photographs = work / "photographs"
        wanted = [
            case for case in cases(args, photographs) if case.name.startswith(tuple(args.only))
        ]
        if not wanted:
            sys.exit(f"no such case; choose from: {', '.join(c.name for c in cases(args, work))}")
        sizes = {"folder": str(photographs), "count": args.images, "size_px": args.size_px}
        engines["new"].run({"kind": "lay", **sizes})
        runs = {case.name: {name: list[Figures]() for name in ENGINES} for case in wanted}
        loads = [os.getloadavg()[0]]
        for number in range(args.times + 1):
            for case in wanted:
                for name in ENGINES if number % 2 else ENGINES[::-1]:
                    print(f"round {number}: {case.name}, {name}", file=sys.stderr, flush=True)
                    with laid_out(case, engines[name], work / name) as ready:
                        figures = engines[name].run(asdict(ready))
                    if number:
                        runs[case.name][name].append(figures)
            loads.append(os.getloadavg()[0])
    results = [compare(case, runs[case.name], args.images) for case in wanted]
    print(table(results))
    print(f"rounds: {args.times}, load average {min(loads):.1f} to {max(loads):.1f}")
    if args.json:
        report = {
            "engines": {name: engine.commit() for name, engine in engines.items()},
            "settings": {key: value for key, value in vars(args).items() if key != "child"},
            "load_average": loads,
            "results": results,
        }
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report, indent=2, default=str) + "\n", encoding="utf-8")
        print(f"figures: {args.json}")
    return None


if __name__ == "__main__":
    main()
