"""The result of one check, and what to do about it."""

from dataclasses import dataclass
from typing import Literal

#: yes: all right. warn: the job runs, but slowly or not for long. no: a job cannot run.
Verdict = Literal["yes", "warn", "no"]


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report.

    Attributes:
        check: what was checked; the same word for all findings of its kind.
        verdict: yes, warn or no.
        found: what was found.
        remedy: what to do; empty if nothing.
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
    """Return a finding: all right."""
    return Finding(check, "yes", found)


def warn(check: str, found: str, remedy: str) -> Finding:
    """Return a finding: the job runs, but slowly or not for long."""
    return Finding(check, "warn", found, remedy)


def no(check: str, found: str, remedy: str) -> Finding:
    """Return a finding: something a job needs is missing, and what to do."""
    return Finding(check, "no", found, remedy)
