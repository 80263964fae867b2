"""Commands that hand results to others: export, push. Part of the command line."""

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

from ..errors import InputError, nearest, printable
from ..store.job_file import read_job
from ..store.labels import holds_job
from ..store.shards import ShardFolder
from ..store.storage import is_within, location
from .handling import handled, start_logging
from .options import (
    READ_FOLDER,
    WRITTEN_FILE,
    WRITTEN_FOLDER,
    OutputArgument,
    grouped,
)
from .running.execute import opened

Yes = Annotated[bool, typer.Option("--yes", help="do it without asking")]


@dataclass(frozen=True)
class ContentOptions:
    """What an export has."""

    panel: ClassVar[str] = "What is exported"

    variant: Annotated[str | None, typer.Option(metavar="NAME", help="which normalized faces")] = (
        None
    )
    columns: Annotated[
        str | None,
        typer.Option(
            metavar="A,B", help="columns besides key; default: split, emotions, action units"
        ),
    ] = None
    with_originals: Annotated[
        bool, typer.Option("--with-originals", help="also the aligned faces, as 'original'")
    ] = False
    hash_keys: Annotated[
        bool, typer.Option("--hash-keys", help="keys and names of people as salted hashes")
    ] = False
    salt: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="their salt; default: export-salt.txt in OUT"),
        WRITTEN_FILE,
    ] = None
    key_map: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="write which hash is whose, a .csv for yourself"),
        WRITTEN_FILE,
    ] = None
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="of the export; default: that of its folder")
    ] = None
    file_rows: Annotated[int, typer.Option(min=1, metavar="N", help="rows of a file")] = 10_000


@dataclass(frozen=True)
class LicenceOptions:
    """By which right it is exported."""

    panel: ClassVar[str] = "Licence"

    licence: Annotated[
        str,
        typer.Option(metavar="TEXT", help="of the pictures, such as CC-BY-4.0", show_default=False),
    ] = ""
    permission: Annotated[
        str,
        typer.Option(
            "--i-have-permission",
            metavar="TEXT",
            help="whose, and when: for what an agreement does not allow",
            show_default=False,
        ),
    ] = ""
    weights_licence: Annotated[
        str,
        typer.Option(
            metavar="TEXT", help="of your own weights or imported faces", show_default=False
        ),
    ] = ""


@handled
@grouped
def export(
    output: OutputArgument,
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="where to"), WRITTEN_FOLDER],
    content: ContentOptions,
    terms: LicenceOptions,
    format: Annotated[
        str, typer.Option(metavar="FORMAT", help="hub, webdataset, folder or parquet")
    ] = "hub",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace another export in DIR")
    ] = False,
    yes: Yes = False,
) -> None:
    """Write the normalized faces for others to use.

    With labels, splits, a card and checksums; without the originals. If it is
    stopped or killed, the same command continues it.
    """
    from ...stages.publishing.dataset_card import CardFacts
    from ...stages.publishing.export_dataset import export_dataset, is_begun
    from ...stages.publishing.export_files import FORMATS
    from ...stages.publishing.export_plan import (
        ExportRequest,
        choose_variant,
        plan_export,
        source_digests,
    )
    from ...stages.publishing.hashed_keys import SALT_FILE, read_salt, write_key_map
    from ...stages.publishing.licence_gate import find_origin, require_grant
    from ...stages.publishing.made_by import code_version, find_makers

    start_logging()
    if format not in FORMATS:
        raise InputError(f"unknown format '{format}'{nearest(format, [*FORMATS])}")
    root = _job_of(location(output))
    job = read_job(root)
    _check_places(root, to, content, job)
    salt = read_salt(content.salt or root / SALT_FILE) if content.hash_keys else None
    request = ExportRequest(
        root=root,
        variant=choose_variant(root, content.variant or ""),
        name=re.sub(r"[^\w-]+", "_", content.name or to.resolve().name) or "export",
        columns=None if content.columns is None else _listed(content.columns),
        with_originals=content.with_originals,
        salt=salt,
        file_rows=content.file_rows,
    )
    normalized, aligned = root / "normalized" / request.variant, ShardFolder(root / "aligned")
    originals = None
    if content.with_originals or aligned.shard_sizes():  # they may have been cleaned
        originals = opened(aligned.path)
    origin = find_origin(job, source_digests(originals) if originals is not None else [])
    plan = plan_export(
        request,
        opened(normalized),
        originals if content.with_originals else None,
        origin.description,
    )
    parts = ["derived_pictures"]
    parts += ["originals"] * content.with_originals + ["labels"] * plan.labelled
    grant = require_grant(origin, parts, terms.licence, terms.permission)
    makers = find_makers(job, ShardFolder(normalized), aligned, terms.weights_licence)
    facts = CardFacts(grant, makers, code_version())
    if content.with_originals and not is_begun(plan, facts, format, to):
        _ask(
            f"{plan.exported} real faces of {origin.title or 'people'} will be in {to}, as they "
            "are in 'aligned'. Export them?",
            yes,
        )
    if content.key_map is not None and salt is not None:
        write_key_map(content.key_map, salt, plan.keys)
    done = export_dataset(plan, facts, format, to, overwrite)
    for line in done.lines():
        typer.echo(printable(line))
    if content.key_map is not None:
        typer.echo(f"which hash is whose: {content.key_map} (keep it to yourself)")


@handled
def push(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="an export that is complete"), READ_FOLDER
    ],
    repo: Annotated[str, typer.Option("--repo", metavar="USER/NAME", help="where to")],
    public: Annotated[bool, typer.Option("--public", help="let everybody see it")] = False,
    revision: Annotated[
        str | None, typer.Option(metavar="BRANCH", help="another branch than main")
    ] = None,
    yes: Yes = False,
) -> None:
    """Upload an export to the Hugging Face Hub.

    It is private unless --public is given, and nothing is sent without being
    asked. If it is stopped, the same command continues it.
    """
    from ...stages.publishing.push_dataset import open_hub, plan_push, send

    start_logging()
    plan = plan_push(folder, repo, public, revision or "main")
    hub = open_hub(plan)
    for line in plan.lines():
        typer.echo(printable(line))
    _ask("Upload it?", yes)
    typer.echo(send(hub, plan))


def _job_of(root: Path) -> Path:
    """Return the job's folder: the given one, or ``job`` in it, where the demo has it."""
    inner = root / "job"
    return inner if not holds_job(root) and holds_job(inner) else root


def _listed(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _check_places(root: Path, to: Path, content: ContentOptions, job: dict[str, Any]) -> None:
    """Raise InputError for files and folders that must not lie within one another."""
    inputs = job.get("input_root")
    for folder in [root, *([location(inputs)] if inputs else [])]:
        if is_within(to, folder) or is_within(folder, to):
            raise InputError(
                f"{to} and {folder} must not lie within one another: choose another --to"
            )
    for option, file in (("--salt", content.salt), ("--key-map", content.key_map)):
        if file is None:
            continue
        if not content.hash_keys:
            raise InputError(f"{option} is for --hash-keys: add it")
        if is_within(file, to):
            raise InputError(f"{file} must stay at home, not in {to}: choose another {option}")


def _ask(question: str, yes: bool) -> None:
    """Return if the user agrees. Raises InputError if not, or if nobody can be asked."""
    if yes:
        return
    if not _has_terminal():
        raise InputError(f"{question} Add --yes: there is no terminal to ask")
    if not typer.confirm(question, err=True):
        raise InputError("nothing was done")


def _has_terminal() -> bool:
    return sys.stdin.isatty()
