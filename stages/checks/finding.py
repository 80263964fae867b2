"""One thing that was looked at, and what to do about it."""

from dataclasses import dataclass
from typing import Literal

#: yes: as it should be. warn: the job runs, but slower or not for long. no: needed, and not there.
Verdict = Literal["yes", "warn", "no"]


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report.

    Attributes:
        check: what was looked at; the same word for all findings of its kind.
        verdict: yes, warn or no.
        found: what is there, in words.
        remedy: what to do; empty where nothing is to be done.
    """

    check: str
    verdict: Verdict
    found: str
    remedy: str = ""

    def line(self) -> str:
        """Return the finding as one line: verdict, check, what was found, remedy."""
        words = f"{self.check}: {self.found}" + (f": {self.remedy}" if self.remedy else "")
        return f"{self.verdict:<4} " + " ".join(words.split())


def yes(check: str, found: str) -> Finding:
    """Return that something is as it should be."""
    return Finding(check, "yes", found)


def warn(check: str, found: str, remedy: str) -> Finding:
    """Return that the job runs, but slower or not for long."""
    return Finding(check, "warn", found, remedy)


def no(check: str, found: str, remedy: str) -> Finding:
    """Return that something needed is not there, and what to do."""
    return Finding(check, "no", found, remedy)
