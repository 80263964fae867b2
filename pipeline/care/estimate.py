"""``--dry-run``: what a job would do, with time and disk estimated from a sample of its inputs."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..run.making import compute, finish_row, prepare_row, process
from ..run.plan import describe, plan_stage
from ..stage import MapStage, Row, SourceStage, Stage
from ..store.shards import ShardFolder

#: Inputs that are run, spread over the dataset.
SAMPLE = 32


@dataclass(frozen=True)
class Estimate:
    """One line of the plan."""

    stage: str
    inputs: int
    shards_done: int
    shards_todo: int
    seconds: float
    bytes: int


def estimate(root: Path, stages: Sequence[Stage], threads: int) -> list[Estimate]:
    """Return a line for each stage; nothing is written.

    Map stages are run in memory on up to 32 inputs. The estimate is for an otherwise idle machine;
    stages that overlap on a GPU take less than the sum of their times.
    """
    lines: list[Estimate] = []
    #: Sample rows of each dataset that a stage before this one would make.
    samples: dict[str, list[Row]] = {}
    inputs = 0
    for stage in stages:
        if isinstance(stage, SourceStage):
            started = time.perf_counter()
            scan = stage.scan()
            inputs = scan.rows.num_rows
            done = len(ShardFolder(root / stage.writes).records())
            shards = -(-inputs // stage.shard_rows)
            step = max(1, inputs // SAMPLE)
            taken = scan.rows.take(list(range(0, inputs, step))[:SAMPLE])
            samples[stage.writes] = taken.to_pylist()
            seconds = time.perf_counter() - started
            lines.append(
                Estimate(stage.name, inputs, done, max(0, shards - done), seconds, scan.rows.nbytes)
            )
            continue
        folder = ShardFolder(root / stage.reads[0])
        records = folder.records()
        rows = samples.get(stage.reads[0])
        if records and rows is None:
            inputs = sum(record.rows for record in records.values())
            first = folder.read(next(iter(records)))
            rows = first.slice(0, SAMPLE).to_pylist()
        seconds, size = 0.0, 0
        stage.open()
        plan = plan_stage(root, stage, describe(stage))
        shards = len(plan.done) + len(plan.todo) or (lines[0].shards_done + lines[0].shards_todo)
        left = shards - len(plan.done)
        if isinstance(stage, MapStage) and rows:
            made, seconds, size = _measure(stage, rows, threads)
            samples[stage.writes] = made
            share = inputs / max(1, len(made)) * left / max(1, shards)
            seconds, size = seconds * share, int(size * share)
        lines.append(Estimate(stage.name, inputs, len(plan.done), left, seconds, size))
    return lines


def _measure(stage: MapStage, rows: list[Row], threads: int) -> tuple[list[Row], float, int]:
    """Run a stage on sample rows; return its output rows, seconds, bytes of images."""
    process(stage, rows[:1])  # warm-up: libraries load on first use
    made: list[Row] = []
    around = network = 0.0
    for i in range(0, len(rows), stage.batch_size):
        batch = rows[i : i + stage.batch_size]
        times = [time.perf_counter()]
        items = [prepare_row(stage, row) for row in batch]
        times.append(time.perf_counter())
        results = compute(stage, items)
        times.append(time.perf_counter())
        for row, item, result in zip(batch, items, results, strict=True):
            made += finish_row(stage, row, item, result)
        network += times[2] - times[1]
        around += times[1] - times[0] + time.perf_counter() - times[2]
    size = sum(
        len(value["bytes"])
        for row in made
        for value in row.values()
        if isinstance(value, dict) and isinstance(value.get("bytes"), bytes)
    )
    blank = dict.fromkeys(stage.schema.names)
    # The network already uses all threads; the work around it is divided among them.
    return [{**blank, **row} for row in made], network + around / threads, size


def estimate_table(lines: Sequence[Estimate]) -> str:
    """Return the plan as a table."""
    head = f"{'stage':<12}{'inputs':>10}{'shards done':>13}{'to do':>8}{'time':>12}{'disk':>11}"
    body = [
        f"{e.stage:<12}{e.inputs:>10}{e.shards_done:>13}{e.shards_todo:>8}"
        f"{_duration(e.seconds):>12}{e.bytes / 1e6:>8.1f} MB"
        for e in lines
    ]
    return "\n".join([head, *body])


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"~{seconds:.0f} s"
    if seconds < 5400:
        return f"~{seconds / 60:.0f} min"
    return f"~{seconds / 3600:.1f} h"
