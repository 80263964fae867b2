"""Builds a command's job from its options and the job saved in its output folder.

Part of the command line.
"""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ....manifests.keys import sample_id
from ....stages import CONFIGS, SINKS
from ...config import Job, load_job, validate_settings
from ...errors import InputError, nearest
from ...stage import sha256_file
from ...store.job_file import FLOW, HEAD, changes, has_shards, keep, read_job, saved_settings
from ...store.labels import JOB_FILE, LABELS_FILE, holds_job, is_saved_job
from ...store.lock import locked
from ...store.shards import ShardFolder, datasets_in
from ...store.storage import is_store, is_within, location
from ...store.toml_text import value_text

log = logging.getLogger("normpipe")


def job_to_run(argument: str | None, given: Mapping[str, Any], sets: Sequence[str]) -> Job:
    """Return the job of ``normpipe run``.

    Args:
        argument: a job file, which states everything; or a folder with a saved job,
            or that file, whose job is continued there.
        given: values of options, as ``load_job`` takes them; input and output are among them,
            None where left out.
        sets: ``stage.key=value``, of ``--set``.

    Raises:
        InputError: with one line.
    """
    file, root = _file_or_folder(argument, given["output"])
    if file is None and argument is None and root is not None and not has_shards(root):
        root = None  # no dataset was made with the saved settings, so the given ones count
    if root is None:
        return load_job(file, given, sets, CONFIGS)
    if not holds_job(root):
        raise InputError(
            f"{root} holds no normpipe job: give --input PHOTOS and --output OUT, or a job file"
        )
    job = read_job(root)
    for name in job:
        if name not in (*HEAD, FLOW, *CONFIGS):
            hint = nearest(name, [*HEAD, *CONFIGS])
            raise InputError(f"{root / JOB_FILE}: unknown key '{name}' in the job of a run{hint}")
    saved = saved_settings(root, CONFIGS)
    if saved is None:
        saved = _recovered(root, job, alone=given["input"] is None)
    head = {name: job[name] for name in ("input", "dataset") if job.get(name)}
    return load_job(None, {**given, "output": root}, sets, CONFIGS, {**head, **saved})


def _file_or_folder(argument: str | None, output: str | None) -> tuple[Path | None, Path | None]:
    """Return the job file that states everything, or else the folder with the saved job."""
    if argument is None:
        return None, location(output) if output else None
    place = location(argument)
    if not place.is_dir() and (place.suffix == ".toml" or not is_store(place)):
        if output is not None or place.name != JOB_FILE or not is_saved_job(place):
            return place, None
        place = place.parent
    if output is not None:
        raise InputError(
            f"{place} is an output folder: leave --output out, or name a job file "
            f"({place / JOB_FILE} will do)"
        )
    return None, place


def _recovered(root: Path, job: Mapping[str, Any], alone: bool) -> dict[str, dict[str, Any]]:
    """Return the settings recorded in the datasets of a folder made by release 0.1.0.

    Raises InputError if they are not enough to continue it ``alone``, without options.
    """
    if alone and (root / LABELS_FILE).is_file():
        raise InputError(
            f"{root} is of normpipe 0.1.0, which did not save how labels are read: give --input "
            "and all --set once more; from then on they are saved"
        )
    found: dict[str, dict[str, Any]] = {}
    for entry in job.get(FLOW, []):
        name = entry["stage"]
        made = ShardFolder(root / entry["writes"]).description()
        if made is None or name not in CONFIGS:
            continue
        known = CONFIGS[name].model_fields
        found[name] = {n: "" if v is None else v for n, v in made["settings"].items() if n in known}
        if name == "normalize":
            variant = entry["writes"].rpartition("/")[2]
            found[name]["variant"] = "" if variant == found[name].get("network") else variant
    if len(found.get("pair", {}).get("variants", [])) == 1:
        del found["pair"]["variants"]  # the variant that the job makes
    return found


def begun_with(root: Path, known: Mapping[str, type[BaseModel]]) -> dict[str, dict[str, Any]]:
    """Return the settings in ``known`` that a folder's job saved; none if nothing was made yet."""
    return (saved_settings(root, known) or {}) if has_shards(root) else {}


def refuse_unusable_input(job: Job) -> None:
    """Raise InputError for a job without input, or whose output lies inside its input."""
    if job.input is None:
        raise InputError("no input: give --input PHOTOS, or input = '…' in the job file")
    if is_within(job.output, job.input):
        raise InputError(
            f"{job.output} lies inside the input folder, where its pictures would become inputs: "
            "choose an --output beside it"
        )


