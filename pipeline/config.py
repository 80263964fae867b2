"""The job file: TOML validated by pydantic, ``--set`` overrides, one-line errors."""

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from datetime import date
from datetime import time as clock
from pathlib import Path, PurePath
from typing import Any, Self, TypeVar, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, SkipValidation, ValidationError, model_validator
from pydantic.fields import FieldInfo

from .errors import InputError, nearest
from .stage import StageConfig
from .store.storage import is_address, location
from .store.toml_text import table_lines, value_text

_DIGEST = re.compile(r"[0-9a-f]{64}")
#: Differences that a message lists; the others are counted.
_NAMED = 8
#: Characters of a value that a message shows.
_SHOWN = 60


def usable_cpus() -> int:
    """Return how many CPUs this process may use: a batch system often allows only some of them."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class RunConfig(BaseModel):
    """How the job runs; nothing here changes a byte of what it writes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    threads: int = Field(
        default_factory=usable_cpus,
        ge=1,
        description="threads that read, decode, encode and, on a CPU, compute; default: the CPUs "
        "that this process may use. Local workers share them",
    )
    workers: int = Field(
        0, ge=0, description="processes on this machine that share the work; 0: only this one"
    )
    gpus: tuple[int | str, ...] = Field(
        (), description="GPUs of this machine, such as [0, 1]: one worker for each"
    )
    scheduler: str = Field(
        "", description="address of a running Dask scheduler: tcp://host:8786 or tls://…"
    )
    lease_seconds: float = Field(
        30.0, ge=1, description="when a worker is silent for this long, others take over its shards"
    )
    prefetch: int = Field(
        2,
        ge=1,
        description="batches in flight, besides the one in the network and the one being written: "
        "limits the memory",
    )
    retries: int = Field(2, ge=0, description="retries of a failed shard before it is quarantined")
    max_rejected: float = Field(
        1.0,
        ge=0,
        le=1,
        description="stop when this share of a stage's inputs is rejected or failed",
    )
    log_seconds: float = Field(
        10.0, gt=0, description="seconds between log lines when there is no terminal"
    )
    grace_seconds: float = Field(
        60.0,
        ge=0,
        description="seconds until the run ends after the first Ctrl-C or SIGTERM: shards in "
        "progress that can be done by then are finished, the others dropped; 0 drops all",
    )

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.scheduler and (self.workers or self.gpus):
            raise ValueError("a cluster has its own workers: leave out --workers and --gpus")
        if self.gpus and self.workers not in (0, len(self.gpus)):
            raise ValueError("each GPU has one worker: leave out --workers")
        if len({str(gpu) for gpu in self.gpus}) < len(self.gpus):
            raise ValueError("a GPU is named twice")
        if self.scheduler and "://" not in self.scheduler:
            raise ValueError("a scheduler's address is such as tcp://host:8786")
        return self

    @property
    def distributed(self) -> bool:
        """Return whether worker processes do the work."""
        return bool(self.workers or self.gpus or self.scheduler)


