"""Commands about the machine that jobs run on. Part of the command line."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from ...stages.faces.packs import PACKS, ROOT, pack_files, packs_folder
from ..errors import InputError
from ..store.storage import location
from .app import USER, app, handled


@handled
def doctor(
    output: Annotated[
        str, typer.Option(help="where the job is to write: a folder, or an address")
    ] = ".",
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Say what a job needs and whether it is here; exit 2 where something is to be mended."""
    from ...stages.checks.doctor import examine, summary

    findings = examine(location(output))
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in findings], indent=2))
    else:
        for one in findings:
            typer.echo(one.line())
        typer.echo(summary(findings))
    if any(one.verdict == "no" for one in findings):
        raise typer.Exit(USER)


@handled
def models(
    action: Annotated[str | None, typer.Argument(help="get: download a pack")] = None,
    name: Annotated[str | None, typer.Argument(help="the pack, such as buffalo_l")] = None,
    model_root: Annotated[str, typer.Option(help="folder that holds models/<pack>")] = ROOT,
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="accept the pack's terms; asked once")
    ] = False,
    url: Annotated[str, typer.Option(help="another address of the pack's .zip")] = "",
    sha256: Annotated[str, typer.Option(help="what the .zip must be")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """List weights and packs with their digests and licences; with get NAME, download a pack."""
    from ...stages.checks.models import get_pack, known_models

    folder = packs_folder(model_root)
    if action not in (None, "get") or (action == "get") != (name is not None):
        raise InputError("say 'normpipe models' for the list, or 'normpipe models get NAME'")
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


def register() -> None:
    """Add these commands to the command line."""
    app.command("doctor")(doctor)
    app.command("models")(models)
