"""Measure the detectors' recall, false positives and speed. One command:

    python benchmarks/detection.py [--assets ../shared] [--limit N]

recall        share of photographs with a face above the threshold; ``plain`` is the same network on
              the picture at 640 as in insightface, without the padded canvas
false tiles   tiles of face-free pictures in which a face is found (pictures from scikit-image's
              wheel, so it needs no dataset: cat, motorcycle, retina, moon, text, textures …)
landmarks     distance of the default detector's five points to SCRFD's, in percent of SCRFD's
              distance between the eyes, on photographs where both find a face: mean over the five
              points of each photograph, then the median and the 90th percentile
CPU ms        of the default detector on one core, pictures in memory
images/s      on photographs in memory, detection only: insightface's own loop on the same padded
              canvases, and ours including the resizing, in alternating rounds of one process
CPU ms        of the align stage for a 512 px JPEG, with and without the network, one thread

Rates hold for this machine, if it is idle; their ratio comes from one run.
"""

import argparse
import io
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from skimage import data
from skimage.io import imread

from normpipe.pipeline.run.making import process
from normpipe.stages.align import Align, AlignConfig, choose, make_detector
from normpipe.stages.faces.detectors import Canvas, Detector
from normpipe.stages.faces.detectors.insightface import SIDE_PX
from normpipe.stages.faces.geometry import LANDMARK_NAMES
from normpipe.stages.faces.pixels import Limits, decode

RESULTS = Path(__file__).parent / "results" / "detection.json"
FACE_FREE = (
    "brick.png", "cell.png", "chelsea.png", "clock_motion.png", "coffee.png", "grass.png",
    "gravel.png", "hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png", "page.png",
    "retina.jpg", "rocket.jpg", "text.png",
)  # fmt: skip
TILE_SIDES = (96, 192, 384)
ROUNDS = 5


def tiles() -> list[np.ndarray]:
    """Face-free tiles of three sizes, (S, S, 3) uint8."""
    cut: list[np.ndarray] = []
    for name in FACE_FREE:
        picture = np.asarray(imread(Path(data.__file__).parent / name))
        if picture.ndim == 2:
            picture = np.repeat(picture[:, :, None], 3, axis=2)
        picture = np.ascontiguousarray(picture[:, :, :3])
        for side in TILE_SIDES:
            for top in range(0, picture.shape[0] - side + 1, side):
                for left in range(0, picture.shape[1] - side + 1, side):
                    cut.append(np.ascontiguousarray(picture[top : top + side, left : left + side]))
    return cut


def find(detector: Detector, pictures: list[np.ndarray], threshold: float) -> list[int]:
    """Return the number of faces in each picture."""
    prepared = [detector.prepare(picture, {}) for picture in pictures]
    return [
        sum(face.score is None or face.score >= threshold for face in faces)
        for faces in detector.detect(prepared)
    ]


def recall(config: AlignConfig, files: list[Path], threads: int) -> dict[str, Any]:
    """Return the found, the missed (by name), the several and the false positives of a detector."""
    detector = make_detector(config, threads)
    detector.open()
    counts: list[int] = []
    start = time.perf_counter()
    for first in range(0, len(files), 64):
        pictures = [decode(file.read_bytes(), Limits()) for file in files[first : first + 64]]
        counts += find(detector, pictures, config.threshold)
    seconds = time.perf_counter() - start
    empty = tiles()
    false = find(detector, empty, config.threshold)
    detector.close()
    missed = [file.name for file, count in zip(files, counts, strict=True) if not count]
    return {
        "photographs": len(files),
        "found": len(files) - len(missed),
        "recall": 1 - len(missed) / len(files),
        "missed": missed,
        "several": sum(count > 1 for count in counts),
        "tiles": len(empty),
        "false_tiles": sum(count > 0 for count in false),
        "images_per_s_with_decoding": len(files) / seconds,
    }


