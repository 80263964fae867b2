"""Arguments, options and groups of options that commands share. Part of the command line.

Typer needs every option to be a parameter of its command and has no groups. Options that
belong together are the fields of a dataclass here: one parameter of the command, one panel of its
help. ``grouped`` writes them out for Typer.
"""

import functools
import inspect
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple, TypeVar, cast, get_args

import typer

Command = TypeVar("Command", bound=Callable[..., Any])


class PathRule(NamedTuple):
    """What a path must be; ``handled`` checks it before the command starts."""

    folder: bool
    file: bool
    #: Made by the command where it is missing. The command says so if what it reads is missing.
    written: bool = False


READ, READ_FOLDER, READ_FILE = PathRule(True, True), PathRule(True, False), PathRule(False, True)
WRITTEN_FOLDER, WRITTEN_FILE = PathRule(True, False, True), PathRule(False, True, True)

OutputArgument = Annotated[
    str,
    typer.Argument(help="output of a run: a folder, or an address: s3://bucket/out"),
    READ_FOLDER,
]
DataArgument = Annotated[
    Path, typer.Argument(help="output of normpipe run, with labels"), READ_FOLDER
]
JobFile = Annotated[
    Path | None, typer.Argument(help="job file (.toml) with a table for this command"), READ_FILE
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="STAGE.KEY=VALUE", help="change a setting; repeatable"),
]
TrainingFolder = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="folder for weights and scores"),
    WRITTEN_FOLDER,
]
SynthesizedOption = Annotated[
    list[Path] | None,
    typer.Option(metavar="DIR", help="output of synthesize; repeatable"),
    READ_FOLDER,
]
FacekitOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="ICT-FaceKit Light, packed (.npz)"), READ_FILE
]
WorkFolder = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="where the faces are kept; default: beside the output"),
    WRITTEN_FOLDER,
]
FacesArgument = Annotated[
    Path,
    typer.Argument(help="photograph, folder or list of them; or output of normpipe run"),
    READ,
]
Overwrite = Annotated[
    bool, typer.Option(help="redo what was made with other settings", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]


@dataclass(frozen=True)
class DataOptions:
    """Where a job reads and writes."""

    panel: ClassVar[str] = "Input and output"

    input: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="images: a folder, an archive (.zip, .tar), a list (.csv, .parquet), s3://bucket/in",
        ),
        READ,
    ] = None
    output: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="output folder, or an address: s3://bucket/out"),
        WRITTEN_FOLDER,
    ] = None
    dataset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="first part of every key; default: the name of release or input"
        ),
    ] = None
    release: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="the input is this release (normpipe releases), or as a .toml of yours describes",
        ),
    ] = None

    def release_settings(self) -> dict[str, Any]:
        """Return the release as settings of ``ingest``."""
        if self.release is None:
            return {}
        own = self.release.endswith(".toml")
        return {"release": "" if own else self.release, "release_file": self.release if own else ""}


@dataclass(frozen=True)
class StageOptions:
    """Which stages run."""

    panel: ClassVar[str] = "Stages"

    stage: Annotated[str | None, typer.Option(metavar="STAGE", help="run only this stage")] = None
    first: Annotated[str | None, typer.Option("--from", metavar="STAGE", help="first to run")] = (
        None
    )
    until: Annotated[str | None, typer.Option(metavar="STAGE", help="last to run")] = None


@dataclass(frozen=True)
class SettingOptions:
    """Settings of a job: those with their own options, and ``--set`` for all others."""

    panel: ClassVar[str] = "Settings"

    set: Settings = None
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="take the first N inputs")
    ] = None
    every: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="take every Nth frame of a video")
    ] = None
    fps: Annotated[
        float | None,
        typer.Option(metavar="F", help="take at most F frames of each second of a video"),
    ] = None
    max_rejected: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE", help="stop when this share of a stage's inputs is rejected or failed"
        ),
    ] = None
    allow_urls: Annotated[
        bool,
        typer.Option("--allow-urls", help="fetch the http(s) addresses in a list"),
    ] = False


@dataclass(frozen=True)
class PlaceOptions:
    """Where shards are made; the options exclude each other."""

    panel: ClassVar[str] = "Where the work is done"

    workers: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="processes on this machine")
    ] = None
    gpus: Annotated[
        str | None, typer.Option(metavar="0,1", help="GPUs of this machine, one worker each")
    ] = None
    scheduler: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="a running Dask scheduler: tcp://host:8786"),
    ] = None

    def settings(self) -> dict[str, Any]:
        """Return them as settings of ``run``; empty if none is given."""
        if self.workers is None and self.gpus is None and self.scheduler is None:
            return {}
        names = [name.strip() for name in (self.gpus or "").split(",") if name.strip()]
        return {
            "workers": self.workers or 0,
            "gpus": [int(name) if name.isdecimal() else name for name in names],
            "scheduler": self.scheduler or "",
        }


@dataclass(frozen=True)
class AgainOptions:
    """What to redo."""

    panel: ClassVar[str] = "Running again"

    overwrite: Overwrite = False
    retry_failed: Annotated[
        bool, typer.Option(help="try failed rows again", show_default=False)
    ] = False


