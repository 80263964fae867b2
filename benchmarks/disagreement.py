"""How do our five points differ from SCRFD's? Distances in percent of SCRFD's eye distance.

    python benchmarks/disagreement.py --renders RENDERS

On photographs: ours to SCRFD's, by emotion; the same without each point's median offset (a bound,
as the offsets are fitted on the photographs); SCRFD's of the mirror image to SCRFD's; YuNet's to
SCRFD's. On RENDERS (heads with a margin: ``synthesize.framing = "snapshot"``), where exact points
are known: the exact ones, and ours, to SCRFD's, by the strength of the smile. The columns: number
of pictures; the median over them of the mean of the five distances; median offsets x and y, to the
right and down in the upright face, of both eyes, nose, both mouth corners.
"""

import argparse
import csv
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pyarrow.parquet as pq
from numpy.typing import NDArray

from normpipe.stages.align import AlignConfig, choose, make_detector
from normpipe.stages.faces.pixels import Limits, decode
from normpipe.stages.networks.landmarks import FIVE_OF_68

YUNET_PX = 640
SMILES = ((0.0, 0.02), (0.02, 0.3), (0.3, 0.6), (0.6, 1.01))


def points(config: AlignConfig, blobs: list[bytes], mirror: bool = False) -> NDArray:
    """Return (N, 5, 2) points of the largest face, NaN without one."""
    detector = make_detector(config, 1)
    detector.open()
    found = np.full((len(blobs), 5, 2), np.nan)
    for row, blob in enumerate(blobs):
        picture = decode(blob, Limits())
        seen = np.ascontiguousarray(picture[:, ::-1]) if mirror else picture
        (faces,) = detector.detect([detector.prepare(seen, {})])
        sure = [face for face in faces if (face.score or 0) >= config.threshold]
        if sure:
            height, width = picture.shape[:2]
            marks = np.array(choose(sure, "largest", width, height)[0].landmarks)
            found[row] = [width, 0] - marks[[1, 0, 2, 4, 3]] * [1, -1] if mirror else marks
    detector.close()
    return found


def yunet(file: Path, blobs: list[bytes]) -> NDArray:
    """Return (N, 5, 2) points of the best face on a canvas twice the picture."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(str(file), options)
    names = [one.name for one in session.get_outputs()]
    found = np.full((len(blobs), 5, 2), np.nan)
    for row, blob in enumerate(blobs):
        picture = cv2.cvtColor(decode(blob, Limits()), cv2.COLOR_RGB2BGR)
        pad = max(picture.shape[:2]) // 2
        canvas = cv2.copyMakeBorder(picture, pad, pad, pad, pad, cv2.BORDER_CONSTANT)
        scale = YUNET_PX / np.array([canvas.shape[1], canvas.shape[0]])
        small = cv2.resize(canvas, (YUNET_PX, YUNET_PX), interpolation=cv2.INTER_AREA)
        given = small.transpose(2, 0, 1)[None].astype(np.float32)
        out = dict(
            zip(names, session.run(None, {session.get_inputs()[0].name: given}), strict=True)
        )
        best = 0.5
        for stride in (8, 16, 32):
            sure = np.sqrt(out[f"cls_{stride}"][0, :, 0] * out[f"obj_{stride}"][0, :, 0])
            place = int(sure.argmax())
            if sure[place] > best:
                cell = np.array(divmod(place, YUNET_PX // stride))[::-1]
                marks = (out[f"kps_{stride}"][0, place].reshape(5, 2) + cell) * stride
                best, found[row] = sure[place], marks / scale - pad
    return found


def offsets(ours: NDArray, theirs: NDArray) -> NDArray:
    """Return (N, 5, 2) offsets in the upright face of ``theirs``, percent of their eye distance."""
    across = theirs[:, 1] - theirs[:, 0]
    apart = np.linalg.norm(across, axis=1)[:, None, None]
    x = (across / apart[:, 0])[:, None]
    y = np.stack([-x[..., 1], x[..., 0]], -1)
    away = ours - theirs
    return 100 * np.stack([(away * x).sum(-1), (away * y).sum(-1)], -1) / apart


def show(what: str, away: NDArray) -> None:
    away = away[~np.isnan(away).any((1, 2))]
    middle = np.median(away, 0).round(1)
    mean = np.median(np.linalg.norm(away, axis=2).mean(1))
    print(f"{what:34}{len(away):5}{mean:7.2f}   x {middle[:, 0]} y {middle[:, 1]}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--assets", type=Path, default=Path("../shared"))
    parser.add_argument("--renders", type=Path, required=True)
    parser.add_argument("--every", type=int, default=3, help="use every Nth photograph")
    parser.add_argument("--limit", type=int, default=1200, help="renders")
    args = parser.parse_args()
    pack = str((args.assets / "insightface/models/mini").resolve())
    scrfd = AlignConfig(detector="insightface", pack=pack, device="cpu")
    own = AlignConfig(detector="opencv")

    files = sorted((args.assets / "faces/images").iterdir())[:: args.every]
    with (args.assets / "faces/labels.csv").open(encoding="utf-8") as lines:
        labels = {row["image"]: row["emotion"] for row in csv.DictReader(lines)}
    emotions = np.array([labels[file.name] for file in files])
    blobs = [file.read_bytes() for file in files]
    theirs, ours = points(scrfd, blobs), points(own, blobs)
    away = offsets(ours, theirs)
    show("photographs, ours - SCRFD", away)
    for emotion in ("neutral", "happiness", "surprise", "anger", "sadness"):
        show(f"  {emotion}", away[emotions == emotion])
    show("  without median offsets", away - np.nanmedian(away, 0))
    mirrored = points(scrfd, blobs, mirror=True)
    show("SCRFD mirrored - SCRFD", offsets(mirrored, theirs))
    show("ours - mean of both SCRFD", offsets(ours, (theirs + mirrored) / 2))
    other = yunet(args.assets / "yunet/yunet_n_dynamic.onnx", blobs)
    show("YuNet - SCRFD", offsets(other, theirs))
    show("ours - YuNet", offsets(ours, other))

    rows = []
    for shard in sorted((args.renders / "pairs").glob("shard-*.parquet")):
        table = pq.read_table(shard, columns=["status", "image", "expression", "landmarks68"])
        names = table.schema.metadata[b"expression_names"].decode().split(",")
        rows += [row for row in table.to_pylist() if row["status"] == "ok"]
    rows = rows[: args.limit]
    blobs = [row["image"]["bytes"] for row in rows]
    exact = FIVE_OF_68 @ np.array([row["landmarks68"] for row in rows], float).reshape(-1, 68, 2)
    smile = [i for i, name in enumerate(names) if name.startswith("mouthSmile")]
    smiles = np.array([row["expression"] for row in rows])[:, smile].mean(1)
    theirs, ours = points(scrfd, blobs), points(own, blobs)
    show("renders, exact - SCRFD", offsets(exact, theirs))
    for low, high in SMILES:
        show(f"  smile {low} to {high}", offsets(exact, theirs)[(smiles >= low) & (smiles < high)])
    show("renders, ours - SCRFD", offsets(ours, theirs))
    show("renders, ours - exact", offsets(ours, exact))


if __name__ == "__main__":
    main()
