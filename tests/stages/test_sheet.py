"""Which faces a contact sheet shows."""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from normpipe.pipeline.care.exclude import ListedKeys, exclude
from normpipe.stages.review import sheet

from ..pipeline.calling import call, refused
from .test_job_report import NAMES, job

__all__ = ["job"]  # the fixture


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names on the sheets that are drawn."""
    names: list[str] = []
    real = sheet._compose

    def noted(tiles: list[list[Image.Image | None]], given: list[str]) -> Image.Image:
        names[:] = given
        return real(tiles, given)

    monkeypatch.setattr(sheet, "_compose", noted)
    return names


def draw(root: Path, *arguments: str) -> None:
    done = call("sheet", root, "--variant", "two", *arguments)
    assert done.exit_code == 0, done.output
    with Image.open(io.BytesIO((root / "contact_sheet.jpg").read_bytes())) as picture:
        assert np.asarray(picture).std() > 1


def short(*numbers: int) -> list[str]:
    return [NAMES[number].partition("/")[2] for number in numbers]


def test_a_status(job: Path, drawn: list[str]) -> None:
    draw(job, "--rows", "4")
    assert drawn == short(0, 147, 296, 445) or len(drawn) == 4
    draw(job, "--status", "rejected", "--rows", "100")
    assert drawn == sorted(short(7, 20, *range(57, 603, 50)), key=[n[2:] for n in NAMES].index)


def test_a_label(job: Path, drawn: list[str]) -> None:
    draw(job, "--label", "fear", "--rows", "3")
    assert {*drawn} <= {*short(*range(0, 603, 3))}
    draw(job, "--label", "split=train", "--rows", "3")
    assert {*drawn} <= {*short(*range(1, 603, 2))}
    refused(call("sheet", job, "--variant", "two", "--label", "fera"), "did you mean 'fear'")
    refused(call("sheet", job, "--variant", "two", "--label", "splt=train"), "did you mean 'split'")


def test_an_order(job: Path, drawn: list[str]) -> None:
    draw(job, "--sort", "sharpness", "--rows", "3")
    assert drawn == short(0, 1, 2)
    draw(job, "--sort=-sharpness", "--label", "fear", "--rows", "3")
    assert drawn == short(600, 597, 594)
    refused(
        call("sheet", job, "--variant", "two", "--sort", "sharpnes"), "did you mean 'sharpness'"
    )
    refused(call("sheet", job, "--variant", "two", "--sort", "bbox_xyxy"), "has no order")


def test_excluded_faces_are_on_no_sheet_but_their_own(
    job: Path, drawn: list[str], tmp_path: Path
) -> None:
    copy = shutil.copytree(job, tmp_path / "out", ignore=shutil.ignore_patterns("report"))
    exclude(copy, ListedKeys("list", dict.fromkeys(NAMES[:2], "")))
    draw(copy, "--sort", "sharpness", "--rows", "2")
    assert drawn == short(2, 3)
    draw(copy, "--status", "excluded")
    assert drawn == short(0, 1)
    refused(call("sheet", copy, "--variant", "two", "--status", "failed"), "has no failed rows")
    refused(call("sheet", copy, "--variant", "two", "--status", "okay"), "did you mean 'ok'")
