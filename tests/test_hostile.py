"""The whole job over hostile inputs, from the command line, watched from within.

An audit hook sees every file and socket that the process opens and every class that it unpickles.
"""

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from normpipe.pipeline.care.verify import verify
from normpipe.pipeline.store.shards import ShardFolder

from .corpus import ODD, SPOILT, SWELLING, with_chunk

SAMPLES = Path(__file__).parent.parent / "stages/samples"
PHOTOGRAPH = (SAMPLES / "person01_happiness.jpg").read_bytes()
DATASETS = ("manifest", "aligned", "normalized/compact", "pairs")

WATCHED = """
import json, os, sys
seen = {"sockets": [], "secrets": [], "classes": []}
def watch(event, values):
    if event in ("socket.__new__", "socket.connect", "socket.getaddrinfo", "socket.bind"):
        seen["sockets"].append(event)
    elif event == "pickle.find_class":
        seen["classes"].append(str(values))
    elif event == "open" and isinstance(values[0], (str, bytes)):
        if os.fsdecode(values[0]).endswith(("secret.jpg", "/hostname")):
            seen["secrets"].append(os.fsdecode(values[0]))
from normpipe.pipeline.commands.app import app
sys.addaudithook(watch)
try:
    app(prog_name="normpipe")
finally:
    # Not ru_maxrss, which begins with what the process that started this one had.
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    seen["own"] = int(status["VmHWM"].split()[0])
    with open(os.environ["SEEN"], "w") as file:
        json.dump(seen, file)
"""


