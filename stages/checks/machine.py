"""CPUs, memory and open files: what this process may use, not what the machine has."""

import os
from pathlib import Path

from ...pipeline.config import usable_cpus
from .finding import Finding, no, warn, yes

_GIB = 2**30
#: Less memory than this, and torch with the shipped network leaves little to the batches.
LITTLE_MEMORY = 4 * _GIB
#: Training's loaders hold some dozens of files each; a usual limit is 1024.
FEW_FILES, TOO_FEW_FILES = 1024, 256


def check_cpus(usable: int, there: int) -> Finding:
    """Say how many CPUs there are; a batch system often lends fewer than the machine has."""
    if usable < there:
        return yes("cpus", f"{usable} of {there} may be used, and run.threads counts them")
    return yes("cpus", str(usable))


def memory_limit(root: Path = Path("/")) -> int | None:
    """Return the bytes that this process's control group may use; None: no limit known.

    Args:
        root: where ``proc`` and ``sys`` lie; replaced in tests.
    """
    try:
        groups = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    limits: list[int] = []
    for group in groups:
        _, controllers, path = group.split(":", 2)
        if controllers == "":  # version 2: one tree, where a parent's limit holds, too
            top, name = root / "sys/fs/cgroup", "memory.max"
        elif controllers == "memory":
            top, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        folder = top / path.lstrip("/")
        for place in (folder, *folder.parents):
            if place.is_relative_to(top):
                limits += _number_in(place / name)
    return min(limits, default=None)


def _number_in(path: Path) -> list[int]:
    try:
        return [int(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError):  # not there, or "max"
        return []


def usable_memory() -> int | None:
    """Return the bytes of memory that this process may use; None: not known."""
    try:
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return memory_limit()
    return min(there, memory_limit() or there)


def check_memory(usable: int | None) -> Finding:
    """Say how much memory there is, in bytes."""
    if usable is None:
        return yes("memory", "not known")
    found = f"{usable / _GIB:.1f} GiB"
    if usable < LITTLE_MEMORY:
        remedy = "--set run.prefetch=1 --set normalize.batch_size=8 take less"
        return warn("memory", found, remedy)
    return yes("memory", found)


def check_open_files(soft: int, hard: int) -> Finding:
    """Say how many files may be open at once; ``hard`` is how far a user may raise it."""
    found = f"{soft} at once"
    if soft >= FEW_FILES:
        return yes("open files", found)
    remedy = f"`ulimit -n {min(4096, hard)}` before the command"
    if hard < FEW_FILES:
        remedy = f"ask the administrator for a higher limit (now {hard})"
    if soft < TOO_FEW_FILES:
        return no("open files", found, remedy)
    return warn("open files", f"{found}, few for training with many workers", remedy)


def check_machine() -> list[Finding]:
    """Return the findings on CPUs, memory and open files."""
    findings = [check_cpus(usable_cpus(), os.cpu_count() or 1), check_memory(usable_memory())]
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return findings
    soft, hard = (
        2**31 if limit == resource.RLIM_INFINITY else limit
        for limit in resource.getrlimit(resource.RLIMIT_NOFILE)
    )
    return [*findings, check_open_files(soft, hard)]
