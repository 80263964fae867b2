"""Commands that look at a job, at the machine and at models. Part of the command line."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ...stages.faces.packs import PACKS, ROOT, pack_files, packs_folder
from ..care import status as status_module
from ..care.withdraw import described_datasets
from ..care.withdrawal import REPORT_FOLDER
from ..errors import InputError
from ..store.storage import is_store, location
from .handling import USER, complain, handled, start_logging
from .options import READ_FOLDER, WRITTEN_FOLDER, AsJson, OutputArgument


@handled
def status(output: OutputArgument, as_json: AsJson = False) -> None:
    """Show what is done, left, rejected and failed.

    The table lists them by stage, with the reasons.
    """
    state = status_module.status(location(output))
    typer.echo(json.dumps(state, indent=2) if as_json else status_module.status_table(state))


@handled
def sheet(
    output: OutputArgument,
    rows: Annotated[int, typer.Option(min=1, metavar="N", help="faces on the sheet")] = 16,
    variant: Annotated[
        str | None, typer.Option(metavar="NAME", help="which normalized faces")
    ] = None,
    status: Annotated[
        str, typer.Option(metavar="STATUS", help="ok, rejected, failed, excluded or all")
    ] = "ok",
    label: Annotated[
        str,
        typer.Option(
            metavar="VALUE", help="only with this label: anger, or split=test", show_default=False
        ),
    ] = "",
    sort: Annotated[
        str,
        typer.Option(
            metavar="COLUMN", help="the first by this column; -COLUMN: the last", show_default=False
        ),
    ] = "",
) -> None:
    """Draw a contact sheet: original, aligned, normalized."""
    from ...stages.review.sheet import draw_sheet

    path = draw_sheet(location(output), rows, variant, status, label, sort)
    typer.echo(f"contact sheet: {path}")


@handled
def report(
    output: OutputArgument,
    to: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="folder for the pages; default: OUTPUT/report"),
        WRITTEN_FOLDER,
    ] = None,
    no_originals: Annotated[
        bool, typer.Option("--no-originals", help="leave the photographs out: faster")
    ] = False,
    coefficients: Annotated[
        bool,
        typer.Option("--coefficients", help="read expressions off each face, with a network"),
    ] = False,
    device: Annotated[
        str, typer.Option(metavar="DEVICE", help="of that network: auto, cpu or cuda")
    ] = "auto",
) -> None:
    """Write pages to look through the faces of a job.

    They open from disk, without a network: counts and reasons, distributions,
    each face with its original and its normalized pictures. Faces are marked
    there, to exclude them.
    """
    from ...stages.review.faces_of_job import faces_of_job
    from ...stages.review.job_report import write_job_report

    start_logging()
    root = location(output)
    if to is None and is_store(root):
        raise InputError(f"{root} is an address, and pages need a folder: give --to DIR")
    state, made = status_module.status(root), described_datasets(root)
    job = faces_of_job(root, state, made, not no_originals, device if coefficients else "")
    written = write_job_report(job, to or root / REPORT_FOLDER)
    for line in written.lines:
        complain(line)
    typer.echo(f"report: {written.page} ({written.rows} rows, {written.bytes / 1e6:.1f} MB)")


@handled
def releases(
    name: Annotated[
        str | None, typer.Argument(help="one of them, or a description of your own (.toml)")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the releases that can be read as they are.

    With a name: what its folder must contain, what its numbers mean, and
    where that is known from.
    """
    from ...stages.sources.releases.release_text import release_lines, release_table

    if name is None:
        if as_json:
            raise InputError("--json shows one release: name it")
        lines = release_table()
    else:
        lines = release_lines(name, as_json)
    for line in lines:
        typer.echo(line)


@handled
def doctor(
    output: Annotated[
        str,
        typer.Option(metavar="PATH", help="where a job is to write: a folder or an address"),
        WRITTEN_FOLDER,
    ] = ".",
    as_json: AsJson = False,
) -> None:
    """Check that everything a job needs is installed.

    The machine and the output folder are checked, too. Exits with 2 where
    something is missing.
    """
    from ...stages.checks.doctor import run_checks, summarize_findings

    findings = run_checks(location(output))
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in findings], indent=2))
    else:
        for one in findings:
            typer.echo(one.line())
        typer.echo(summarize_findings(findings))
    if any(one.verdict == "no" for one in findings):
        raise typer.Exit(USER)


@handled
def models(
    action: Annotated[str | None, typer.Argument(help="get: download a pack")] = None,
    name: Annotated[str | None, typer.Argument(help="the pack, such as buffalo_l")] = None,
    model_root: Annotated[
        str, typer.Option(metavar="DIR", help="folder that holds models/<pack>"), READ_FOLDER
    ] = ROOT,
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="accept the pack's terms; asked once")
    ] = False,
    url: Annotated[
        str, typer.Option(metavar="URL", help="another address of the .zip", show_default=False)
    ] = "",
    sha256: Annotated[
        str, typer.Option(metavar="HEX", help="expected digest of the .zip", show_default=False)
    ] = "",
    as_json: AsJson = False,
) -> None:
    """List weights and model packs; download a pack.

    The list has their digests and licences; 'normpipe models get NAME'
    downloads a pack.
    """
    from ...stages.checks.models import get_pack, known_models

    folder = packs_folder(model_root)
    if action not in (None, "get") or (action == "get") != (name is not None):
        raise InputError("use 'normpipe models' for the list, or 'normpipe models get NAME'")
    if name is not None:
        target = get_pack(name, folder, accept_licence, url, sha256.lower())
        typer.echo(f"{target} ({PACKS[name].licence})")
        for file in pack_files(folder):
            if file.pack == name:
                typer.echo(f"{file.name}: {file.state}, sha256 {file.sha256}")
        return
    found = known_models(folder)
    lines = "\n".join(one.line() for one in found)
    typer.echo(json.dumps([asdict(one) for one in found], indent=2) if as_json else lines)
