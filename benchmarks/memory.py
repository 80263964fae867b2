"""Measure a job's peak memory: of all its processes, and of each kind.

    python benchmarks/memory.py --input PHOTOS --output OUT --until align [options of normpipe run]
    python benchmarks/memory.py --input PHOTOS --output OUT --stage normalize

Proportional set size: memory shared by processes is counted once. Sampled every 50 ms.
"""

import json
import subprocess
import sys
import time

import psutil


def family(process: psutil.Process) -> dict[str, float]:
    """Return the GB of each kind of process."""
    found = {"normpipe": 0.0, "decoders": 0.0}
    for one in [process, *process.children(recursive=True)]:
        try:
            kind = "decoders" if "decoder" in " ".join(one.cmdline()) else "normpipe"
            found[kind] += one.memory_full_info().pss / 1e9
        except psutil.Error:
            continue
    return found


def main() -> None:
    command = [
        sys.executable,
        "-c",
        "from normpipe.pipeline.commands.app import main; main()",
        "run",
    ]
    job = subprocess.Popen([*command, *sys.argv[1:]])
    most = {"normpipe": 0.0, "decoders": 0.0, "all": 0.0}
    while job.poll() is None:
        try:
            found = family(psutil.Process(job.pid))
        except psutil.Error:
            break
        for kind, size in {**found, "all": sum(found.values())}.items():
            most[kind] = max(most[kind], size)
        time.sleep(0.05)
    print(json.dumps({kind: round(size, 2) for kind, size in most.items()}))
    raise SystemExit(job.wait())


if __name__ == "__main__":
    main()
