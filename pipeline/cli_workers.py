"""How workers in other processes build a job's stages. Part of the command line."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ..stages import CONFIGS, build_flow
from .config import Job, RunConfig
from .places import Remote
from .stage import MapStage
from .storage import location


def remote(job: Job) -> Remote:
    """Return what workers are told of a job; its paths count from this process's folder."""
    settings = {
        "input": str(job.input.resolve()) if job.input else None,
        "output": str(job.output.resolve()),
        "dataset": job.dataset,
        "stages": {name: _settings(config) for name, config in job.stages.items()},
    }
    return Remote(build_map_stages, settings)


def build_map_stages(settings: dict[str, Any], run: RunConfig) -> dict[str, MapStage]:
    """Return the map stages of the job that ``remote`` wrote down, by name, not yet opened."""
    job = Job(
        input=location(settings["input"]),
        output=location(settings["output"]),
        dataset=settings["dataset"],
        run=run,
        stages={name: CONFIGS[name](**values) for name, values in settings["stages"].items()},
    )
    return {stage.name: stage for stage in build_flow(job) if isinstance(stage, MapStage)}


def _settings(config: BaseModel) -> dict[str, Any]:
    """Return a stage's settings as JSON holds them, with the paths that shape nothing absolute."""
    values = config.model_dump(mode="json")
    for name, info in type(config).model_fields.items():
        extra, value = info.json_schema_extra, values[name]
        hidden = isinstance(extra, dict) and extra.get("shapes_results") is False
        if hidden and isinstance(value, str) and value and Path(value).exists():
            values[name] = str(Path(value).resolve())
    return values
