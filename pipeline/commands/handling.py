"""What every command stands on: errors as one line, exit statuses, logging."""

import functools
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import typer

from ..errors import Interrupted, NormpipeError
from ..run.stopping import terminable
from ..store.storage import refuse_address, said_by_store

log = logging.getLogger("normpipe")
Command = TypeVar("Command", bound=Callable[..., Any])

#: Exit statuses: 0 done, 1 verify found differences, 2 the user must act, 3 run it again.
DIFFERENCES, USER, AGAIN = 1, 2, 3


def handled(command: Command) -> Command:
    """Give errors that a user can mend as one line, without a traceback."""

    @functools.wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            for value in kwargs.values():
                for path in value if isinstance(value, list) else [value]:
                    if isinstance(path, Path):
                        refuse_address(path)
            with terminable():
                return command(*args, **kwargs)
        except (Interrupted, KeyboardInterrupt) as error:
            why = str(error) or "stopped"
            typer.echo(
                f"normpipe: {why}; what is finished is kept. Run the same command to go on.",
                err=True,
            )
            raise typer.Exit(AGAIN) from None
        except NormpipeError as error:
            typer.echo(f"normpipe: {error}", err=True)
            raise typer.Exit(USER) from None
        except Exception as error:
            line = said_by_store(error)
            if line is None:
                raise
            typer.echo(f"normpipe: {line}", err=True)
            raise typer.Exit(USER) from None

    return wrapper  # type: ignore[return-value]


def start_logging(quiet: bool = False) -> None:
    """Log plain lines to stderr."""
    # Made anew, for stderr may be another than at the last call (in tests, in notebooks).
    log.handlers[:] = [logging.StreamHandler(sys.stderr)]
    log.setLevel(logging.WARNING if quiet else logging.INFO)


def stopped_in_time(output: Path) -> NoReturn:
    """Say that a training's time is up, and exit with the status for it."""
    typer.echo(f"stopped, for its time is up; run the same command again to go on: {output}")
    raise typer.Exit(AGAIN)
