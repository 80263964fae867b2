"""How workers in other processes build a job's stages. Part of the command line."""

from pathlib import Path
from typing import Any

from ....stages import CONFIGS, build_flow
from ....stages.importing.import_plan import ImportConfig
from ....stages.importing.import_variant import ImportVariant
from ...config import Job, RunConfig, portable
from ...run.places import Remote
from ...stage import MapStage
from ...store.storage import location


def remote(job: Job) -> Remote:
    """Return the job as workers receive it, with absolute paths.

    Raises InputError for a GPU in ``run.gpus`` that is not there.
    """
    if job.run.gpus:
        # Imported here: torch takes seconds to import.
        from ....stages.networks.devices import require_gpus

        require_gpus(job.run.gpus, "--gpus")
    settings = {
        "input": str(job.input.resolve()) if job.input else None,
        "output": str(job.output.resolve()),
        "dataset": job.dataset,
        "stages": {name: portable(config) for name, config in job.stages.items()},
    }
    return Remote(build_map_stages, settings)


def build_map_stages(settings: dict[str, Any], run: RunConfig) -> dict[str, MapStage]:
    """Return the map stages of the job that ``remote`` described, by name, not opened."""
    job = Job(
        input=location(settings["input"]),
        output=location(settings["output"]),
        dataset=settings["dataset"],
        run=run,
        stages={name: CONFIGS[name](**values) for name, values in settings["stages"].items()},
    )
    return {stage.name: stage for stage in build_flow(job) if isinstance(stage, MapStage)}


def import_remote(root: Path, folder: Path, config: ImportConfig) -> Remote:
    """Return the import of a variant as workers receive it, with everything decided."""
    settings = {
        "output": str(root.resolve()),
        "pictures": str(folder.resolve()),
        "settings": portable(config),
    }
    return Remote(build_import, settings)


def build_import(settings: dict[str, Any], _run: RunConfig) -> dict[str, MapStage]:
    """Return the stage that ``import_remote`` described, not opened."""
    config = ImportConfig(**settings["settings"])
    stage = ImportVariant(config, location(settings["output"]), Path(settings["pictures"]))
    return {stage.name: stage}
