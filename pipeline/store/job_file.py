"""The job of an output folder: ``job.toml`` says which job the folder belongs to, and its settings.

It contains nothing of ``[run]``, no settings of a single run and no credentials, so that it is the
same wherever the work is done, and by however many workers.
"""

import json
import tomllib
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel

from ...manifests.schema import SCHEMA_VERSION
from ..config import differences, has_mark, portable, validate_settings
from ..errors import InputError, OutputError
from ..stage import Stage
from .commit import (
    fsync_folder,
    remove_file,
    temporary,
    write_if_changed,
)
from .labels import JOB_FILE, OLD_JOB_FILE, holds_job, is_saved_job
from .lock import LOCK_FILE, STORE_LOCK
from .shards import ShardFolder
from .storage import is_address, without_credentials
from .toml_text import key_text, readable, table_lines, value_text

Values = dict[str, Any]
Models = Mapping[str, type[BaseModel]]

#: What a saved job contains besides settings.
HEAD = ("input", "dataset", "input_root", "schema_version")
FLOW = "flow"

_ABOUT = """\
# What made this folder, and with which settings; later commands on it use them, too.
# If the input moved, change its path here. A run that changes a setting rewrites this file.
"""
_ABOUT_FLOW = "# Which stage reads and writes what; maintained by normpipe."


# ---------------------------------------------------------------- reading


def read_job(root: Path) -> Values:
    """Return a folder's saved job: ``HEAD``, ``flow`` and the tables of settings, unchecked.

    Raises InputError if it is not a job's folder, or the file is broken.
    """
    path = root / JOB_FILE
    if is_saved_job(path):
        try:
            return _with_flow(tomllib.loads(path.read_bytes().decode()))
        except ValueError as error:
            raise InputError(f"{path} cannot be read ({error}): fix that line") from None
    old = root / OLD_JOB_FILE
    try:
        return _with_flow(json.loads(old.read_bytes()))
    except FileNotFoundError:
        raise InputError(
            f"{root} holds no normpipe job (no {JOB_FILE} of a run): give the --output of a run"
        ) from None
    except (ValueError, NotADirectoryError) as error:
        raise InputError(f"{old} cannot be read ({error}): restore it, or start over") from None


def _with_flow(job: Any) -> Values:
    flow = job.get(FLOW, []) if isinstance(job, dict) else None
    for entry in flow if isinstance(flow, list) else [None]:
        if not isinstance(entry, dict) or not {"stage", "reads", "writes"} <= entry.keys():
            raise ValueError("[[flow]] must name stage, reads and writes")
        if not all(isinstance(text, str) for text in (entry["stage"], entry["writes"])):
            raise ValueError("stage and writes in [[flow]] must be text")
        if not _are_texts(entry["reads"]):
            raise ValueError("reads in [[flow]] must be a list of texts")
    return job


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in cast(list[Any], value))


def saved_settings(root: Path, known: Models) -> dict[str, Values] | None:
    """Return the settings that a folder's job saved, complete, for the tables in ``known``.

    None if it saved none: not a job's folder, or one of release 0.1.0. Raises InputError for an
    unknown setting or an invalid value.
    """
    path = root / JOB_FILE
    if not is_saved_job(path):
        return None
    job = read_job(root)
    with _naming(path):
        return {
            name: saved_values(validate_settings(model, job[name], name))
            for name, model in known.items()
            if name in job
        }


