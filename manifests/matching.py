"""Regular expressions and patterns that users write: a search in a name always ends in time."""

from typing import Any, NamedTuple, Self

import regex  # as the standard library's, which has no limit on time

#: CPU time of the process in which a name is searched. A sound pattern needs microseconds.
SECONDS = 1.0
_SHOWN = 60


class SlowPatternError(ValueError):
    """A pattern that would be searched for without an end."""


class Matcher(NamedTuple):
    """A compiled regular expression, and how messages call it."""

    compiled: Any
    shown: str

    @classmethod
    def of(cls, text: str, shown: str = "", *, ignore_case: bool = False) -> Self:
        """Compile a regular expression.

        Args:
            text: as of the module ``re``.
            shown: what the user wrote, if that is another text.
            ignore_case: whether upper and lower case are the same.

        Raises:
            ValueError: it is none.
        """
        flags = regex.DOTALL | regex.IGNORECASE if ignore_case else 0
        try:
            return cls(regex.compile(text, flags), shown or text)
        except regex.error as error:
            raise ValueError(str(error)) from None

    @property
    def groups(self) -> int:
        """Return the number of its groups."""
        return self.compiled.groups

    def search(self, name: str) -> Any:
        """Return the first match within a name, or None. Raises SlowPatternError."""
        return self._ended(self.compiled.search, name)

    def fullmatch(self, name: str) -> Any:
        """Return the match of a whole name, or None. Raises SlowPatternError."""
        return self._ended(self.compiled.fullmatch, name)

    def _ended(self, find: Any, name: str) -> Any:
        try:
            return find(name, timeout=SECONDS)
        except TimeoutError:
            some = name if len(name) <= _SHOWN else f"{name[:_SHOWN]}…"
            raise SlowPatternError(
                f"'{self.shown}' takes longer than {SECONDS:g} s to compare with '{some}': write "
                "it with fewer parts that may be of any length"
            ) from None
