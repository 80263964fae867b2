"""The errors that a user can cause, and those that the engine handles."""

import errno
import re
from collections.abc import Sequence
from difflib import get_close_matches


class NormpipeError(Exception):
    """Something that the user can fix. The message is one line that says what to do."""

    def __str__(self) -> str:
        """Return the message as one line that is safe to print on a terminal."""
        return printable(super().__str__())


_SPACES = dict.fromkeys("\n\t", " ")


def printable(text: str) -> str:
    """Return a message as one line: names that it quotes may contain newlines or terminal codes."""
    return "".join(c if c.isprintable() else _SPACES.get(c, ascii(c)[1:-1]) for c in text)


class InputError(NormpipeError):
    """Input, job file, options or weights that cannot be used as given."""


class FaceError(NormpipeError):
    """A picture in memory cannot be used.

    Attributes:
        reason: as the row of a job would have it (docs/data.md): ``no_face``, ``truncated`` …
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


class OutputError(NormpipeError):
    """The output folder cannot be written, or belongs to something else."""


class Interrupted(NormpipeError):
    """The job was asked to stop; what is committed is kept, the rest remains to be done."""


#: Messages of libraries without an error class for a shortage: torch, OpenCV, ONNX Runtime, Arrow,
#: C++.
_MESSAGES = {
    r"out of memory|(not enough|insufficient) memory|bad_?alloc|unable to allocate|_ALLOC_FAILED"
    r"|(can't|cannot|failed to|could not) allocate (memory|\d)": "memory",
    r"can't start new thread|launch worker thread": "threads",
    r"resource temporarily unavailable": "processes or threads",
    r"too many open files": "open files",
}
#: What the system answers where a file finds no room.
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_ERRNOS = {
    errno.ENOMEM: "memory",
    errno.EAGAIN: "processes or threads",
    errno.EMFILE: "open files",
    errno.ENFILE: "open files",
}
#: Libraries with their own error classes, whose message says what is wrong.
_LIBRARIES = ("cv2", "onnxruntime", "pyarrow", "torch")


def missing_resource(error: BaseException) -> str:
    """Return the resource that the machine ran out of, if an error or its cause says so; else "".

    Such an error is not about the data. Messages of other errors are not searched, because they
    quote names and data.
    """
    one: BaseException | None = error
    while one is not None and not isinstance(one, NormpipeError):
        if isinstance(one, MemoryError):
            return "not enough memory"
        if isinstance(one, OSError) and one.errno is not None:
            return f"not enough {_ERRNOS[one.errno]}" if one.errno in _ERRNOS else ""
        library = type(one).__module__.partition(".")[0] in _LIBRARIES
        if library or isinstance(one, OSError | RuntimeError | SystemError):
            for pattern, resource in _MESSAGES.items():
                if re.search(pattern, str(one), re.IGNORECASE):
                    return f"not enough {resource}"
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
    return ""


def resource_shortage(what: str) -> Interrupted:
    """Return the error that ends a run if the machine lacks a resource: no shard is to blame."""
    return Interrupted(
        f"{what}: free some, or ask for less (--set run.threads=1, --set run.prefetch=1)"
    )


def breaks_cuda_context(error: BaseException) -> bool:
    """Return whether a failed CUDA kernel has left the process's CUDA context unusable."""
    return isinstance(error, RuntimeError) and bool(re.search("CUDA (error|failure)", str(error)))


def one_line(error: BaseException) -> str:
    """Return an error's message as one short line."""
    return " ".join(str(error).split())[:300]


def nearest(word: str, known: list[str]) -> str:
    """Return ``"; did you mean 'x'?"``, or all known words if none is near ``word``."""
    match = get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean '{match[0]}'?" if match else f"; known: {', '.join(sorted(known))}"


def first_few(words: Sequence[object], most: int = 10) -> str:
    """Return words separated by commas; of many the first ones, and how many more there are."""
    more = len(words) - most
    return ", ".join(map(str, words[:most])) + (f" … and {more} more" if more > 0 else "")
