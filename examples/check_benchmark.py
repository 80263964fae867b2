"""Check that renders are the synthetic benchmark, by the recorded checksums of the first shard.

    python examples/check_benchmark.py BENCH            # one line per recording: same, or different
    python examples/check_benchmark.py BENCH --record   # adds this machine to the recordings

There are two checksums: of the labels, and of the pictures. Pictures depend on the device, on the
CPU's vector instructions and on library versions, so a recording names them; if a checksum differs
from all recordings made like yours, you have another benchmark. Labels depend only on numpy.
"""

import argparse
import hashlib
import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from normpipe.pipeline.errors import NormpipeError
from normpipe.stages.training.synthesized import synthesized_shards

RECORDED = Path(__file__).with_name("synthetic_benchmark.json")
LIBRARIES = ("torch", "numpy", "opencv-python", "numba")


def checksums(shard: Path) -> dict[str, str]:
    """Return the sha256 of the encoded pictures in order, and of the labels (six digits)."""
    rows = pq.read_table(shard).to_pylist()
    pictures, labels = hashlib.sha256(), hashlib.sha256()
    for row in rows:
        pictures.update(row["image"]["bytes"])
        pictures.update((row["target"] or {"bytes": b""})["bytes"])
        label = {name: row[name] for name in ("key", "identity", "emotion", "split")}
        label["expression"] = [round(value, 6) for value in row["expression"]]
        labels.update(json.dumps(label, sort_keys=True).encode())
    return {"pictures": pictures.hexdigest(), "labels": labels.hexdigest()}


def _model() -> str:
    """Return the vendor, family and model of the CPU, if known."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.is_file():
        return platform.machine()
    lines = (line.partition(":") for line in cpuinfo.read_text().splitlines())
    facts = {name.strip(): value.strip() for name, _, value in lines}
    names = ("vendor_id", "cpu family", "model")
    return " ".join(facts[name] for name in names if name in facts) or platform.machine()


def made_with(device: str) -> dict[str, Any]:
    """Return everything on this machine that the pictures depend on."""
    if device == "cpu":
        kind = f"{_model()} {torch.backends.cpu.get_cpu_capability()}"
    else:
        kind = torch.cuda.get_device_name()
    return {"device": device, "kind": kind, **{name: version(name) for name in LIBRARIES}}


def main() -> None:
    """Compare, and record if requested."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    try:
        shards = synthesized_shards([options.folder])
    except NormpipeError as error:
        sys.exit(str(error))
    found, made = checksums(shards[0]), made_with(options.device)
    recorded: list[dict[str, Any]] = json.loads(RECORDED.read_text()) if RECORDED.exists() else []
    for entry in recorded:
        same = [name for name in found if entry[name] == found[name]]
        with_what = ", ".join(f"{name} {entry[name]}" for name in made)
        print(f"{' and '.join(same) if same else 'nothing'} the same as with {with_what}")
    if options.record:
        recorded = [entry for entry in recorded if any(entry[name] != made[name] for name in made)]
        RECORDED.write_text(json.dumps([*recorded, made | found], indent=2) + "\n")
    elif not any(entry["pictures"] == found["pictures"] for entry in recorded):
        sys.exit("these pictures are not among the recorded ones")


if __name__ == "__main__":
    main()
