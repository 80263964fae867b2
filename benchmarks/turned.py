"""Measure what the second look does with photographs whose pixels are turned. One command:

    python benchmarks/turned.py [--assets ../shared] [--step N] [--detector opencv]

Each photograph is taken as it is, then turned by 90, 180 and 270 degrees. The reference is what the
detector alone finds in the upright one; a face is *upright* if its five points lie at most a
quarter of the distance between the eyes from the reference's, which were turned with the picture.

wrong      a face was found, and not upright: what would be normalized as rubbish
rejected   no face that makes sense
CPU ms     for an upright photograph, one thread, in memory: the detector alone, and with the looks
"""

import argparse
import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from normpipe.stages.align import AlignConfig, choose, make_detector
from normpipe.stages.faces.detectors import Detection, Detector
from normpipe.stages.faces.detectors.looking import Look, Looking
from normpipe.stages.faces.geometry import apply, quarter_turn
from normpipe.stages.faces.pixels import Limits, decode

RESULTS = Path(__file__).parent / "results" / "turned.json"
TURNS = (0, 90, 180, 270)
#: Mean distance of five points from the reference's, in distances between the reference's eyes.
FARTHEST = 0.25


def face_of(detector: Detector, picture: np.ndarray, threshold: float) -> Detection | None:
    """Return the largest face that the align stage would take."""
    (faces,) = detector.detect([detector.prepare(picture, {})])
    good = [f for f in faces if (f.score or 0) >= threshold and f.trust != "no"]
    return choose(good, "largest", picture.shape[1], picture.shape[0])[0] if good else None


def verdict(face: Detection | None, expected: np.ndarray | None) -> str:
    """Return ``upright``, ``wrong`` or ``rejected``."""
    if face is None:
        return "rejected"
    if expected is None:
        return "no reference"
    apart = np.linalg.norm(expected[1] - expected[0])
    away = np.linalg.norm(face.landmarks - expected, axis=1).mean()
    return "upright" if away <= FARTHEST * apart else "wrong"


def measured(config: AlignConfig, files: list[Path], step: int) -> dict[str, Any]:
    """Return verdicts by turn of one detector, alone and with further looks."""
    alone = make_detector(config, 1)
    looking = Looking(alone, Look(upright=True))
    looking.open()
    counts = {which: {turn: Counter() for turn in TURNS} for which in ("alone", "looking")}
    cpu, lost, wrong = Counter(), [], []
    for number, file in enumerate(files):
        picture = decode(file.read_bytes(), Limits())
        height, width = picture.shape[:2]
        reference = None
        for turn in TURNS if number % step == 0 else TURNS[:1]:
            turned = np.ascontiguousarray(np.rot90(picture, -turn // 90))
            for which, detector in (("alone", alone), ("looking", looking)):
                start = time.process_time()
                face = face_of(detector, turned, config.threshold)
                if turn == 0:
                    cpu[which] += time.process_time() - start
                if turn == 0 and which == "alone":
                    reference = None if face is None else face.landmarks
                place = quarter_turn(width, height, turn)
                expected = None if reference is None else apply(place, reference)
                found = verdict(face, expected)
                counts[which][turn][found] += 1
                if which == "looking" and turn == 0 and expected is not None and found != "upright":
                    lost.append(f"{file.name}: {found}")
                elif which == "looking" and found == "wrong":
                    wrong.append(f"{file.name} by {turn}")
    looking.close()
    return {
        "counts": {w: {t: dict(c) for t, c in turns.items()} for w, turns in counts.items()},
        "cpu_ms": {which: 1e3 * seconds / len(files) for which, seconds in cpu.items()},
        "upright_lost": lost,
        "turned_wrong": wrong,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    assets = Path(os.environ.get("NORMPIPE_TEST_ASSETS", "../shared"))
    parser.add_argument("--assets", type=Path, default=assets)
    parser.add_argument("--pack", type=Path, help="default: insightface/models/mini of the assets")
    parser.add_argument("--detector", action="append", choices=("insightface", "opencv"))
    parser.add_argument("--step", type=int, default=5, help="turn every so many photographs")
    parser.add_argument("--upright-step", type=int, default=1, help="take every so many at all")
    parser.add_argument("--json", type=Path, default=RESULTS)
    args = parser.parse_args()
    pack = (args.pack or args.assets / "insightface/models/mini").resolve()
    files = sorted((args.assets / "faces/images").iterdir())[:: args.upright_step]
    cv2.setNumThreads(1)
    report: dict[str, Any] = {}
    head = ("detector", "turn", "photographs", "upright", "rejected", "wrong")
    print("{:<22} {:>5} {:>12} {:>9} {:>9} {:>7}".format(*head))
    for name in args.detector or ("insightface", "opencv"):
        given = {"pack": str(pack)} if name == "insightface" else {}
        config = AlignConfig(detector=name, device="cpu", **given)
        got = report[name] = measured(config, files, args.step)
        for which, turns in got["counts"].items():
            for turn, counts in turns.items():
                total = sum(counts.values())
                cells = [
                    f"{counts.get(k, 0) / total:.2%}" for k in ("upright", "rejected", "wrong")
                ]
                label = f"{name} {which}"
                print(
                    f"{label:<22} {turn:>5} {total:>12} {cells[0]:>9} {cells[1]:>9} {cells[2]:>7}"
                )
        cpu, lost = got["cpu_ms"], got["upright_lost"]
        print(
            f"{name}: {cpu['alone']:.1f} CPU ms an upright photograph alone, "
            f"{cpu['looking']:.1f} with the looks; upright ones lost: {len(lost)} of {len(files)}"
        )
        print(*(f"    {line}" for line in lost), sep="\n")
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
