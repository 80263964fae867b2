"""doctor: is everything here that a job needs? Says what is, and what to do where not."""

from pathlib import Path

from .cuda import check_cuda
from .finding import Finding
from .folder import check_folder
from .machine import check_machine
from .model_files import check_packs, check_weights
from .packages import check_installation
from .runtime import check_onnxruntime


def examine(output: Path) -> list[Finding]:
    """Return what was found, in the order of the report.

    Args:
        output: where a job is to write, a folder or in a store; it need not exist, and nothing is
            left there.
    """
    return [
        *check_installation(),
        *check_onnxruntime(),
        *check_cuda(),
        *check_machine(),
        *check_folder(output),
        *check_weights(),
        *check_packs(),
    ]


def summary(findings: list[Finding]) -> str:
    """Return the last line: what it comes to."""
    missing = sum(one.verdict == "no" for one in findings)
    advice = sum(one.verdict == "warn" for one in findings)
    if missing:
        return f"{missing} to mend before a job can run (lines with no), {advice} to think of"
    return f"all that is needed is there; {advice} to think of (lines with warn)"
