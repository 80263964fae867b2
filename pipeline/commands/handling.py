"""What all commands share: path checks, one-line errors, exit statuses, logging."""

import errno
import functools
import inspect
import logging
import os
import stat
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args

import typer
from typer.models import ParameterInfo

from ..errors import DISK_FULL, InputError, Interrupted, NormpipeError, printable
from ..run.progress import LogLines
from ..run.stopping import clear_line, sigterm_as_interrupt
from ..store.storage import is_address, is_store, refuse_address, store_error_line
from .options import PathRule

log = logging.getLogger("normpipe")
Command = TypeVar("Command", bound=Callable[..., Any])

#: Exit statuses: 0 done, 1 verify found differences, 2 the user must act, 3 run it again.
DIFFERENCES, USER, AGAIN = 1, 2, 3

#: File-system errors about a path that cannot be used as intended.
_FAULTS = {
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP),
    *(errno.EACCES, errno.EPERM, errno.EROFS, *DISK_FULL),
}


def handled(command: Command) -> Command:
    """Print errors that a user can fix as one line, without a traceback."""
    signature = inspect.signature(command, eval_str=True)
    rules = _rules(signature)

    @functools.wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            _check_paths(kwargs, rules)
            with sigterm_as_interrupt():
                return command(*args, **kwargs)
        except (Interrupted, KeyboardInterrupt) as error:
            why = str(error) or "stopped"
            line = f"{why}; what is finished is kept. Run the same command to continue."
            typer.echo(f"{clear_line(sys.stderr)}normpipe: {line}", err=True)
            raise typer.Exit(AGAIN) from None
        except NormpipeError as error:
            complain(str(error))
            raise typer.Exit(USER) from None
        except Exception as error:  # those of a store's client, and of the file system
            line = store_error_line(error) or _said_by_files(error)
            if line is None:
                raise
            complain(line)
            raise typer.Exit(USER) from None

    wrapper.__signature__ = signature  # type: ignore[attr-defined]
    return wrapper  # type: ignore[return-value]


def complain(line: str) -> None:
    """Print a line on stderr, outside the log."""
    typer.echo(f"normpipe: {printable(line)}", err=True)


def _said_by_files(error: Exception) -> str | None:
    """Return one line for a file-system error that nothing else has handled."""
    if not isinstance(error, OSError) or error.errno not in _FAULTS:
        return None
    if error.filename is None:  # a stream, or a file that has no name
        if error.errno not in DISK_FULL:
            return None
        return f"cannot write: {error.strerror}; make room, and run the same command again"
    path = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename
    return f"cannot use {path}: {error.strerror}; fix that, or choose another path"


def _rules(signature: inspect.Signature) -> dict[str, PathRule]:
    """Return the path rule of each of a command's parameters that is a path."""
    found: dict[str, PathRule] = {}
    for name, parameter in signature.parameters.items():
        for one in get_args(parameter.annotation):
            if isinstance(one, PathRule):
                found[name] = one
            elif isinstance(one, ParameterInfo):
                one.readable = False  # Typer's own check, which prints a page
    return found


def _check_paths(values: Mapping[str, Any], rules: Mapping[str, PathRule]) -> None:
    """Raise InputError for a path that cannot be what its option needs."""
    for name, value in values.items():
        for one in value if isinstance(value, list) else [value]:
            if not isinstance(one, str | Path):
                continue
            if "\0" in str(one):
                raise InputError(f"{one}: neither a path nor a setting holds a NUL character")
            if isinstance(one, Path):
                refuse_address(one)
            if name in rules and not is_store(one) and not is_address(str(one)):
                _check_path(Path(one), rules[name])


def _check_path(path: Path, rule: PathRule) -> None:
    try:
        try:
            mode = path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            _check_missing(path, rule)
            return
    except OSError as error:
        raise InputError(f"cannot use {path}: {error.strerror}: choose another path") from None
    if stat.S_ISDIR(mode) and not rule.folder:
        raise InputError(f"{path} is a folder, where a file is needed: choose another path")
    if not stat.S_ISDIR(mode) and not rule.file:
        raise InputError(f"{path} is not a folder, but one is needed: choose another path")
    if not rule.written and not os.access(path, os.R_OK):
        raise InputError(f"cannot read {path}: you have no permission")


def _check_missing(path: Path, rule: PathRule) -> None:
    """Raise InputError for a missing path that cannot be created, or could never exist."""
    for place in (path, *path.absolute().parents):
        if place.is_symlink() and not place.exists():
            raise InputError(
                f"{path}: {place} is a link to {place.readlink()}, which is not there: fix the "
                "link, or choose another path"
            )
        if place.exists():
            if not place.is_dir():
                raise InputError(f"{path}: {place} is not a folder: choose another path")
            for part in path.absolute().relative_to(place).parts:
                with suppress(FileNotFoundError):
                    (place / part).lstat()  # raises for a name that is too long
            if rule.written and not os.access(place, os.W_OK | os.X_OK):
                raise InputError(f"cannot make {path}: you may not write in {place}")
            return


def start_logging(quiet: bool = False) -> None:
    """Log plain lines to stderr."""
    # Recreated: stderr may have changed since the last call (in tests, in notebooks).
    log.handlers[:] = [LogLines(sys.stderr)]
    log.setLevel(logging.WARNING if quiet else logging.INFO)


def stopped_in_time(output: Path) -> NoReturn:
    """Report that a training's time is up, and exit with 3."""
    typer.echo(f"stopped when its time was up; run the same command again to continue: {output}")
    raise typer.Exit(AGAIN)
