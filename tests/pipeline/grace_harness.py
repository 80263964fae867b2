"""Runs a slow job of toy stages as the command line does, to be sent signals."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from toys import ToyConfig, ToyMap, ToySource  # beside this script

from normpipe.pipeline.commands.handling import handled, start_logging
from normpipe.pipeline.commands.running.execute import execute
from normpipe.pipeline.config import Job, RunConfig
from normpipe.pipeline.run.runner import Options


class SlowMap(ToyMap):
    seconds = 0.0
    mark: Path

    def compute(self, items: list[Any]) -> Sequence[Any]:
        self.mark.touch()
        time.sleep(len(items) * self.seconds)
        return super().compute(items)


@handled
def main(output: Path, grace: float, shard_rows: int, seconds: float) -> None:
    start_logging()
    config = ToyConfig(shard_rows=shard_rows, batch=2)
    SlowMap.seconds, SlowMap.mark = seconds, output.with_name("computing")
    flow = [ToySource([f"n{i}" for i in range(60)], config), SlowMap(config)]
    run = RunConfig(threads=1, prefetch=1, grace_seconds=grace)
    job = Job(output=output, dataset="toy", run=run, stages={})
    execute(job, flow, flow, Options(identity={"dataset": "toy"}))
    print("through: what follows would begin here")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
    except typer.Exit as end:
        sys.exit(end.exit_code)
