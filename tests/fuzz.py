"""Fuzz of what normpipe reads from strangers: pictures, lists, archives, job files, shards.

    python tests/fuzz.py --minutes 30
    python tests/fuzz.py --target lists --seconds 60 --seed 7

Sound files are spoilt at random; what led to an outcome not seen before is spoilt further.
Every outcome must be a result, a reason or one line to the user. Anything else (another error, a
dead or hung decoder, a crash) is a finding: the file is kept and the exit status is 1.
"""

import argparse
import contextlib
import csv
import faulthandler
import importlib
import io
import json
import logging
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

import normpipe
from normpipe.manifests.schema import ALIGNED, IMAGE
from normpipe.manifests.vocabularies import SampleError
from normpipe.pipeline.config import load_job, template
from normpipe.pipeline.errors import NormpipeError
from normpipe.pipeline.store.shards import ShardFolder, ShardWriter
from normpipe.stages import CONFIGS
from normpipe.stages.faces.isolation import DecoderPool, Limits, ProcessLimits
from normpipe.stages.ingest import Ingest, IngestConfig
from normpipe.stages.sources.fetching import SourceReader

Run = Callable[[bytes], str]
SAMPLES = Path(__file__).parent.parent / "stages/samples"
#: Seconds that one input may take; a decoder has its own limit below it.
TOO_LONG = 20
_NUMBERS = (
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\0\0\0\x80",
    b"\1\0",
    b"9" * 30,
)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def spoil(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """Change a file in a few places, as chance will."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        place = rng.randrange(len(out) + 1)
        # Most of what steers a reader stands at the ends.
        if rng.random() < 0.5:
            place = min(len(out), int(rng.expovariate(1 / 48)))
            place = len(out) - place if rng.random() < 0.5 else place
        length = min(len(out) - place, 1 << rng.randrange(9))
        match rng.randrange(7):
            case 0 if place < len(out):
                out[place] ^= 1 << rng.randrange(8)
            case 1:
                out[place : place + length] = rng.randbytes(length)
            case 2:
                del out[place : place + length]
            case 3:
                out[place:place] = out[place : place + length]
            case 4:
                number = rng.choice(_NUMBERS)
                out[place : place + len(number)] = number
            case 5:
                del out[place:]
            case _:
                other = rng.choice(others)
                start = rng.randrange(len(other) + 1)
                out[place : place + length] = other[start : start + length]
    return bytes(out[: 2**20])


def pictures(_: Path) -> tuple[list[bytes], Run]:
    """Decoding, in processes of its own."""
    image = Image.open(SAMPLES / "person01_happiness.jpg").convert("RGB").resize((48, 40))
    seeds = [saved(image, kind) for kind in ("JPEG", "PNG", "BMP", "TIFF", "GIF", "PPM")]
    with contextlib.suppress(ImportError):
        importlib.import_module("pillow_heif").register_heif_opener()
    for kind in ("WEBP", "AVIF", "JPEG2000", "HEIF"):
        try:
            seeds.append(saved(image, kind))
        except (KeyError, OSError):  # a build of Pillow without it
            continue
    exif = Image.Exif()
    exif[0x0112] = 6
    seeds.append(saved(image, "JPEG", exif=exif, progressive=True))
    seeds += [saved(image.convert(mode), "PNG") for mode in ("RGBA", "LA", "P", "1")]
    seeds.append(saved(Image.fromarray(np.arange(900, dtype=np.uint16).reshape(30, 30)), "TIFF"))
    seeds.append(saved(image, "TIFF", compression="tiff_lzw"))
    decoders = DecoderPool(Limits(1_000_000, 2**20), ProcessLimits(seconds=TOO_LONG / 4))

    def run(data: bytes) -> str:
        try:
            found = decoders.decode(data)
        except SampleError as error:
            if error.reason in ("decoder_died", "decode_timeout"):
                raise RuntimeError(error.reason) from error
            return f"{error.reason} {error.detail}"
        assert len(found.data) % (found.width_px * found.height_px) == 0
        return found.kind

    return seeds, run


def lists(folder: Path) -> tuple[list[bytes], Run]:
    """Lists: CSV, TSV and Parquet."""
    (folder / "a.jpg").write_bytes(b"a")
    table = pa.table(
        {
            "path": ["a.jpg", "b.jpg", "../c.jpg", "a.jpg"],
            "subject": ["p", None, "q", "p"], "emotion": ["happy", "Sad", "", "happy"],
            "AU12": [1, 0, None, 1], "valence": [0.5, -0.5, None, 0.5],
            "bbox_xyxy": [[0.0, 0, 9, 9], None, [1.0, 2, 3, 4], [0.0, 0, 9, 9]],
        }
    )  # fmt: skip
    texts: list[str] = []
    for delimiter in ",;\t":
        text = io.StringIO()
        writer = csv.writer(text, delimiter=delimiter)
        writer.writerow(table.column_names)
        for row in table.to_pylist():
            writer.writerow("" if cell is None else cell for cell in row.values())
        texts.append(text.getvalue())
    seeds = [text.encode() for text in texts]
    seeds.append(b"path,lm0_x,x1,y1,x2,y2,fold,frame\na.jpg,1,0,0,5,5,2,7\n")
    for options in ({}, {"compression": "NONE"}, {"data_page_version": "2.0"}):
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, **options)
        seeds.append(sink.getvalue().to_pybytes())

    def run(data: bytes) -> str:
        path = folder / ("list.parquet" if data[:3] == b"PAR" else "list.csv")
        path.write_bytes(data)
        return str(Ingest(IngestConfig(), path, "d").scan().rows.num_rows)

    return seeds, run


def archives(folder: Path) -> tuple[list[bytes], Run]:
    """Archives, zip and tar, and Parquet files with pictures; with labels."""
    seeds: list[bytes] = []
    import tarfile

    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as archive:
            archive.writestr("a/b.jpg", b"picture" * 20)
            archive.writestr("c.png", b"other")
        seeds.append(buffer.getvalue())
    for kind in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=kind) as tar:
            for name in ("a.jpg", "n" * 150 + ".jpg", "ä.png", "a.cls", "ä.json"):
                data = {"cls": b"sad    ", "son": b'{"a":1}'}.get(name[-3:], b"picture")
                info = tarfile.TarInfo(name)
                info.size, info.mtime = 7, 1.5  # type: ignore[assignment]
                tar.addfile(info, io.BytesIO(data))
        seeds.append(buffer.getvalue())
    pictures = [None, *({"bytes": bytes([n]) * 99 * n, "path": None} for n in range(5))]
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["sad"]}}
    table = pa.table({"image": pa.array(pictures, IMAGE), "label": [0, 1, -1, None, 0, 0]})
    about = {"huggingface": json.dumps({"info": {"features": features}})}
    for options in ({}, {"compression": "NONE"}, {"data_page_version": "2.0"}):
        sink = pa.BufferOutputStream()
        pq.write_table(table.replace_schema_metadata(about), sink, row_group_size=4, **options)
        seeds.append(sink.getvalue().to_pybytes())

    def run(data: bytes) -> str:
        kind = "zip" if b"PK" in data[:4] else "parquet" if data[:3] == b"PAR" else "tar"
        path = folder / f"a.{kind}"
        path.write_bytes(data)
        stage = Ingest(IngestConfig(), path, "d")
        found = stage.scan().rows.to_pylist()
        reader = SourceReader(stage.root, 1000, 1.0, allow_urls=False)
        reader.open()
        told: list[str] = []
        for row in found:
            try:
                assert len(reader.read(row)) <= 1000 if row["path"] else True
                told.append("read")
            except SampleError as error:
                told.append(error.reason)
        reader.close()
        return " ".join(told)

    return seeds, run


def jobs(folder: Path) -> tuple[list[bytes], Run]:
    """Job files."""
    whole = template(CONFIGS)
    used = re.sub(r"^# (\w+ = )", r"\1", whole, flags=re.MULTILINE)
    small = 'input = "in"\noutput = "out"\n[align]\nsize_px = 224\nformat = "png"\n'
    seeds = [whole.encode(), used.encode(), small.encode()]

    def run(data: bytes) -> str:
        path = folder / "job.toml"
        path.write_bytes(data)
        load_job(path, {}, [], CONFIGS)
        return "a job"

    return seeds, run


def shards(folder: Path) -> tuple[list[bytes], Run]:
    """Shards whose footers and pages are not what they were, opened as users do."""
    made = folder / "aligned"
    jpeg = saved(Image.new("RGB", (8, 8), "red"), "JPEG")
    rows = [
        {
            "key": f"d/{i}", "parent_key": f"d/{i}", "status": "ok", "decided_by": "align",
            "image": {"bytes": jpeg, "path": f"{i}.jpg"}, "bbox_xyxy": [0.0, 1, 2, 3],
            "landmarks": [[0.0, 1.0]] * 5,
        }
        for i in range(70)
    ]  # fmt: skip
    with ShardWriter(ShardFolder(made), 0, ALIGNED) as writer:
        writer.add(rows)
        writer.commit("f", None)
    shard, record = ShardFolder(made).shard(0), ShardFolder(made).record_path(0)
    sound = shard.read_bytes()
    mark = b"normpipe record"
    seeds = [sound, mark + record.read_bytes()]

    def run(data: bytes) -> str:
        is_record = data.startswith(mark)
        shard.write_bytes(sound if is_record else data)
        record.write_bytes(data.removeprefix(mark) if is_record else seeds[1].removeprefix(mark))
        found = normpipe.open_dataset(made)
        return f"{len(found)} rows, {sorted(found[0])}" if len(found) else "no rows"

    return seeds, run


TARGETS = {f.__name__: f for f in (pictures, lists, archives, jobs, shards)}


def _outcome(run: Callable[[bytes], str], data: bytes) -> str:
    """Return what became of a file, or the line that the user would read."""
    try:
        return f"ok {run(data)}"
    except NormpipeError as error:
        return str(error)


def kind_of(outcome: str, place: str) -> str:
    """Return an outcome without what differs from file to file."""
    plain = re.sub(r"'[^']*'|\"[^\"]*\"|[^\x20-\x7e]", "_", outcome.replace(place, ""))
    return re.sub(r"\d+", "0", plain)[:80]


def fuzz(target: str, seconds: float, seed: int, keep: Path) -> int:
    """Fuzz one target; return the number of findings."""
    warnings.simplefilter("ignore")
    logging.disable()
    room = 6 * 2**30  # what takes more than that is a finding, and no burden on the machine
    resource.setrlimit(resource.RLIMIT_DATA, (room, room))
    rng = random.Random(seed)
    tries = findings = 0
    with tempfile.TemporaryDirectory() as place:
        seeds, run = TARGETS[target](Path(place))
        for sound in seeds:
            run(sound)
        end, seen, known = time.monotonic() + seconds, set[str](), list(seeds)
        current = keep / f"{target}-current"
        while time.monotonic() < end:
            data = spoil(rng.choice(known), known, rng)
            current.write_bytes(data)  # a crash leaves it
            faulthandler.dump_traceback_later(TOO_LONG, exit=True)
            tries += 1
            try:
                outcome = _outcome(run, data)
                if outcome.count("\n"):
                    raise AssertionError("a message of several lines")
            except Exception as error:
                findings += 1
                outcome = f"{type(error).__name__} {error}"
                name = keep / f"{target}-{seed}-{tries}"
                if kind_of(outcome, place) not in seen:
                    shutil.copy(current, name)
                    print(f"FINDING {target}: {outcome[:200]} ({name})")
                    traceback.print_exc()
            faulthandler.cancel_dump_traceback_later()
            kind = kind_of(outcome, place)
            if kind not in seen:
                seen.add(kind)
                known.append(data)
        current.unlink()
    told = {"target": target, "tries": tries, "outcomes": len(seen), "findings": findings}
    print(json.dumps(told), flush=True)
    return findings


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz what normpipe reads from strangers.")
    parser.add_argument("--minutes", type=float, default=1.0, help="in all")
    parser.add_argument("--seconds", type=float, help="in all, instead")
    parser.add_argument("--target", choices=list(TARGETS), help="this one alone")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("fuzz-findings"), help="for findings")
    given = parser.parse_args()
    given.keep.mkdir(parents=True, exist_ok=True)
    seconds = given.seconds or given.minutes * 60
    if given.target:
        return int(fuzz(given.target, seconds, given.seed, given.keep) > 0)
    bad = 0
    for target in TARGETS:  # each in a process of its own: a crash is a finding of that one
        share = ["--seconds", str(seconds / len(TARGETS)), "--seed", str(given.seed)]
        command = [sys.executable, __file__, "--target", target, *share, "--keep", str(given.keep)]
        status = subprocess.run(command).returncode
        if status not in (0, 1):
            print(f"FINDING {target}: exit status {status} ({given.keep}/{target}-current)")
        bad += status != 0
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
