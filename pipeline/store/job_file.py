"""The job that an output folder holds: ``job.toml`` says whose it is, and with which settings.

It holds nothing of ``[run]``, nothing of a single run and no credentials, so that it is the same
wherever and by however many the work is done.
"""

import json
import tomllib
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ...manifests.schema import SCHEMA_VERSION
from ..config import check, differences, marked, portable
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

#: What a saved job states besides settings.
HEAD = ("input", "dataset", "input_root", "schema_version")
FLOW = "flow"

_ABOUT = """\
# What made this folder, and with which settings; a later command on it goes on with them.
# If the input moved, say here where it is now. A run that changes a setting writes this file anew.
"""
_ABOUT_FLOW = "# Which stage reads and writes what; normpipe keeps this."


# ---------------------------------------------------------------- reading


def read_job(root: Path) -> Values:
    """Return a folder's saved job: ``HEAD``, ``flow`` and the tables of settings, unchecked.

    Raises InputError where it is no job's folder, or the file is broken.
    """
    path = root / JOB_FILE
    if is_saved_job(path):
        try:
            return _with_flow(tomllib.loads(path.read_bytes().decode()))
        except ValueError as error:
            raise InputError(f"{path} cannot be read ({error}): mend that line") from None
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
    return job


def saved_settings(root: Path, known: Models) -> dict[str, Values] | None:
    """Return the settings that a folder's job saved, complete, of the tables in ``known``.

    None where it saved none: no job's folder, or one of release 0.1.0. Raises InputError where a
    setting is none, or cannot be.
    """
    path = root / JOB_FILE
    if not is_saved_job(path):
        return None
    job = read_job(root)
    with _naming(path):
        return {
            name: saved_values(check(model, job[name], name))
            for name, model in known.items()
            if name in job
        }


@contextmanager
def _naming(path: Path) -> Generator[None, None, None]:
    """Put the file's name before what is wrong in it."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def has_begun(root: Path) -> bool:
    """Say whether a job's folder holds anything that its settings made."""
    if not holds_job(root):
        return False
    # Where they are expected first: in a store, to look everywhere is to list everything.
    flow = read_job(root).get(FLOW, [])
    return (
        any(ShardFolder(root / entry["writes"]).recorded() for entry in flow)
        or next(root.rglob("records/*.json"), None) is not None
    )


# ---------------------------------------------------------------- writing


def saved_values(config: BaseModel) -> Values:
    """Return what is saved of settings: paths absolute, nothing of a single run, no credentials."""
    fields = type(config).model_fields
    return {
        name: _clean(value)
        for name, value in portable(config).items()
        if not marked(fields[name], "of_one_run")
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
    """Return ``job.toml``: the settings in ``tables``, commented where their model is known."""
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
    """A folder that a run holds, and what its job is to say once nothing refuses the run."""

    root: Path
    text: str

    def accept(self) -> None:
        """Save the settings of the stages that run; a second call does nothing."""
        _write(self.root, self.text)


def refuse_foreign(root: Path) -> None:
    """Raise where the output folder holds something that is no job of ours."""
    if not root.exists():
        return
    if not root.is_dir():
        raise OutputError(f"{root} is a file: choose a folder for --output")
    # What a run leaves that was killed before it had claimed the folder.
    begun = {LOCK_FILE, STORE_LOCK, temporary(root / JOB_FILE).name}
    begun.add(temporary(root / OLD_JOB_FILE).name)
    if not holds_job(root) and any(path.name not in begun for path in root.iterdir()):
        raise OutputError(f"{root} is not empty and holds no normpipe job: choose another --output")


def claim(
    root: Path,
    identity: Mapping[str, str],
    flow: Sequence[Stage],
    settings: Mapping[str, BaseModel],
    selected: Sequence[Stage],
) -> Claim:
    """Save the job of a fresh folder; of another, say what is to be saved when it is accepted.

    Args:
        identity: what makes the folder this job's: input, dataset, input_root.
        flow: all stages of the job.
        settings: by table; none: those of the flow.
        selected: the stages that run. The settings of others stay as they were saved.

    Raises:
        OutputError: the folder is another job's.
        InputError: its saved job is broken.
    """
    head: Values = {name: readable(without_credentials(text)) for name, text in identity.items()}
    configs = dict(settings) or {stage.table: stage.config for stage in flow}
    tables = {name: saved_values(config) for name, config in configs.items()}
    models = {name: type(config) for name, config in configs.items()}
    entries = [_entry(stage) for stage in flow]
    # A first attempt that failed before any work (a mistyped input) does not claim the folder.
    begun = has_begun(root)
    if begun:
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
    if not begun:
        made.accept()
    return made


def _entry(stage: Stage) -> Values:
    return {"stage": stage.name, "reads": list(stage.reads), "writes": stage.writes}


def _is_beside(stage: Stage, selected: Sequence[Stage], old: Values) -> bool:
    """Say whether a stage is run for another dataset than the job's own, which nothing reads now.

    Another normalized variant, say. It changes nothing of the job, which goes on with its own.
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
    """Say whether two texts are equal, or the same place under two names."""
    if old == new or not isinstance(old, str):
        return old == new
    places = Path(old), Path(new)
    if is_address(old) or is_address(new) or not all(place.is_absolute() for place in places):
        return without_credentials(old) == new
    return places[0].resolve() == places[1].resolve()


def keep(root: Path, settings: Mapping[str, BaseModel], known: Models) -> None:
    """Save settings in a folder's job, others staying as they are; ``known`` comments them."""
    job = read_job(root)
    kept = saved_settings(root, known)
    if kept is None:  # of release 0.1.0: the next run writes it
        return
    tables: dict[str, Values] = {n: v for n, v in job.items() if n not in (*HEAD, FLOW)}
    tables |= kept
    tables |= {name: saved_values(config) for name, config in settings.items()}
    head = {name: job[name] for name in HEAD if name in job}
    _write(root, job_text(head, tables, known, job[FLOW]))


def changes(root: Path, settings: Mapping[str, BaseModel]) -> list[str]:
    """Return ``align.size_px: 224 → 160`` for what differs from the saved job, if there is one."""
    saved = saved_settings(root, {name: type(config) for name, config in settings.items()}) or {}
    return [
        line
        for name, values in saved.items()
        for line in differences(values, saved_values(settings[name]), f"{name}.")
    ]