def run(source: Path, out: Path, first: str = "ingest", last: str = "pair") -> dict[str, Any]:
    """Run the job to its end in a process of its own; return what the hook saw."""
    seen = out.with_suffix(".seen")
    settings = {
        "align.detector": "none", "align.max_pixels": 10_000_000, "align.max_bytes": 2**20,
        "align.decode_memory_mb": 256, "normalize.batch_size": 4, "run.threads": 2,
    }  # fmt: skip
    given = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    command = [sys.executable, "-c", WATCHED, "run", "--input", str(source), "--output", str(out)]
    done = subprocess.run(
        [*command, "--dataset", "d", "--from", first, "--until", last, *given],
        env={**os.environ, "SEEN": str(seen)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return json.loads(seen.read_text())


def harmless(seen: dict[str, Any]) -> None:
    assert seen["sockets"] == [] and seen["secrets"] == [] and seen["classes"] == []
    # kB: torch and the network take half of it; the bombs hold gigabytes.
    assert seen["own"] < 900_000


def outcomes(out: Path, dataset: str) -> dict[str, tuple[str, str | None]]:
    folder = ShardFolder(out / dataset)
    rows = [row for number in folder.records() for row in folder.read(number).to_pylist()]
    return {row["key"].removeprefix("d/"): (row["status"], row["reason"]) for row in rows}


def put_all(root: Path) -> dict[str, str | None]:
    """Fill a folder with all that the corpus has, and more; return what must become of each."""
    root.mkdir(parents=True)
    (root.parent / "secret.jpg").write_bytes(PHOTOGRAPH)
    expected: dict[str, str | None] = {}
    rng = random.Random(3)
    for number, way in enumerate((*SPOILT, *ODD)):
        expected[way.apply(root / f"w{number:02d}", PHOTOGRAPH, rng).name] = way.reason
    for name, chunk in SWELLING.items():
        (root / f"{name}.png").write_bytes(with_chunk(PHOTOGRAPH, chunk))
        expected[f"{name}.png"] = "?"  # releases of Pillow differ
    with open(os.fsencode(root) + b"/\xff\xfe.jpg", "wb") as file:  # noqa: PTH123
        file.write(PHOTOGRAPH)
    expected["%FF%FE.jpg"] = "path_not_utf8"
    deep = Path(*["d" * 60] * 30) / "deep.jpg"
    (root / deep).parent.mkdir(parents=True)
    (root / deep).write_bytes(PHOTOGRAPH)
    expected[deep.as_posix()] = None
    (root / "linked").symlink_to(root.parent)  # passed over and counted
    (root / "inner.jpg").symlink_to("w00.jpg")
    expected["inner.jpg"] = "empty_file"
    (root / "new\nline\t#%.jpg").write_bytes(PHOTOGRAPH)
    expected["new%0Aline%09%23%25.jpg"] = None
    return expected


def test_a_hostile_folder(tmp_path: Path) -> None:
    expected = put_all(tmp_path / "in/photos")
    out = tmp_path / "out"
    harmless(run(tmp_path / "in/photos", out))
    for dataset in DATASETS[1:]:
        found = outcomes(out, dataset)
        assert set(found) == set(expected)
        for name, reason in expected.items():
            if reason != "?":
                assert found[name] == (("ok", None) if reason is None else ("failed", reason)), name
    assert verify(out).differences == []


#: What a list may name, and what becomes of it.
LISTED: dict[str, str | None] = {
    "good.jpg": None,
    "../secret.jpg": "outside_root",
    "a/../../secret.jpg": "outside_root",
    "/etc/hostname": "outside_root",
    "nul\0byte.jpg": "missing_file",
    "gone.jpg": "missing_file",
    "x" * 5000 + ".jpg": "missing_file",
    "out.jpg": "outside_root",
    "http://127.0.0.1:9/a.jpg": "url_not_allowed",
    "https://example.org/a.jpg": "url_not_allowed",
    "file:///etc/hostname": "url_not_allowed",
    "s3://bucket/a.jpg": "url_not_allowed",
    "code.jpg": "not_an_image",
    ".": "not_a_file",
}


def test_a_hostile_list(tmp_path: Path) -> None:
    root = tmp_path / "in"
    root.mkdir()
    (tmp_path / "secret.jpg").write_bytes(PHOTOGRAPH)
    (root / "good.jpg").write_bytes(PHOTOGRAPH)
    (root / "out.jpg").symlink_to("../secret.jpg")
    next(way for way in SPOILT if way.name == "a pickle").apply(
        root / "code", PHOTOGRAPH, random.Random(0)
    )
    pq.write_table(pa.table({"path": list(LISTED)}), root / "list.parquet")
    out = tmp_path / "out"
    harmless(run(root / "list.parquet", out))
    for dataset in DATASETS[1:]:
        found = list(outcomes(out, dataset).values())
        assert len(found) == len(LISTED)
        reasons = [reason for _, reason in found]
        assert sorted(map(str, reasons)) == sorted(map(str, LISTED.values()))


def test_the_hook_would_see_it(tmp_path: Path) -> None:
    """A check that cannot fail is none: what the job must not do, done in its place."""
    code = WATCHED.replace(
        '    app(prog_name="normpipe")',
        "    import socket, pickle\n    socket.socket()\n    open('secret.jpg', 'w')\n"
        "    pickle.loads(pickle.dumps(print))",
    )
    environment = {**os.environ, "SEEN": str(tmp_path / "seen")}
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, check=True)
    seen = json.loads((tmp_path / "seen").read_text())
    assert seen["sockets"] and seen["secrets"] and seen["classes"]


def test_a_link_that_is_swapped_after_ingest_leads_nowhere(tmp_path: Path) -> None:
    root = tmp_path / "in"
    (root / "sub").mkdir(parents=True)
    (tmp_path / "away").mkdir()
    for place in (root / "sub", tmp_path / "away"):
        (place / "a.jpg").write_bytes(PHOTOGRAPH)
        os.utime(place / "a.jpg", ns=(10**18, 10**18))
    (root / "b.jpg").write_bytes(PHOTOGRAPH)
    out = tmp_path / "out"
    run(root, out, last="ingest")
    (root / "sub/a.jpg").unlink()
    (root / "sub").rmdir()
    (root / "sub").symlink_to("../away")
    run(root, out, first="align", last="align")
    assert outcomes(out, "aligned") == {
        "sub/a.jpg": ("failed", "outside_root"),
        "b.jpg": ("ok", None),
    }
