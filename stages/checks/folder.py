"""The output, a folder or in a store: room, writing that lasts, and locks that hold."""

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
LITTLE_ROOM, NO_ROOM = 10 * _GB, _GB
#: Run by another process: exits with 0 where the lock that we hold keeps it out, else with 1.
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


def check_room(free: int) -> Finding:
    """Say how many bytes are free."""
    found = f"{free / _GB:.1f} GB free"
    remedy = "make room; `normpipe run … --dry-run` says how much a job takes"
    if free < NO_ROOM:
        return no("disk", found, remedy)
    return warn("disk", found, remedy) if free < LITTLE_ROOM else yes("disk", found)


def check_writing(folder: Path) -> Finding:
    """Write, fsync, rename and fsync the folder, as every commit does; read it back."""
    data = os.urandom(4096)
    try:
        write_bytes(folder / "file", data)
        if (folder / "file").read_bytes() != data:
            remedy = "this disk is not to be trusted: choose another --output"
            return no("writing", "what was written reads otherwise", remedy)
    except (OSError, NormpipeError) as error:
        remedy = "mend it, or choose another --output"
        return no("writing", f"fails ({error.__cause__ or error})", remedy)
    return yes("writing", "write, fsync and rename work")


def check_locks(folder: Path) -> Finding:
    """Say whether a lock keeps another process out; some network file systems pretend."""
    from filelock import FileLock

    remedy = "mount it with locks, choose another --output, or see that only one job runs in it"
    path = folder / "lock"
    try:
        with FileLock(path).acquire(timeout=0):
            command = [sys.executable, "-c", _TRY_LOCK, str(path)]
            other = subprocess.run(command, capture_output=True, text=True, check=False)
    except (OSError, NotImplementedError) as error:
        return no("locks", f"the file system has none ({error})", remedy)
    if other.returncode == 0:
        return yes("locks", "keep a second process out")
    return no("locks", "do not keep a second process out", remedy)


def check_store(output: Path) -> list[Finding]:
    """Return the findings on an address where the job is to write; nothing is left there."""
    probe, data = output / f".normpipe-doctor-{uuid.uuid4().hex}", os.urandom(4096)
    findings = [yes("output", str(output))]
    remedy = "mend it, or choose another --output"
    try:
        write_bytes(probe, data)
        if probe.read_bytes() != data:
            return [*findings, no("writing", "what was written reads otherwise", remedy)]
        findings.append(yes("writing", "what is put can be read"))
        overwritten = create(probe, data)
        remove_file(probe)
    except NormpipeError as error:
        return [*findings, no("writing", f"fails ({error})", remedy)]
    if overwritten:
        remedy = "a job would refuse this store: use another, or a folder"
        return [*findings, no("locks", "the store has no conditional writes", remedy)]
    free = shutil.disk_usage(tempfile.gettempdir()).free  # a shard waits there for its upload
    return [*findings, yes("locks", "conditional writes keep a second job out"), check_room(free)]


def check_folder(output: Path) -> list[Finding]:
    """Return the findings on the folder where the job is to write; nothing is left in it."""
    if is_store(output):
        return check_store(output)
    if output.exists() and not output.is_dir():
        return [no("output", f"{output} is a file", "choose a folder for --output")]
    folder = nearest_folder(output)
    where = str(folder) if folder == output.absolute() else f"{folder} ({output} is not there yet)"
    findings = [yes("output", where), check_room(shutil.disk_usage(folder).free)]
    try:
        with tempfile.TemporaryDirectory(prefix=".normpipe-doctor-", dir=folder) as place:
            return [*findings, check_writing(Path(place)), check_locks(Path(place))]
    except OSError as error:
        remedy = "mend the permissions, or choose another --output"
        return [*findings, no("writing", f"fails ({error.strerror})", remedy)]
