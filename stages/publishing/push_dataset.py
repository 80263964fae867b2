"""push: hands a finished export to ``huggingface_hub``, which alone speaks to the Hub."""

from __future__ import annotations

import os
import re
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...pipeline.errors import InputError, NormpipeError, first_few, one_line
from ...pipeline.store.lock import LOCK_FILE
from .export_sums import SUMS_FILE, changed_files, read_about, read_sums

_REPO = re.compile(r"[\w.-]+/[\w.-]+")
_MAIN = "main"
#: Packages whose errors come from the Hub's client.
_CLIENTS = frozenset({"huggingface_hub", "httpx", "httpx2", "httpcore", "requests", "hf_xet"})


@dataclass(frozen=True)
class Push:
    """What goes where.

    Attributes:
        folder: the export.
        repo: ``USER/NAME``.
        public: whether everybody may see it.
        revision: branch.
        files: how many.
        bytes: of all of them.
        about: the content of ``export.json``.
    """

    folder: Path
    repo: str
    public: bool
    revision: str
    files: int
    bytes: int
    about: dict[str, Any]

    def lines(self) -> list[str]:
        """Return lines that say what goes where, and by which right."""
        about = self.about
        seen = "PUBLIC: everybody can download it" if self.public else "private"
        pictures = "normalized and original faces" if about["originals"] else "normalized faces"
        keys = "hashed" if about["hashed_keys"] else "as they are (they may name people)"
        lines = [
            f"{self.folder}: {self.files} files, {self.bytes:,} bytes, {about['exported']} "
            f"{pictures}, keys {keys}",
            f"to {_endpoint()}/datasets/{self.repo}, branch {self.revision}, {seen}",
            f"licence: {about['licence'] or 'none was stated'}",
        ]
        return lines + [f"permission: {about['permission']}"] * bool(about["permission"])


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"


def plan_push(folder: Path, repo: str, public: bool, revision: str) -> Push:
    """Check an export, and return what is to be uploaded.

    Raises InputError if the folder is no finished export or differs from its checksums, or if the
    name of the repository is none.
    """
    if not _REPO.fullmatch(repo):
        raise InputError(f"'{repo}' names no repository: give --repo USER/NAME")
    sums = read_sums(folder)
    changed = changed_files(folder)
    if changed:
        raise InputError(
            f"{folder} is not as it was exported ({first_few(changed, 3)}): export it again"
        )
    names = [*sums, SUMS_FILE]
    size = sum((folder / name).stat().st_size for name in names)
    return Push(folder, repo, public, revision, len(names), size, read_about(folder))


def open_hub(plan: Push) -> Any:
    """Return a client of the Hub that is logged in, after looking whether the repository fits.

    Raises InputError if ``huggingface_hub`` or a token is missing, or if the repository is there
    and is seen by others than was asked for.
    """
    try:
        import huggingface_hub
        from huggingface_hub.errors import RepositoryNotFoundError
    except ImportError:
        raise InputError("push needs huggingface_hub: pip install 'normpipe[hub]'") from None
    token = huggingface_hub.get_token()
    if not token:
        raise InputError(
            "the Hub needs a token that may write: run 'hf auth login', or set HF_TOKEN"
        )
    hub: Any = huggingface_hub.HfApi(endpoint=_endpoint(), token=token)
    with _hub_errors(plan):
        try:
            private = hub.repo_info(plan.repo, repo_type="dataset").private
        except RepositoryNotFoundError:
            return hub
    if not private and not plan.public:
        raise InputError(
            f"{plan.repo} is there already, and public: add --public, or choose another --repo"
        )
    if private and plan.public:
        raise InputError(
            f"{plan.repo} is there already, and private: leave --public out, and make it public in "
            "its settings on the Hub"
        )
    return hub


def send(hub: Any, plan: Push) -> str:
    """Upload an export; return its address.

    Raises NormpipeError if the Hub does not take it.
    """
    with _hub_errors(plan):
        hub.create_repo(plan.repo, repo_type="dataset", private=not plan.public, exist_ok=True)
        if plan.revision != _MAIN:
            hub.create_branch(plan.repo, branch=plan.revision, repo_type="dataset", exist_ok=True)
        hub.upload_folder(
            repo_id=plan.repo,
            repo_type="dataset",
            folder_path=str(plan.folder),
            revision=plan.revision,
            commit_message=f"normpipe {plan.about['normpipe']}: {plan.about['name']}",
            ignore_patterns=[LOCK_FILE],
        )
    return f"{_endpoint()}/datasets/{plan.repo}"


@contextmanager
def _hub_errors(plan: Push) -> Generator[None, None, None]:
    """Turn an error of the Hub's client into one line."""
    try:
        yield
    except NormpipeError:
        raise
    except Exception as error:  # its HTTP client and its storage have errors of their own
        theirs = {kind.__module__.partition(".")[0] for kind in type(error).__mro__} & _CLIENTS
        if not theirs and not isinstance(error, OSError | ValueError | RuntimeError):
            raise
        raise NormpipeError(
            f"the Hub did not take {plan.repo}: {one_line(error)}; what is uploaded is kept: run "
            "the same command again"
        ) from error
