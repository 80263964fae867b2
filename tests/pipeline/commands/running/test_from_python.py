"""``normpipe.run``: a job from Python, which leaves the caller's process as it was."""

import logging
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import normpipe
from normpipe.stages.align import Align


def test_a_job_from_python(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for place, name in enumerate(("happiness", "anger", "anger", "happiness", "anger")):
        (photos / name).mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(place).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(photos / name / f"{place}.png")
    (photos / "anger" / "broken.png").write_bytes(b"no picture")
    given = {
        "input": photos,
        "output": tmp_path / "out",
        "ingest": {"class_per_folder": True},
        "align": {"detector": "none", "size_px": 64},
        "run": {"threads": 1},
        "classify": {"preset": "small", "encoder": "random", "least_steps": 1, "epochs": 1},
    }
    before = logging.getLogger("normpipe").handlers[:]
    result = normpipe.run(**given, until="pair")
    assert result.rows["pairs"] == {"ok": 5, "rejected": 0, "failed": 1}
    assert result.reasons == {"not_an_image": 1} and not result.scores and not result.left_out
    assert "aligned" in str(result) and len(result.dataset()) == 5
    assert result.dataset(where="emotion == 'anger'").keys == [
        f"photos/anger/{place}.png" for place in (1, 2, 4)
    ]
    shards = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.parquet")}
    again = normpipe.run(tmp_path / "out")  # goes on; too few people to train on
    assert again.rows == result.rows and "fewer than 5 subjects" not in again.left_out
    assert {p: p.stat().st_mtime_ns for p in shards} == shards
    scored = normpipe.run(tmp_path / "out", stage="classify", classify={"folds": "2"})
    assert 0 <= scored.scores["accuracy"] <= 1 and "accuracy" in str(scored)
    assert logging.getLogger("normpipe").handlers == before
    with pytest.raises(normpipe.OutputError, match=r"align.size_px"):
        normpipe.run(tmp_path / "out", align={"size_px": 80})
    with pytest.raises(normpipe.InputError, match="unknown table 'algn'; did you mean 'align'"):
        normpipe.run(input=photos, output=tmp_path / "new", algn={})
    with pytest.raises(normpipe.InputError, match="give --input PHOTOS"):
        normpipe.run(output=tmp_path / "new")


def test_a_job_is_stopped_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the stop button of a notebook does: the process and its handlers stay."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for place in range(4):
        Image.new("RGB", (64, 64), (60 * place, 80, 90)).save(photos / f"{place}.png")
    given = {
        "input": photos,
        "output": tmp_path / "out",
        "until": "align",
        "align": {"detector": "none", "size_px": 64},
        "run": {"threads": 1},
    }
    prepare, pressed = Align.prepare, threading.Event()

    def press_stop(stage: Align, row: dict[str, object]) -> object:
        if not pressed.is_set():
            pressed.set()
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)
        return prepare(stage, row)

    monkeypatch.setattr(Align, "prepare", press_stop)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(normpipe.Interrupted):
        normpipe.run(**given)
    assert signal.getsignal(signal.SIGINT) is handler
    assert normpipe.run(**given).rows["aligned"]["ok"] == 4
    # In another thread no signal can be handled, and none is.
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(normpipe.run, **given).result().rows["aligned"]["ok"] == 4