class Job(BaseModel):
    """A validated job: its input, its output, and the settings of every stage."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    #: A folder, a list or an archive; as ``output``, possibly in a store.
    input: SkipValidation[Path | None] = None
    #: A folder, or its address in a store (``storage.location``).
    output: SkipValidation[Path]
    dataset: str
    run: RunConfig
    stages: dict[str, BaseModel]

    def stage(self, name: str) -> Any:
        """Return the settings of a stage."""
        return self.stages[name]


Model = TypeVar("Model", bound=BaseModel)

TOP_LEVEL = ("input", "output", "dataset", "run")
#: What normpipe adds to a job that it saves.
_OF_SAVED = frozenset({"input_root", "schema_version", "flow"})


def load_job(
    file: Path | None,
    given: Mapping[str, Any],
    sets: Sequence[str],
    known: Mapping[str, type[BaseModel]],
    saved: Mapping[str, Any] | None = None,
) -> Job:
    """Return the job of a file (or none), overridden by the command line.

    Args:
        file: the job file. Relative paths in it are relative to its folder.
        given: typed values of options, by key and by table: ``{"output": out, "ingest": {"limit":
            5}}``. They override everything else; None stands for an option that was not given.
        sets: texts of ``--set``: ``stage.key=value``.
        known: the settings class of every table.
        saved: the settings that the output folder's job saved; used if there is no file.

    Raises:
        InputError: the job is not valid; a one-line message.
    """
    values = _read(file, known) if file else deepcopy(dict(saved or {}))
    for text in sets:
        _set(values, text, known)
    _put(values, given)
    for key in values:
        if key not in (*TOP_LEVEL, *known):
            raise InputError(f"unknown key '{key}' in the job{nearest(key, [*TOP_LEVEL, *known])}")
    for key in ("input", "output", "dataset"):
        # All other types of TOML; a location in a store has a type of its own.
        if isinstance(values.get(key), bool | int | float | list | dict | date | clock):
            raise InputError(f"{key} = {values[key]!r} in the job is not text: put it in quotes")
    if not values.get("output"):
        raise InputError("no output folder: give --output OUT, or output = '…' in the job file")
    source = location(values["input"]) if values.get("input") else None
    stages = {
        name: validate_settings(model, values.get(name, {}), name) for name, model in known.items()
    }
    dataset = str(values.get("dataset") or _dataset_name(stages, source))
    if "/" in dataset or "#" in dataset:
        raise InputError(f"dataset = '{dataset}' may not contain '/' or '#': choose a plain name")
    return Job(
        input=source,
        output=location(values["output"]),
        dataset=dataset,
        run=validate_settings(RunConfig, values.get("run", {}), "run"),
        stages=stages,
    )


def _dataset_name(stages: Mapping[str, BaseModel], source: Path | None) -> str:
    """Return the name that settings give the dataset, else that of the input."""
    settings = [one for one in stages.values() if isinstance(one, StageConfig)]
    named = next((name for one in settings if (name := one.dataset_name())), "")
    return named or (source.resolve().stem if source else "dataset")


def _read(file: Path, known: Mapping[str, type[BaseModel]]) -> dict[str, Any]:
    """Read a job file; its relative ``input`` and ``output`` are relative to its folder."""
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"no job file {file}: write one with 'normpipe init', or give --input and --output"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is not valid TOML: {error}") from None
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from None
    if isinstance(values.get("flow"), list):  # a copy of a saved job
        values = {key: value for key, value in values.items() if key not in _OF_SAVED}
    for key in ("input", "output"):
        if isinstance(values.get(key), str) and not is_address(values[key]):
            values[key] = file.parent / values[key]
    for name, model in known.items():
        table = values.get(name)
        if not isinstance(table, dict):
            continue
        for key, info in model.model_fields.items():
            if has_mark(info, "relative_to_job_file") and table.get(key):
                table[key] = file.parent / str(table[key])
    return values


def _put(values: dict[str, Any], given: Mapping[str, Any]) -> None:
    """Put the values of options into the job's values."""
    for key, value in given.items():
        if isinstance(value, Mapping):
            inner = {
                name: one for name, one in cast(Mapping[str, Any], value).items() if one is not None
            }
            if inner:
                _table(values, key, f"'{key}' in the job file").update(inner)
        elif value is not None:
            values[key] = value


def _set(values: dict[str, Any], text: str, known: Mapping[str, type[BaseModel]]) -> None:
    """Put one ``stage.key=value`` of ``--set`` into the job's values."""
    name, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"--set {text}: expected stage.key=value")
    stage, dot, key = name.strip().partition(".")
    if not dot:
        raise InputError(f"--set {text}: expected stage.key=value, such as align.size_px=224")
    if stage not in ("run", *known):
        raise InputError(f"--set {text}: unknown stage '{stage}'{nearest(stage, ['run', *known])}")
    section = _table(values, stage, f"'{stage}' in the job file")
    *inner, last = key.split(".")
    for part in inner:
        section = _table(section, part, f"--set {text}: '{part}'")
    section[last] = _typed(value)


