"""What is done, left, rejected and failed, from the records only."""

from collections import Counter
from pathlib import Path
from typing import Any

from ..errors import OutputError, first_few
from ..read.exclusions import read_exclusions
from ..store.derive import totals
from ..store.job_file import read_job
from ..store.shards import ShardFolder, datasets_in
from ..store.tombstones import INTENT_FILE, read_withdrawn

#: Quarantined shards of a stage that are listed with their reasons.
_QUARANTINES_SHOWN = 5


def status(root: Path) -> dict[str, Any]:
    """Return the state of a job's folder, ready for JSON. Raises InputError if it is not one."""
    job = read_job(root)
    stages: list[dict[str, Any]] = []
    total: int | None = None
    for entry in _datasets(root, job["flow"]):
        folder = ShardFolder(root / entry["writes"])
        records = folder.records()
        sums = totals(records)
        if total is None:
            total = sums["inputs"]
        verdicts: dict[str, dict[str, int]] = {}
        for name, count in sums["reasons"].items():
            decided_by, _, reason = name.partition(":")
            verdicts.setdefault(decided_by, {})[reason] = count
        stages.append(
            {
                "stage": entry["stage"],
                "dataset": entry["writes"],
                "shards": sums["shards"],
                "inputs_done": sums["inputs"],
                "inputs_left": total - sums["inputs"],
                "rows": sums["rows"],
                "ok": sums["statuses"].get("ok", 0),
                "rejected": sums["statuses"].get("rejected", 0),
                "failed": sums["statuses"].get("failed", 0),
                "reasons": verdicts,
                # Shard → why; unknown if release 0.1.0 quarantined it.
                "quarantined": {n: one.why for n, one in records.items() if one.quarantined},
                "bytes": sums["bytes"],
                "cleaned": folder.cleaned_path.is_file(),
            }
        )
    return {
        "output": str(root),
        "dataset": job.get("dataset"),
        "stages": stages,
        "withdrawn": _withdrawn(root),
        "excluded": _excluded(root),
    }


def _withdrawn(root: Path) -> dict[str, Any]:
    """Return the number of withdrawn inputs and of withdrawals, and whether one is unfinished."""
    found = read_withdrawn(root)
    withdrawals = found.withdrawals if found else ()
    return {
        "inputs": sum(one.inputs for one in withdrawals),
        "withdrawals": len(withdrawals),
        "unfinished": (root / INTENT_FILE).is_file(),
    }


def _excluded(root: Path) -> dict[str, Any]:
    """Return the number of excluded keys, also by the reason given for them."""
    reasons = Counter(read_exclusions(root)["reason"].to_pylist())
    return {"keys": reasons.total(), "reasons": dict(reasons.most_common())}


def _datasets(root: Path, flow: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the flow's entries, each followed by what its stage wrote under other names.

    Last comes what stages beside the flow wrote.
    """
    named = {entry["writes"] for entry in flow}
    others: dict[str, list[dict[str, Any]]] = {}
    for writes, folder in datasets_in(root).items():
        if writes not in named:
            stage = (folder.description() or {}).get("stage", "?")
            others.setdefault(stage, []).append({"stage": stage, "writes": writes})
    found = [one for entry in flow for one in [entry, *others.pop(entry["stage"], [])]]
    return [*found, *(one for those in others.values() for one in those)]


def status_table(state: dict[str, Any]) -> str:
    """Return the state as a table, followed by the reasons."""
    head = ["stage", "dataset", "done", "left", "ok", "rejected", "failed", "MB"]
    rows = [
        [
            stage["stage"],
            stage["dataset"],
            *(
                str(stage[name])
                for name in ("inputs_done", "inputs_left", "ok", "rejected", "failed")
            ),
            f"{stage['bytes'] / 1e6:.1f}",
        ]
        for stage in state["stages"]
    ]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [
        "  ".join(
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [head, *rows]
    ]
    made = Counter(stage["stage"] for stage in state["stages"])
    for stage in state["stages"]:
        several = made[stage["stage"]] > 1
        name = f"{stage['stage']} ({stage['dataset']})" if several else stage["stage"]
        for decided_by, reasons in stage["reasons"].items():
            if decided_by == stage["stage"]:
                listed = ", ".join(f"{reason} {count}" for reason, count in reasons.items())
                lines.append(f"{name}: {listed}")
        for number, why in list(stage["quarantined"].items())[:_QUARANTINES_SHOWN]:
            lines.append(f"{name}: shard {number} quarantined: {why or 'see the log'}")
    lines += [
        f"{stage['dataset']}: cleaned; the next run makes it again"
        for stage in state["stages"]
        if stage["cleaned"]
    ]
    withdrawn = state["withdrawn"]
    if withdrawn["withdrawals"]:
        lines.append(
            f"withdrawn: {withdrawn['inputs']} inputs, in {withdrawn['withdrawals']} withdrawals"
        )
    excluded = state["excluded"]
    if excluded["keys"]:
        reasons = [f"{reason} {count}" for reason, count in excluded["reasons"].items()]
        lines.append(f"excluded: {excluded['keys']} keys: {first_few(reasons)}")
    if withdrawn["unfinished"]:
        lines.append(f"a withdrawal was stopped: normpipe withdraw {state['output']} finishes it")
    return "\n".join(lines)


def refuse_quarantined(state: dict[str, Any]) -> None:
    """Raise if shards were quarantined, because the same command would not retry them.

    Raises:
        OutputError: names each stage and the number of its rows.
    """
    found = [
        f"{rows} of {stage['stage']}"
        for stage in state["stages"]
        if (rows := stage["reasons"].get(stage["stage"], {}).get("quarantined"))
    ]
    if found:
        raise OutputError(
            f"rows in quarantined shards: {', '.join(found)}; all else is done. 'normpipe status "
            f"{state['output']}' says why: fix it, and run the same command with --retry-failed"
        )