def with_release(job: Job) -> Job:
    """Return the job with the digest of its description of a release, if that is a file.

    Raises InputError if the file has changed since the job began.
    """
    ingest = job.stage("ingest")
    file, known = ingest.release_file, ingest.release_sha256
    try:
        digest = sha256_file(file) if file is not None else ""
    except OSError as error:
        raise InputError(f"cannot read the description {file}: {error.strerror}") from None
    if file is not None and known and digest != known:
        raise InputError(
            f"{file} is not the description that the job began with: restore it, or read the "
            "labels as it says now with --set ingest.release_sha256=''"
        )
    settings = ingest.model_copy(update={"release_sha256": digest})
    return job.model_copy(update={"stages": {**job.stages, "ingest": settings}})


def say_changes(job: Job, stages: Sequence[str]) -> None:
    """Log how the settings of ``stages`` differ from the saved job's."""
    settings = {name: job.stages[name] for name in stages if name in job.stages}
    for line in changes(job.output, settings):
        log.info("%s (the old value is saved in %s)", line, job.output / JOB_FILE)


def faces_job(
    input: Path,
    output: Path,
    work: Path | None,
    sets: Sequence[str],
    made: bool,
    stages: Sequence[str],
    defaults: Mapping[str, Mapping[str, Any]] | None = None,
) -> Job:
    """Return the job that turns photographs into faces, as ``normpipe run`` does.

    Args:
        input: photographs, or faces.
        output: the file that is made from the faces.
        work: the job's folder; None: next to the output.
        sets: ``stage.key=value``, of ``--set``.
        made: the input already contains faces.
        stages: those that are to run.
        defaults: settings by table, of options that ``--set`` takes precedence over.

    Raises:
        InputError: settings or paths that cannot be.
    """
    if made and (work or any(not one.startswith("run.") for one in sets)):
        raise InputError(f"--work and --set are for photographs, and {input} holds faces already")
    folder = work or output.with_suffix(".work")
    if output.resolve() == input.resolve():
        raise InputError(f"{output} is the input: choose another --output")
    if not made and folder.resolve().is_relative_to(input.resolve()):
        raise InputError(f"{folder} lies inside the input folder: choose a --work folder beside it")
    given = {
        "input": input,
        "output": folder,
        "dataset": sample_id(input.resolve().stem) or None,
    }
    saved = {} if made else begun_with(folder, CONFIGS)
    for table, values in (defaults or {}).items():
        saved[table] = {**saved.get(table, {}), **values}
    job = load_job(None, given, sets, CONFIGS, saved)
    if not made:
        say_changes(job, stages)
    return job


def keep_settings(
    root: Path, folder: Path, settings: Sequence[BaseModel], agreed: Callable[[], bool]
) -> None:
    """Save the settings of a job's own classifier, of classify and of evaluate.

    Args:
        root: the job's folder.
        folder: the classifier's; if it is outside the job, nothing is saved.
        settings: of both.
        agreed: returns whether they will be used, not refused.
    """
    first = os.environ.get("LOCAL_RANK", "0") == "0"  # Fabric restarts it for the others
    if not first or folder.resolve() != (root / "classify").resolve() or not holds_job(root):
        return
    tables = dict(zip(SINKS, settings, strict=True))
    if changes(root, tables) and agreed():
        with locked(root):
            keep(root, tables, CONFIGS)


def options_to_pair(root: Path, variant: str, imported: str) -> str:
    """Return the options with which a run pairs a new variant, besides those that it pairs now.

    If nothing else was normalized or paired, its name is saved in the folder's job instead: the
    next run goes on with the imported variants.

    Args:
        variant: that was imported.
        imported: the stage that imports variants.
    """
    saved = saved_settings(root, {"pair": CONFIGS["pair"]})
    pair: Any = validate_settings(CONFIGS["pair"], (saved or {}).get("pair", {}), "pair")
    made = {
        folder.path.name: (folder.description() or {}).get("stage")
        for folder in datasets_in(root / "normalized").values()
        if folder.records()
    }
    others = [name for name, stage in made.items() if stage != imported]
    own = {entry["writes"] for entry in read_job(root)[FLOW]}
    there = [name for name in pair.variants if name in made or f"normalized/{name}" in own]
    wanted = tuple(dict.fromkeys([*(there or others), variant]))
    pairs = ShardFolder(root / "pairs")
    paired = (pairs.description() or {}).get("settings", {}) if pairs.records() else None
    if saved is not None and paired is None and not others and {*there} <= {*made}:
        with locked(root):
            keep(root, {"pair": pair.model_copy(update={"variants": wanted})}, CONFIGS)
        return ""
    text = "" if wanted == pair.variants else f" --set 'pair.variants={value_text(list(wanted))}'"
    same = paired is None or paired.get("variants") == list(wanted)
    return text if same else f"{text} --overwrite"