def _typed(text: str) -> Any:
    """Return the value of a ``--set`` text, parsed as TOML; the text itself if it is not TOML."""
    try:
        found = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):  # not TOML; a number of 5,000 digits; a thousand brackets
        return text
    return found["value"] if len(found) == 1 else text  # else its further lines would be keys


def _table(values: dict[str, Any], name: str, where: str) -> dict[str, Any]:
    """Return a table within others; create it if there is none."""
    found = values.setdefault(name, {})
    if not isinstance(found, dict):
        raise InputError(f"{where} must be a table: [{name}]")
    return cast(dict[str, Any], found)


def validate_settings(model: type[Model], values: Any, table: str) -> Model:
    """Return ``model(**values)``, or raise a one-line InputError that names the nearest key."""
    if not isinstance(values, dict):
        raise InputError(f"'{table}' in the job file must be a table: [{table}]")
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in (table, *problem["loc"]))
        if problem["type"] == "extra_forbidden":
            names = _fields(model, [str(part) for part in problem["loc"][:-1]])
            hint = nearest(str(problem["loc"][-1]), names)
            raise InputError(f"unknown key '{where}' in the job{hint}") from None
        message = problem["msg"].removeprefix("Value error, ")
        raise InputError(f"{where} = {problem['input']!r}: {message}") from None


def _fields(model: type[BaseModel], tables: list[str]) -> list[str]:
    """Return the keys of a table within a table's model."""
    inner: Any = model
    for table in tables:
        named = get_args(inner)  # for a dict of tables: the types of its keys and of its tables
        inner = named[1] if named else inner.model_fields[table].annotation
    return list(inner.model_fields)


def template(known: Mapping[str, type[BaseModel]]) -> str:
    """Return a commented job file that states every key with its default."""
    lines = [
        "# A normpipe job: normpipe run job.toml",
        "# Every key is shown with its default; uncomment what you change.",
        "",
        'input = "photos"          # a folder of images, or a .csv/.parquet list',
        'output = "out"',
        '# dataset = "photos"      # the first part of every key; default: the name of input',
    ]
    for name, model in {"run": RunConfig, **known}.items():
        lines += table_lines(name, model)
    return "\n".join(lines) + "\n"


def has_mark(info: FieldInfo, mark: str) -> bool:
    """Return whether a setting has a mark of ``stage.free``, such as ``path``."""
    extra = info.json_schema_extra
    return isinstance(extra, dict) and extra.get(mark) is True


def portable(config: BaseModel) -> dict[str, Any]:
    """Return settings ready for JSON, valid in any folder: paths that exist are made absolute."""
    values: dict[str, Any] = _plain(config.model_dump())  # JSON's mode would lose infinity
    for name, info in type(config).model_fields.items():
        value = values[name]
        if has_mark(info, "path") and value and os.path.exists(value):  # noqa: PTH110 - never raises
            values[name] = os.path.abspath(value)  # noqa: PTH100 - a link keeps its name
    return values


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in cast(Mapping[str, Any], value).items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in cast(Sequence[Any], value)]
    return str(value) if isinstance(value, PurePath) else value


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return lines ``align.size_px: 224 → 160`` for all values, ready for JSON, that differ."""
    lines: list[str] = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            lines += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            lines.append(f"{prefix}{key}: {_short(before)} → {_short(after)}")
    return lines


def bracketed(lines: Sequence[str]) -> str:
    """Return the first few differences in brackets; "" if there are none."""
    if not lines:
        return ""
    more = len(lines) - _NAMED
    return f" ({'; '.join(lines[:_NAMED])}" + (f"; and {more} more)" if more > 0 else ")")


def _short(value: Any) -> str:
    if value is None:
        return "unset"
    text = value if isinstance(value, str) and value else value_text(value)
    if _DIGEST.fullmatch(text):
        return text[:10] + "…"
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
