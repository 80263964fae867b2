"""The judge's page and JSON: every figure, every verdict, nothing left out in silence."""

import base64
import json
import re
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from normpipe.pipeline.errors import NormpipeError
from normpipe.stages.judging.figures import Figure
from normpipe.stages.judging.judge_page import SECTIONS, JudgeReport, pick, picture_grid

from ...browsing import rendered


@pytest.fixture
def report():
    red = np.zeros((3, 64, 64, 3), np.uint8)
    red[..., 0] = 200
    return JudgeReport(
        model={"name": "compact <b>", "sha256": "ab" * 32},
        figures=[
            Figure("transfer", "happiness", 0.8125, 0.75, 0.9, "lfw", 120, ">= 0.8", "norm → norm"),
            Figure("transfer", "sadness", 0.5, goal=">= 0.95"),
            Figure("constancy", "yaw", float("nan"), goal="<= 1.2", note="no face found"),
        ],
        missing={"crossed": "give --crossed SET"},
        grids=[picture_grid("Photographs", [("original", red)])],
    )


def test_json_holds_every_figure_and_says_what_is_missing(report, tmp_path):
    report.write(tmp_path)
    found = json.loads((tmp_path / "judge.json").read_text())
    assert [f["met"] for f in found["figures"]] == [True, False, None]
    assert found["figures"][2]["value"] is None
    assert found["not_measured"] == {"crossed": "give --crossed SET"}


class Cells(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.rows, self.images = [], [], []

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "img":
            self.images.append(dict(attrs)["src"])
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th", "span") and self.rows:
            self.rows[-1][-1] += data.strip()


def test_the_page_is_whole_and_shows_pictures(report):
    parser = Cells()
    page = report.page()
    parser.feed(page)
    assert not parser.open  # every tag is closed
    assert "compact &lt;b&gt;" in page and "compact <b>" not in page
    rows = [row for row in parser.rows if row[0] == "transfer: happiness"]
    assert rows == [["transfer: happiness", "lfw", "0.812", "[0.750,\n0.900]", ">= 0.8", "met"]]
    verdicts = {row[0]: row[-1] for row in parser.rows}
    assert verdicts["transfer: sadness"] == "missed"
    assert verdicts["constancy: yaw"] == "not defined"
    assert all(question in page for question in SECTIONS.values())
    assert "Not measured: give --crossed SET" in page
    assert "http" not in re.sub(r"data:[^\"]+", "", page)  # nothing is loaded from elsewhere
    data = base64.b64decode(parser.images[0].partition(",")[2])
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (112, 336, 3) and abs(int(picture[50, 50, 2]) - 200) < 4


def test_the_table_names_verdicts_and_gaps(report):
    text = report.table()
    assert re.search(r"happiness \(lfw\) +0\.812 \[0\.750, 0\.900\] goal >= 0\.8: met", text)
    assert "goal >= 0.95: MISSED" in text and "not measured: give --crossed SET" in text


def test_a_section_nobody_knows_is_an_error(tmp_path):
    with pytest.raises(NormpipeError, match="unknown sections: beauty"):
        JudgeReport({"name": "x"}, [Figure("beauty", "x", 1.0)]).write(tmp_path)


def test_picked_places_are_spread_and_within():
    assert pick(100, 5) == [0, 24, 49, 74, 99] and pick(2, 5) == [0, 1]


def test_a_real_browser_lays_the_page_out(report, tmp_path):
    report.write(tmp_path)
    dom = rendered(tmp_path / "index.html", tmp_path / "profile")
    assert dom.count("<tr>") == (1 + 3) + (1 + 2) + (1 + 1) and '<h2 id="goals">Goals</h2>' in dom