def points(config: AlignConfig, files: list[Path]) -> tuple[list[Any], float]:
    """Return the largest face's (5, 2) points in each photograph or None, and CPU ms per image."""
    detector = make_detector(config, 1)
    detector.open()
    found: list[Any] = []
    cpu = 0.0
    for first in range(0, len(files), 64):
        pictures = [decode(file.read_bytes(), Limits()) for file in files[first : first + 64]]
        start = time.process_time()
        results = detector.detect([detector.prepare(picture, {}) for picture in pictures])
        cpu += time.process_time() - start
        for picture, faces in zip(pictures, results, strict=True):
            sure = [face for face in faces if (face.score or 0) >= config.threshold]
            largest = choose(sure, "largest", picture.shape[1], picture.shape[0]) if sure else []
            found.append(largest[0].landmarks if largest else None)
    detector.close()
    return found, 1e3 * cpu / len(files)


def distances(theirs: AlignConfig, files: list[Path]) -> dict[str, Any]:
    """Return the distances of the default detector's points from SCRFD's, and its CPU time."""
    reference, _ = points(theirs, files)
    own, cpu_ms = points(AlignConfig(detector="opencv"), files)
    both = [(a, b) for a, b in zip(own, reference, strict=True) if a is not None and b is not None]
    ours, scrfd = (np.array(part) for part in zip(*both, strict=True))
    apart = np.linalg.norm(scrfd[:, 1] - scrfd[:, 0], axis=1)
    away = 100 * np.linalg.norm(ours - scrfd, axis=2) / apart[:, None]
    each = dict(zip(LANDMARK_NAMES, np.median(away, axis=0).tolist(), strict=True))
    return {
        "photographs": len(both),
        "median_percent": float(np.median(away.mean(1))),
        "p90_percent": float(np.percentile(away.mean(1), 90)),
        "median_percent_frame": float(np.median(away[:, :3].mean(1))),
        "median_percent_of_all_points": float(np.median(away)),
        "median_percent_by_point": each,
        "cpu_ms": cpu_ms,
    }


def rates(config: AlignConfig, pack: Path, files: list[Path], threads: int) -> dict[str, Any]:
    """Return images per second of insightface's loop and of ours, medians of alternating rounds."""
    from insightface.app import FaceAnalysis

    judge = FaceAnalysis(
        name=str(pack), allowed_modules=["detection"], providers=["CPUExecutionProvider"]
    )
    judge.prepare(ctx_id=0, det_thresh=config.threshold, det_size=(SIDE_PX, SIDE_PX))
    detector = make_detector(config, threads)
    detector.open()
    pictures = [decode(file.read_bytes(), Limits()) for file in files]
    canvases: list[np.ndarray] = []
    for picture in pictures:
        canvas = Canvas.centred(picture.shape[1], picture.shape[0], SIDE_PX, config.canvases[0])
        whole = np.zeros((SIDE_PX, SIDE_PX, 3), np.uint8)
        rows = slice(canvas.top_px, canvas.top_px + canvas.height_px)
        columns = slice(canvas.left_px, canvas.left_px + canvas.width_px)
        whole[rows, columns] = canvas.patch(picture)[:, :, ::-1]
        canvases.append(whole)
    theirs, ours = [], []
    for _ in range(ROUNDS):
        theirs.append(timed(lambda: [judge.get(canvas) for canvas in canvases], len(pictures)))
        ours.append(timed(lambda: find(detector, pictures, config.threshold), len(pictures)))
    detector.close()
    rate_theirs, cpu_theirs = (statistics.median(part) for part in zip(*theirs, strict=True))
    rate_ours, cpu_ours = (statistics.median(part) for part in zip(*ours, strict=True))
    return {
        "insightface_images_per_s": rate_theirs,
        "insightface_cpu_ms": cpu_theirs,
        "images_per_s": rate_ours,
        "cpu_ms": cpu_ours,
        "ratio": rate_ours / rate_theirs,
        "threads": threads,
    }


