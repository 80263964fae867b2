"""The errors a user can cause, and those that the engine acts on."""

import errno
import re
from difflib import get_close_matches

from ..manifests.vocabularies import REASONS


class NormpipeError(Exception):
    """Something the user can mend. The message is one line that says what to do."""

    def __str__(self) -> str:
        """Return the message. What it quotes may hold line ends, or commands to a terminal."""
        text = super().__str__()
        return "".join(c if c.isprintable() else _SPACES.get(c, ascii(c)[1:-1]) for c in text)


_SPACES = dict.fromkeys("\n\t", " ")


class InputError(NormpipeError):
    """Input, job file, options or weights that cannot be used as given."""


class OutputError(NormpipeError):
    """The output folder cannot be written, or belongs to something else."""


class Interrupted(NormpipeError):
    """The job was asked to stop; what is committed stays, the rest is left to do."""


class SampleError(Exception):
    """One sample cannot be used; its row carries the reason and the rest of its batch goes on."""

    def __init__(self, reason: str, detail: str = "") -> None:
        if reason not in REASONS:
            raise ValueError(f"{reason!r} is not in the vocabulary of reasons")
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


#: What libraries say where no class of error tells: torch, OpenCV, ONNX Runtime, Arrow, C++.
_SAID = {
    r"out of memory|(not enough|insufficient) memory|bad_?alloc|allocate.{0,30}memory": "memory",
    r"can't start new thread|launch worker thread": "threads",
    r"resource temporarily unavailable": "processes or threads",
    r"too many open files": "open files",
}
_NUMBERED = {
    errno.ENOMEM: "memory",
    errno.EAGAIN: "processes or threads",
    errno.EMFILE: "open files",
    errno.ENFILE: "open files",
}


def lack_of(error: BaseException) -> str:
    """Return what the machine lacks, if an error or what it came of says so; else an empty text.

    Such an error says nothing of the data. A failed CUDA kernel is one, too: it leaves the
    process's CUDA context unusable.
    """
    one: BaseException | None = error
    while one is not None:
        if isinstance(one, MemoryError):
            return "not enough memory"
        if isinstance(one, OSError) and one.errno in _NUMBERED:
            return f"not enough {_NUMBERED[one.errno]}"
        for pattern, lack in _SAID.items():
            if re.search(pattern, str(one), re.IGNORECASE):
                return f"not enough {lack}"
        if isinstance(one, RuntimeError) and "CUDA error" in str(one):
            return "this process cannot use its GPU any more"
        one = one.__cause__ or one.__context__
    return ""


def one_line(error: BaseException) -> str:
    """Return an error's message as one short line."""
    return " ".join(str(error).split())[:300]


def nearest(word: str, known: list[str]) -> str:
    """Return ``"; did you mean 'x'?"``, or all known words where none is near ``word``."""
    match = get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean '{match[0]}'?" if match else f"; known: {', '.join(sorted(known))}"