@contextmanager
def _naming(path: Path) -> Generator[None, None, None]:
    """Prefix errors with the file's name."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def has_shards(root: Path) -> bool:
    """Return whether a job's folder holds any shard's record."""
    if not holds_job(root):
        return False
    # The expected places first: in a store, a search means listing everything.
    flow = read_job(root).get(FLOW, [])
    return (
        any(ShardFolder(root / entry["writes"]).recorded_numbers() for entry in flow)
        or next(root.rglob("records/*.json"), None) is not None
    )


# ---------------------------------------------------------------- writing


def saved_values(config: BaseModel) -> Values:
    """Return the settings to save: absolute paths, none of a single run, no credentials."""
    fields = type(config).model_fields
    return {
        name: _clean(value)
        for name, value in portable(config).items()
        if not has_mark(fields[name], "per_run")
    }


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return readable(without_credentials(value))
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, dict):
        return {key: _clean(item) for key, item in value.items()}
    return value


def job_text(head: Values, tables: Mapping[str, Values], models: Models, flow: list[Values]) -> str:
    """Return ``job.toml``: the settings in ``tables``, with comments if their model is known."""
    lines = [*_ABOUT.splitlines(), ""]
    lines += [f"{name} = {value_text(head[name])}" for name in HEAD if name in head]
    for name, values in tables.items():
        if name in models:
            lines += table_lines(name, models[name], values)
        else:
            lines += ["", f"[{key_text(name)}]"]
            lines += [f"{key_text(key)} = {value_text(value)}" for key, value in values.items()]
    lines += ["", _ABOUT_FLOW]
    for entry in flow:
        lines += ["[[flow]]", *(f"{name} = {value_text(entry[name])}" for name in entry), ""]
    return "\n".join(lines)


def _write(root: Path, text: str) -> None:
    write_if_changed(root / JOB_FILE, text.encode())
    if (root / OLD_JOB_FILE).is_file():
        remove_file(root / OLD_JOB_FILE)
        fsync_folder(root)


# ---------------------------------------------------------------- a run


@dataclass(frozen=True)
class Claim:
    """A folder that a run holds, and the ``job.toml`` to save once the run is accepted.

    ``text`` is None if it stays as it is.
    """

    root: Path
    text: str | None

    def accept(self) -> None:
        """Save the settings of the stages that run; a second call does nothing."""
        if self.text is not None:
            _write(self.root, self.text)


def refuse_foreign(root: Path) -> None:
    """Raise OutputError if the output folder holds something other than a normpipe job."""
    if not root.exists():
        return
    if not root.is_dir():
        raise OutputError(f"{root} is a file: choose a folder for --output")
    # Left by a run that was killed before it claimed the folder.
    leftover = {LOCK_FILE, STORE_LOCK, temporary(root / JOB_FILE).name}
    leftover.add(temporary(root / OLD_JOB_FILE).name)
    if not holds_job(root) and any(path.name not in leftover for path in root.iterdir()):
        raise OutputError(f"{root} is not empty and holds no normpipe job: choose another --output")


def claim(
    root: Path,
    identity: Mapping[str, str],
    flow: Sequence[Stage],
    settings: Mapping[str, BaseModel],
    selected: Sequence[Stage],
) -> Claim:
    """Save the job of a new folder; for any other, return what to save once the run is accepted.

    Args:
        identity: what ties the folder to this job: input, dataset, input_root.
        flow: all stages of the job.
        settings: by table; none: those of the flow.
        selected: the stages that run. The saved settings of other stages stay unchanged.

    Raises:
        OutputError: the folder belongs to another job.
        InputError: its saved job is broken.
    """
    if selected and all(stage.beside_job for stage in selected):
        read_job(root)  # a job's folder, or refused
        return Claim(root, None)
    head: Values = {name: readable(without_credentials(text)) for name, text in identity.items()}
    configs = dict(settings) or {stage.table: stage.config for stage in flow}
    tables = {name: saved_values(config) for name, config in configs.items()}
    models = {name: type(config) for name, config in configs.items()}
    entries = [_entry(stage) for stage in flow]
    # A first run that failed before any work (a mistyped input) does not claim the folder.
    has_work = has_shards(root)
    if has_work:
        old = read_job(root)
        _refuse_other_job(root, old, head)
        head = {name: _clean(old.get(name, value)) for name, value in head.items()}
        run = [stage for stage in selected if not _is_beside(stage, selected, old)]
        kept = saved_settings(root, models) or {}
        own = {stage.table for stage in run}
        tables |= {name: values for name, values in kept.items() if name not in own}
        tables |= {n: v for n, v in old.items() if n not in tables and n not in (*HEAD, FLOW)}
        known = {entry["stage"]: entry for entry in old.get(FLOW, [])}
        known |= {stage.name: _entry(stage) for stage in run}
        entries = [known.get(entry["stage"], entry) for entry in entries]
    head["schema_version"] = SCHEMA_VERSION
    made = Claim(root, job_text(head, tables, models, entries))
    if not has_work:
        made.accept()
    return made


def _entry(stage: Stage) -> Values:
    return {"stage": stage.name, "reads": list(stage.reads), "writes": stage.writes}


def _is_beside(stage: Stage, selected: Sequence[Stage], old: Values) -> bool:
    """Return whether a stage runs for a dataset other than the job's own, which nothing reads now.

    For example another normalized variant. It does not change the job, which keeps its own.
    """
    made = {entry["writes"] for entry in old.get(FLOW, []) if entry["stage"] == stage.name}
    read = any(stage.writes in other.reads for other in selected)
    return bool(made) and stage.writes not in made and not read


def _refuse_other_job(root: Path, old: Values, head: Values) -> None:
    file = JOB_FILE if is_saved_job(root / JOB_FILE) else OLD_JOB_FILE
    for name, value in head.items():
        if not _same(old.get(name), value):
            raise OutputError(
                f"{root} belongs to another job ({name}: {old.get(name)}, here {value}): "
                f"choose another --output (or, if the input only moved, edit {file} in it)"
            )


def _same(old: Any, new: str) -> bool:
    """Return whether two texts are equal, or two paths to the same place."""
    if old == new or not isinstance(old, str):
        return old == new
    places = Path(old), Path(new)
    if is_address(old) or is_address(new) or not all(place.is_absolute() for place in places):
        return without_credentials(old) == new
    return places[0].resolve() == places[1].resolve()


def keep(root: Path, settings: Mapping[str, BaseModel], known: Models) -> None:
    """Save settings in a folder's job, keeping all others; ``known``: models for the comments."""
    job = read_job(root)
    kept = saved_settings(root, known)
    if kept is None:  # a job of release 0.1.0: the next run writes its job.toml
        return
    tables: dict[str, Values] = {n: v for n, v in job.items() if n not in (*HEAD, FLOW)}
    tables |= kept
    tables |= {name: saved_values(config) for name, config in settings.items()}
    head = {name: job[name] for name in HEAD if name in job}
    _write(root, job_text(head, tables, known, job[FLOW]))


def changes(root: Path, settings: Mapping[str, BaseModel]) -> list[str]:
    """Return lines ``align.size_px: 224 → 160`` for differences from the saved job, if any."""
    saved = saved_settings(root, {name: type(config) for name, config in settings.items()}) or {}
    return [
        line
        for name, values in saved.items()
        for line in differences(values, saved_values(settings[name]), f"{name}.")
    ]
