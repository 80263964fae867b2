"""The errors a user can cause, and those that the engine acts on."""

import errno
import re
from difflib import get_close_matches


class NormpipeError(Exception):
    """Something the user can mend. The message is one line that says what to do."""

    def __str__(self) -> str:
        """Return the message, fit for a terminal."""
        return printable(super().__str__())


_SPACES = dict.fromkeys("\n\t", " ")


def printable(text: str) -> str:
    """Return a message as one line: names that it quotes may hold line ends or terminal codes."""
    return "".join(c if c.isprintable() else _SPACES.get(c, ascii(c)[1:-1]) for c in text)


class InputError(NormpipeError):
    """Input, job file, options or weights that cannot be used as given."""


class OutputError(NormpipeError):
    """The output folder cannot be written, or belongs to something else."""


class Interrupted(NormpipeError):
    """The job was asked to stop; what is committed stays, the rest is left to do."""


#: What libraries say where no class of error tells: torch, OpenCV, ONNX Runtime, Arrow, C++.
_SAID = {
    r"out of memory|(not enough|insufficient) memory|bad_?alloc|unable to allocate|_ALLOC_FAILED"
    r"|(can't|cannot|failed to|could not) allocate (memory|\d)": "memory",
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
#: Whose errors have a class of their own, and say in words what they are about.
_LIBRARIES = ("cv2", "onnxruntime", "pyarrow", "torch")


def lack_of(error: BaseException) -> str:
    """Return what the machine lacks, if an error or its cause says so; else an empty text.

    Such an error says nothing of the data. What other errors say is not read for it, for they quote
    names and data.
    """
    one: BaseException | None = error
    while one is not None and not isinstance(one, NormpipeError):
        if isinstance(one, MemoryError):
            return "not enough memory"
        if isinstance(one, OSError) and one.errno is not None:
            return f"not enough {_NUMBERED[one.errno]}" if one.errno in _NUMBERED else ""
        library = type(one).__module__.partition(".")[0] in _LIBRARIES
        if library or isinstance(one, OSError | RuntimeError | SystemError):
            for pattern, lack in _SAID.items():
                if re.search(pattern, str(one), re.IGNORECASE):
                    return f"not enough {lack}"
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
    return ""


def lacking(what: str) -> Interrupted:
    """Return what ends a run where the machine lacks something: no shard is to blame."""
    return Interrupted(
        f"{what}: free some, or ask for less (--set run.threads=1, --set run.prefetch=1)"
    )


def spoils_process(error: BaseException) -> bool:
    """Say whether a failed CUDA kernel has left the process's CUDA context unusable."""
    return isinstance(error, RuntimeError) and bool(re.search("CUDA (error|failure)", str(error)))


def one_line(error: BaseException) -> str:
    """Return an error's message as one short line."""
    return " ".join(str(error).split())[:300]


def nearest(word: str, known: list[str]) -> str:
    """Return ``"; did you mean 'x'?"``, or all known words where none is near ``word``."""
    match = get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean '{match[0]}'?" if match else f"; known: {', '.join(sorted(known))}"
