"""doctor: checks that this machine can run a job, and says how to fix what is missing."""

from pathlib import Path

from .cuda import check_cuda
from .finding import Finding
from .folder import check_folder
from .machine import check_machine
from .model_files import check_packs, check_weights
from .packages import check_installation
from .runtime import check_onnxruntime


def run_checks(output: Path) -> list[Finding]:
    """Run all checks and return their findings, in the order of the report.

    Args:
        output: where a job will write, a folder or in a store; it need not exist, and nothing is
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


def summarize_findings(findings: list[Finding]) -> str:
    """Return the last line of the report: how many findings need action."""
    missing = sum(one.verdict == "no" for one in findings)
    advice = sum(one.verdict == "warn" for one in findings)
    if missing:
        return f"{missing} to fix before a job can run (lines with no), {advice} to consider"
    return f"everything a job needs is there; {advice} to consider (lines with warn)"