@dataclass(frozen=True)
class VariantOptions:
    """What an imported set is."""

    panel: ClassVar[str] = "What the pictures are"

    variant: Annotated[
        str, typer.Option(metavar="NAME", help="name of the variant: norface-1", show_default=False)
    ] = ""
    normalizer: Annotated[
        str,
        typer.Option(
            metavar="TEXT", help="what made them; default: the variant's name", show_default=False
        ),
    ] = ""
    source: Annotated[
        str,
        typer.Option(
            metavar="TEXT", help="where they come from, and their licence", show_default=False
        ),
    ] = ""
    size: Annotated[
        int | None, typer.Option(metavar="PX", help="resize pictures of another size to this")
    ] = None


@dataclass(frozen=True)
class MatchOptions:
    """Which picture of an imported set belongs to which original."""

    panel: ClassVar[str] = "Which picture belongs to which original"

    pairs: Annotated[
        Path | None,
        typer.Option("--list", metavar="FILE", help="list: columns key or path, and normalized"),
        READ_FILE,
    ] = None
    original: Annotated[
        str | None,
        typer.Option(metavar="REGEX", help="its groups, found in an original's key, must equal"),
    ] = None
    picture: Annotated[
        str | None,
        typer.Option(metavar="REGEX", help="those of this, found in a picture's path"),
    ] = None
    suffix: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="left out at the end of names; repeatable"),
    ] = None
    shift: Annotated[
        int | None,
        typer.Option(metavar="N", help="a picture's number is its original's plus N"),
    ] = None

    def settings(self) -> dict[str, Any]:
        """Return those that are given, as settings of the import."""
        return {
            "pairs": str(self.pairs.absolute()) if self.pairs else None,
            "original": self.original,
            "picture": self.picture,
            "suffixes": tuple(self.suffix) if self.suffix else None,
            "shift": self.shift,
        }


@dataclass(frozen=True)
class RenderOptions:
    """Settings of ``synthesize``, by their names there."""

    panel: ClassVar[str] = "What is rendered"

    pairs: Annotated[int | None, typer.Option(min=1, metavar="N", help="pairs to render")] = None
    seed: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="other people, other pictures")
    ] = None
    crossed: Annotated[
        str | None, typer.Option(metavar="KxM", help="K people who all make the same M expressions")
    ] = None
    backgrounds: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="pictures to stand behind the heads"),
        READ_FOLDER,
    ] = None
    appearance: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="photographs that drawn people take their skin from"),
        READ_FOLDER,
    ] = None
    target: Annotated[
        str | None,
        typer.Option(metavar="FACE", help="'mean', the number of an identity, or a photograph"),
        READ,
    ] = None


TestData = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="test on another dataset: this output of normpipe run"),
    READ_FOLDER,
]
TestSplit = Annotated[str | None, typer.Option(metavar="SPLIT", help="the split to test on")]


@dataclass(frozen=True)
class ProtocolOptions:
    """What a classifier learns, and what it is tested on."""

    panel: ClassVar[str] = "What is learned and how it is tested"

    task: Annotated[
        str | None, typer.Option(metavar="TASK", help="emotion, action_units or intensity")
    ] = None
    folds: Annotated[
        str | None,
        typer.Option(metavar="FOLDS", help="cross-validate: a number, labels, bp4d or disfa"),
    ] = None
    test: TestData = None
    test_split: TestSplit = None
    drop_duplicates: Annotated[
        bool,
        typer.Option("--drop-duplicates", help="do not train on pictures that are also tested"),
    ] = False


ByLabel = Annotated[
    list[str] | None,
    typer.Option(metavar="COLUMN", help="also score each value of this label; may repeat"),
]


@dataclass(frozen=True)
class FaceOptions:
    """Which faces to classify, and how to make them from photographs."""

    panel: ClassVar[str] = "Faces of photographs"

    work: WorkFolder = None
    variant: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="which normalized faces; empty: the only ones", show_default=False
        ),
    ] = ""
    any_normalizer: Annotated[
        bool, typer.Option("--any-normalizer", help="take faces that other weights normalized")
    ] = False


@dataclass(frozen=True)
class ReadingOptions:
    """How a classifier is run."""

    panel: ClassVar[str] = "Classifying"

    threshold: Annotated[
        float, typer.Option(metavar="PROBABILITY", help="above it, an action unit occurs")
    ] = 0.5
    device: Annotated[
        str, typer.Option(metavar="DEVICE", help="for both networks: auto, cpu or cuda")
    ] = "auto"
    batch_size: Annotated[int, typer.Option(metavar="N", help="faces per batch")] = 64


def grouped(command: Command) -> Command:
    """Let a command take groups of options; Typer sees their fields as its parameters."""
    signature = inspect.signature(command, eval_str=True)
    groups: dict[str, type[Any]] = {}
    flat: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        if is_dataclass(parameter.annotation):
            groups[parameter.name] = cast(Any, parameter.annotation)
            flat += _parameters(parameter.annotation)
        else:
            flat.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(command)
    def wrapper(**values: Any) -> Any:
        for name, group in groups.items():
            values[name] = group(**{one.name: values.pop(one.name) for one in fields(group)})
        return command(**values)

    wrapper.__signature__ = signature.replace(parameters=flat)  # type: ignore[attr-defined]
    return wrapper  # type: ignore[return-value]


def _parameters(group: Any) -> list[inspect.Parameter]:
    found: list[inspect.Parameter] = []
    for one in fields(group):
        kind, option, *rules = get_args(one.type)
        option = copy(option)
        option.rich_help_panel = group.panel
        found.append(
            inspect.Parameter(
                one.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=one.default,
                annotation=Annotated[kind, option, *rules],
            )
        )
    return found
