"""Folders as release 0.1.0 laid them, and what lies in a folder of either layout."""

import hashlib
import json
import tomllib
from pathlib import Path
from typing import Any

from normpipe.pipeline.store.job_file import HEAD, read_job
from normpipe.pipeline.store.lock import STORE_LOCK
from normpipe.pipeline.store.shards import ShardFolder, datasets_in


def as_of_old(root: Path) -> Path:
    """Move what is said of each dataset into its own folder, where 0.1.0 wrote it; return root."""
    for folder in datasets_in(root).values():
        about = folder.metadata_folder
        assert about != folder.path
        folder.path.mkdir(exist_ok=True)
        for path in list(about.iterdir()):
            path.rename(folder.path / path.name)
        about.rmdir()
        assert ShardFolder(folder.path).metadata_folder == folder.path
    return root


def files(root: Path) -> dict[str, str]:
    """Return what file it is → sha256: the same name in both layouts, without the lock."""
    found: dict[str, str] = {}
    for path in sorted(root.rglob("*")):
        if path.is_file() and path.name != ".normpipe.lock" and path.parent.name != STORE_LOCK:
            parts = path.relative_to(root).as_posix().split("/")
            name = "/".join(part.removeprefix("_") for part in parts)
            assert name not in found, f"{name} is there twice"
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def beside(root: Path) -> list[str]:
    """Return the folders that only the new layout has."""
    return sorted(p.name for p in root.rglob("_*") if p.is_dir())


def saved(root: Path) -> dict[str, Any]:
    return tomllib.loads((root / "job.toml").read_text(encoding="utf-8"))


def make_old(root: Path) -> None:
    """Leave the folder as release 0.1.0 made it."""
    job = {name: value for name, value in read_job(root).items() if name in (*HEAD, "flow")}
    (root / "job.json").write_text(json.dumps(job))
    (root / "job.toml").unlink()
