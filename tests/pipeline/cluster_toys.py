"""Toy stages for workers in other processes, and a script that runs them as the command line does.

What a worker process does beside its work, it leaves as files in the folder ``trace``.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

from pydantic import Field
from toys import SecondMap, ToyConfig, ToyJoin, ToyMap, ToySource  # beside this script

from normpipe.pipeline.config import RunConfig
from normpipe.pipeline.run import places
from normpipe.pipeline.run.places import Remote
from normpipe.pipeline.stage import MapStage, Row, Stage
from normpipe.pipeline.store.storage import location

#: Not of the rows, and so not of the job that a folder saves.
HIDDEN: dict[str, Any] = {"shapes_results": False, "per_run": True}


class RemoteConfig(ToyConfig):
    """What shapes the rows stands in ToyConfig; the rest is what happens on the way."""

    names: int = Field(60, json_schema_extra=HIDDEN)
    seconds: float = Field(0.0, json_schema_extra=HIDDEN)
    trace: str = Field("", json_schema_extra=HIDDEN)
    #: A number whose row kills its worker, every time.
    deadly: int = Field(-1, json_schema_extra=HIDDEN)
    #: A number whose row breaks its shard, every time.
    broken: int = Field(-1, json_schema_extra=HIDDEN)
    #: A worker that has quarantined a shard dies before it can say so.
    mute: bool = Field(False, json_schema_extra=HIDDEN)
    gpu: bool = Field(False, json_schema_extra=HIDDEN)
    memory: float = Field(1e9, json_schema_extra=HIDDEN)


class RemoteMap(ToyMap):
    name: ClassVar[str] = "toy-map"
    config: RemoteConfig

    def open(self) -> None:
        if self.config.trace:
            mark = f"open-{self.name}-{os.getpid()}-{uuid4().hex}"
            text = os.environ.get("CUDA_VISIBLE_DEVICES", "unset")
            (Path(self.config.trace) / mark).write_text(text)

    def digests(self) -> dict[str, str]:
        return {"weights": os.environ.get("TOY_WEIGHTS", "the same")}

    def resources(self) -> dict[str, float]:
        gpu = {"GPU": 1.0} if self.config.gpu else {}
        return {"MEMORY": self.config.memory, **gpu}

    def prepare(self, row: Row) -> Any:
        number = super().prepare(row)
        if number == self.config.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        if number == self.config.broken:
            raise RuntimeError(f"broken at {number}")
        return number

    def compute(self, items: list[Any]) -> Sequence[Any]:
        time.sleep(len(items) * self.config.seconds)
        return super().compute(items)


def build(settings: dict[str, Any], _run: RunConfig) -> dict[str, MapStage]:
    """The factory that workers are given."""
    if settings.get("mute"):
        die_mute()
    return {stage.name: stage for stage in flow(settings) if isinstance(stage, MapStage)}


def die_mute() -> None:
    """From now on this process dies as soon as it has made a shard as quarantined."""
    make = places.make_shard

    def mute(*arguments: Any) -> Any:
        outcome = make(*arguments)
        if arguments[2]["quarantine"]:
            os.kill(os.getpid(), signal.SIGKILL)
        return outcome

    places.make_shard = mute


class OnceMap(RemoteMap):
    """Opened once however often it is asked, as the real stages are."""

    opened = False

    def open(self) -> None:
        if not self.opened:
            super().open()
        self.opened = True


def flow(settings: dict[str, Any]) -> list[Stage]:
    config = RemoteConfig(**settings)
    names = [f"n{i}" + ("-noface" if i % 7 == 3 else "") for i in range(config.names)]
    return [
        ToySource(names, config),
        OnceMap(config),
        SecondMap(ToyConfig(shard_rows=config.shard_rows), reads="made", writes="second"),
        ToyJoin(),
    ]


def run(output: Path, settings: dict[str, Any], places: dict[str, Any]) -> None:
    import typer

    from normpipe.pipeline.commands.handling import handled, start_logging
    from normpipe.pipeline.commands.running.execute import execute
    from normpipe.pipeline.config import Job
    from normpipe.pipeline.run.runner import Options

    # Sent by reference: workers import it under its name, which here is __main__.
    import cluster_toys  # isort: skip

    @handled
    def main() -> None:
        start_logging()
        stages = flow(settings)
        job = Job(output=output, dataset="toy", run=RunConfig(**places), stages={})
        remote = Remote(cluster_toys.build, settings)
        execute(job, stages, stages, Options(identity={"dataset": "toy"}), remote=remote)
        print("through; dask imported:", "dask" in sys.modules, flush=True)

    try:
        main()
    except typer.Exit as end:
        sys.exit(end.exit_code)


if __name__ == "__main__":
    run(location(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3]))
