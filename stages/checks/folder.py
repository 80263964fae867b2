"""Checks the output, a folder or in a store: free space, durable writes, and working locks."""

import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

from ...pipeline.errors import NormpipeError
from ...pipeline.store.commit import remove_file, write_bytes
from ...pipeline.store.storage import create, is_store
from .finding import Finding, no, warn, yes

_GB = 10**9
LOW_SPACE, NO_SPACE = 10 * _GB, _GB
#: Run by another process: exits with 0 if our lock keeps it out, else with 1.
_TRY_LOCK = """
import sys
from filelock import FileLock, Timeout
try:
    FileLock(sys.argv[1]).acquire(timeout=0)
except Timeout:
    sys.exit(0)
sys.exit(1)
"""


def nearest_folder(path: Path) -> Path:
    """Return the folder itself, or the nearest one above it that exists."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def check_free_space(free: int) -> Finding:
    """Check the number of free bytes."""
    found = f"{free / _GB:.1f} GB free"
    remedy = "free some space; `normpipe run … --dry-run` estimates what a job takes"
    if free < NO_SPACE:
        return no("disk", found, remedy)
    return warn("disk", found, remedy) if free < LOW_SPACE else yes("disk", found)


def check_writing(folder: Path) -> Finding:
    """Write, fsync, rename and fsync the folder, as every commit does; read it back."""
    data = os.urandom(4096)
    try:
        write_bytes(folder / "file", data)
        if (folder / "file").read_bytes() != data:
            remedy = "do not trust this disk: choose another --output"
            return no("writing", "data read back differs from what was written", remedy)
    except (OSError, NormpipeError) as error:
        remedy = "fix it, or choose another --output"
        return no("writing", f"fails ({error.__cause__ or error})", remedy)
    return yes("writing", "write, fsync and rename work")


def check_locks(folder: Path) -> Finding:
    """Check that a lock keeps another process out; some network file systems only pretend to."""
    from filelock import FileLock

    remedy = "mount it with locks, choose another --output, or run only one job at a time in it"
    path = folder / "lock"
    try:
        with FileLock(path).acquire(timeout=0):
            command = [sys.executable, "-c", _TRY_LOCK, str(path)]
            other = subprocess.run(command, capture_output=True, text=True, check=False)
    except (OSError, NotImplementedError) as error:
        return no("locks", f"the file system has no locks ({error})", remedy)
    if other.returncode == 0:
        return yes("locks", "keep a second process out")
    return no("locks", "do not keep a second process out", remedy)


def check_store(output: Path) -> list[Finding]:
    """Return the findings on an address where the job will write; nothing is left there."""
    probe, data = output / f".normpipe-doctor-{uuid.uuid4().hex}", os.urandom(4096)
    findings = [yes("output", str(output))]
    remedy = "fix it, or choose another --output"
    try:
        write_bytes(probe, data)
        if probe.read_bytes() != data:
            found = "data read back differs from what was written"
            return [*findings, no("writing", found, remedy)]
        findings.append(yes("writing", "write and read work"))
        overwritten = create(probe, data)
        remove_file(probe)
    except NormpipeError as error:
        return [*findings, no("writing", f"fails ({error})", remedy)]
    if overwritten:
        remedy = "a job would refuse this store: use another store, or a folder"
        return [*findings, no("locks", "the store has no conditional writes", remedy)]
    findings.append(yes("locks", "conditional writes keep a second job out"))
    free = shutil.disk_usage(tempfile.gettempdir()).free  # shards wait there for their upload
    return [*findings, check_free_space(free)]


def check_folder(output: Path) -> list[Finding]:
    """Return the findings on the folder where the job will write; nothing is left in it."""
    if is_store(output):
        return check_store(output)
    if output.exists() and not output.is_dir():
        return [no("output", f"{output} is a file", "choose a folder for --output")]
    folder = nearest_folder(output)
    where = str(folder) if folder == output.absolute() else f"{folder} ({output} is not there yet)"
    findings = [yes("output", where), check_free_space(shutil.disk_usage(folder).free)]
    try:
        with tempfile.TemporaryDirectory(prefix=".normpipe-doctor-", dir=folder) as place:
            return [*findings, check_writing(Path(place)), check_locks(Path(place))]
    except OSError as error:
        remedy = "fix the permissions, or choose another --output"
        return [*findings, no("writing", f"fails ({error.strerror})", remedy)]