def timed(work: Callable[[], Any], count: int) -> tuple[float, float]:
    """Return images per second, and CPU milliseconds per image."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return count / (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu) / count


def cpu_outside(config: AlignConfig, folder: Path) -> dict[str, float]:
    """Return CPU milliseconds of the align stage for one 512 px JPEG, one thread."""
    path = folder / "detection-512.jpg"
    buffer = io.BytesIO()
    Image.fromarray(data.astronaut()).save(buffer, "JPEG", quality=90)
    path.write_bytes(buffer.getvalue())
    known = {"key": "b/a", "parent_key": "b/a", "status": "ok", "reason": None}
    row = known | {"decided_by": "ingest", "path": path.name}
    stage = Align(config, folder, threads=1)
    stage.open()
    detector: Any = stage._detector
    session = detector._model.session = Clocked(detector._model.session)
    whole, network = [], []
    for _ in range(ROUNDS * 4):
        session.cpu_s = 0.0
        whole.append(timed(lambda: process(stage, [row] * 8), 8)[1])
        network.append(1e3 * session.cpu_s / 8)
    path.unlink()
    total, alone = statistics.median(whole), statistics.median(network)
    return {"cpu_ms": total, "network_ms": alone, "outside_ms": total - alone}


class Clocked:
    """Wraps a single-threaded session and adds up its CPU time."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.cpu_s = 0.0

    def run(self, *given: Any) -> Any:
        start = time.thread_time()
        try:
            return self._session.run(*given)
        finally:
            self.cpu_s += time.thread_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    assets = Path(os.environ.get("NORMPIPE_TEST_ASSETS", "../shared"))
    parser.add_argument("--assets", type=Path, default=assets)
    parser.add_argument("--pack", type=Path, help="default: insightface/models/mini of the assets")
    parser.add_argument("--limit", type=int, help="number of photographs, spread evenly")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", type=Path, default=RESULTS)
    args = parser.parse_args()
    pack = (args.pack or args.assets / "insightface/models/mini").resolve()
    files = sorted((args.assets / "faces/images").iterdir())
    if args.limit:
        files = files[:: max(1, len(files) // args.limit)]
    cv2.setNumThreads(1)

    ours = AlignConfig(detector="insightface", pack=str(pack), device="cpu")
    plain = ours.model_copy(update={"canvases": (1.0,)})
    first = ours.model_copy(update={"canvases": (ours.canvases[0],)})
    cases = {
        f"insightface, canvases {ours.canvases}": ours,
        f"insightface, canvas {first.canvases[0]} alone": first,
        "insightface, plain 640": plain,
        "opencv": AlignConfig(detector="opencv"),
    }
    report: dict[str, Any] = {"threshold": ours.threshold, "recall": {}}
    print(f"{'detector':<36} {'found':>13} {'recall':>8} {'several':>8} {'false tiles':>12}")
    for name, config in cases.items():
        got = report["recall"][name] = recall(config, files, args.threads)
        found, false = f"{got['found']}/{len(files)}", f"{got['false_tiles']}/{got['tiles']}"
        print(f"{name:<36} {found:>13} {got['recall']:>8.2%} {got['several']:>8} {false:>12}")
        if got["recall"] > 0.5:
            print(f"    missed: {', '.join(got['missed'][:12])}{' …' * (len(got['missed']) > 12)}")
    away = report["landmarks"] = distances(ours, files)
    print(
        f"\nopencv's landmarks from SCRFD's, % of the inter-ocular distance: median "
        f"{away['median_percent']:.2f}, 90th percentile {away['p90_percent']:.2f}; eyes and nose "
        f"{away['median_percent_frame']:.2f} ({away['photographs']} photographs)\n    "
        + ", ".join(f"{k} {v:.2f}" for k, v in away["median_percent_by_point"].items())
        + f"\n    {away['cpu_ms']:.1f} CPU ms an image, one thread"
    )
    speed = report["speed"] = rates(ours, pack, files[:: max(1, len(files) // 100)], args.threads)
    print(
        f"\ndetection only, {args.threads} threads: {speed['images_per_s']:.1f} images/s "
        f"({speed['cpu_ms']:.1f} CPU ms); insightface's loop "
        f"{speed['insightface_images_per_s']:.1f} ({speed['insightface_cpu_ms']:.1f} CPU ms); "
        f"ratio {speed['ratio']:.2f}"
    )
    args.json.parent.mkdir(parents=True, exist_ok=True)
    cost = report["cpu"] = cpu_outside(ours, args.json.parent)
    print(
        f"align, one 512 px JPEG: {cost['cpu_ms']:.1f} CPU ms, of them "
        f"{cost['network_ms']:.1f} in the network and {cost['outside_ms']:.1f} outside it"
    )
    args.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
