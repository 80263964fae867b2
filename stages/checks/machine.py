"""Checks CPUs, memory and open files: what this process may use, not what the machine has."""

import os
from pathlib import Path

from ...pipeline.config import usable_cpus
from .finding import Finding, no, warn, yes

_GIB = 2**30
#: With less, torch and the shipped network leave little memory for batches.
LOW_MEMORY = 4 * _GIB
#: Each data loader of a training holds dozens of files open; a usual limit is 1024.
FEW_FILES, TOO_FEW_FILES = 1024, 256


def check_cpus(usable: int, there: int) -> Finding:
    """Report the usable CPUs; a batch system often grants fewer than the machine has."""
    if usable < there:
        return yes("cpus", f"{usable} of {there} may be used; the default of run.threads")
    return yes("cpus", str(usable))


def memory_limit(root: Path = Path("/")) -> int | None:
    """Return the bytes that this process's control group may use; None: no known limit.

    Args:
        root: parent folder of ``proc`` and ``sys``; replaced in tests.
    """
    try:
        groups = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    limits: list[int] = []
    for group in groups:
        _, controllers, path = group.split(":", 2)
        if controllers == "":  # version 2: one tree, where a parent's limit also applies
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
    except (OSError, ValueError):  # missing, or "max"
        return []


def usable_memory() -> int | None:
    """Return the bytes of memory that this process may use; None: unknown."""
    try:
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return memory_limit()
    return min(there, memory_limit() or there)


def check_memory(usable: int | None) -> Finding:
    """Check the usable memory, in bytes."""
    if usable is None:
        return yes("memory", "unknown")
    found = f"{usable / _GIB:.1f} GiB"
    if usable < LOW_MEMORY:
        remedy = "--set run.prefetch=1 --set normalize.batch_size=8 use less"
        return warn("memory", found, remedy)
    return yes("memory", found)


def check_open_files(soft: int, hard: int) -> Finding:
    """Check the limit of open files; ``hard`` is how far a user may raise it."""
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
