"""The ablation's table: arithmetic on constructed predictions, and one tiny run."""

import json
from dataclasses import replace

import numpy as np
import pytest
from filelock import FileLock

from normpipe.pipeline.errors import InputError, OutputError
from normpipe.stages.classification import ablate as module
from normpipe.stages.classification.ablate import ablate, subset
from normpipe.stages.classification.scores.ablation import Run, tabulate
from normpipe.stages.classification.scores.figure_text import from_start
from normpipe.stages.classification.scores.score_files import ScoreFile, read_scores
from normpipe.stages.classification.settings import AblateConfig
from normpipe.stages.classification.tasks import people_of
from normpipe.stages.metrics.resampling import Draws

from .classification.faces import Face, opened, write_faces
from .classification.toys import EMOTIONS, TASKS, card, drawn, table
from .classification.training import easy_faces, settings

ROWS, SEEDS = 60, (0, 1)


def run_with(task, truth, predicted, **more):
    predictions = table(task, truth, predicted, **more)
    return ScoreFile(card(task, predictions), predictions)


def right_in(share, seed):
    """Predictions of emotions that are right in a share of the rows, and which rows."""
    truth, _ = drawn(EMOTIONS, ROWS, 7)
    right = np.random.default_rng(seed).random(ROWS) < share
    predicted = np.where(right, truth, (truth + 1) % 3).astype(int)
    return truth, np.eye(3)[predicted], right


ARMS = {"original": 0.5, "normalized": 0.6, "original+original": 0.55, "original+normalized": 0.9}


@pytest.fixture(scope="module")
def made():
    found, right = {}, {}
    for place, (arm, share) in enumerate(ARMS.items()):
        for head in ("mixture", "dense"):
            for seed in SEEDS:
                truth, predicted, rows = right_in(
                    share, 10 * place + seed + 100 * (head == "dense")
                )
                lost = {0: "no_face"} if head == "dense" else None
                found[Run(40, arm, head, seed)] = run_with(EMOTIONS, truth, predicted, lost=lost)
                right[40, arm, head, seed] = rows
    return found, right


@pytest.fixture(scope="module")
def result(made):
    config = AblateConfig(arms=tuple(ARMS), seeds=SEEDS, resamples=200)
    return tabulate(config, EMOTIONS, made[0])


def by_hand(rows, weights):
    """Accuracy of each draw of people, (R,)."""
    return (weights * rows).sum(1) / weights.sum(1)


def people_in(found):
    rows = next(iter(found.values())).predictions
    return np.array(people_of(rows["subject"].to_pylist(), rows["key"].to_pylist()))


def test_cells(made, result):
    found, right = made
    assert result.headline == "accuracy" and result.test_rows == ROWS and result.people == 5
    assert len(result.cells) == 8
    weights = Draws(people_in(found), 200).all_weights()
    for cell in result.cells:
        rows = [right[40, cell.arm, cell.head, seed] for seed in SEEDS]
        assert cell.each == pytest.approx([one.mean() for one in rows])
        assert cell.value == pytest.approx(np.mean(rows))
        drawn_means = np.mean([by_hand(one, weights) for one in rows], 0)
        assert (cell.low, cell.high) == pytest.approx(np.quantile(drawn_means, [0.025, 0.975]))
        first = 1 if cell.head == "dense" else 0
        assert cell.kept == pytest.approx(np.mean([one[first:] for one in rows]))


def test_contrasts_are_paired_differences(made, result):
    found, right = made
    weights = Draws(people_in(found), 200).all_weights()
    cells = {(cell.arm, cell.head): cell.value for cell in result.cells}
    wanted = {
        ("both views - the original twice", head): (("original+normalized", head),
                                                    ("original+original", head))
        for head in ("mixture", "dense")
    }  # fmt: skip
    wanted |= {
        ("normalized - original", head): (("normalized", head), ("original", head))
        for head in ("mixture", "dense")
    }
    wanted["mixture - dense, both views", ""] = (
        ("original+normalized", "mixture"), ("original+normalized", "dense"),
    )  # fmt: skip
    assert {(c.name, c.head) for c in result.contrasts} == wanted.keys()
    for contrast in result.contrasts:
        ours, other = wanted[contrast.name, contrast.head]
        assert contrast.value == pytest.approx(cells[ours] - cells[other])
        gaps = np.mean(
            [by_hand(right[40, *ours, s], weights) - by_hand(right[40, *other, s], weights)
             for s in SEEDS], 0,
        )  # fmt: skip
        ends = np.quantile(gaps, [0.025, 0.975])
        assert (contrast.low, contrast.high) == pytest.approx(ends)


def test_equal_predictions_differ_by_nothing():
    truth, predicted, _ = right_in(0.6, 0)
    run = run_with(EMOTIONS, truth, predicted)
    found = {Run(9, arm, "dense", 0): run for arm in ("normalized", "original")}
    config = AblateConfig(seeds=(0,), resamples=50)
    (contrast,) = tabulate(config, EMOTIONS, found).contrasts
    assert (contrast.value, contrast.low, contrast.high) == (0, 0, 0)


@pytest.mark.parametrize("kind", TASKS)
def test_every_kind_is_tabled_and_drawn(kind, tmp_path):
    """People None: every face is a person; a perfect score lies at the end of its interval."""
    task, found = TASKS[kind], {}
    for size in (10, 20):
        for arm in ("original", "original+normalized"):
            for seed in (0, 1, 2):
                truth, predicted = drawn(task, 30, seed=3)
                if arm != "original":
                    predicted = np.eye(3)[truth.astype(int)] if kind == "emotion" else truth
                found[Run(size, arm, "mixture", seed)] = run_with(
                    task, truth, predicted, people=None
                )
    result = tabulate(AblateConfig(resamples=30), task, found)
    assert result.people == 30
    result.write(tmp_path)
    saved = json.loads((tmp_path / "ablation.json").read_text(), parse_constant=pytest.fail)
    assert [cell["size"] for cell in saved["cells"]] == [10, 10, 20, 20]
    assert saved["cells"][1]["value"] == pytest.approx(1)
    assert (tmp_path / "ablation.png").stat().st_size > 5000
    text = (tmp_path / "ablation.md").read_text()
    assert text == result.text() + "\n"
    assert "10 training faces" in text and "20 training faces" in text
    assert "of 30 people, of whom 30 are inputs without a subject:" in text
    best = "1.000 [1.000, 1.000]" if kind == "intensity" else "100.0 [100.0, 100.0]"
    assert "| the original alone | " in text and best in text
    unit = {"emotion": "accuracy in % on", "action_units": "f1 in % on", "intensity": "icc on"}
    assert f"10 training faces; {unit[kind]} 30 faces" in text


def test_starts_are_tables_of_their_own(made):
    """The first line says what the second view gains from each, as the contrasts do."""
    found = {run._replace(start=start): scores for start in ("random", "a/own.safetensors")
             for run, scores in made[0].items()}  # fmt: skip
    swap = {"original+normalized": "original+original", "original+original": "original+normalized"}
    for run in [run for run in found if run.start == "random" and run.arm in swap]:
        found[run] = made[0][run._replace(arm=swap[run.arm], start="")]
    both = tabulate(AblateConfig(resamples=200), EMOTIONS, found)
    first, *rest = both.text().split("\n\n")
    gain = next(c for c in both.contrasts if (c.head, c.start) == ("mixture", "random"))
    assert gain.name == "both views - the original twice" and gain.high < 0
    assert first.startswith("Both views are better than the original twice in 1 of 2 comparisons, "
                            "worse in 1 (95 % intervals without 0): ")  # fmt: skip
    words = f"{100 * gain.value:+.1f} [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]"
    assert f"{words} with 40 faces from random weights" in first
    assert "40 training faces from own; accuracy" in rest[0]
    assert from_start("a/compact-0.1.0") == from_start("compact-0.1.0.pth") == " from compact-0.1.0"
    assert len(both.cells) == 16 and "faces from random weights; accuracy" in both.text()


def test_a_value_outside_its_interval_is_drawn(result, tmp_path):
    odd = [replace(cell, low=cell.value + 0.01, high=cell.value + 0.02) for cell in result.cells]
    replace(result, cells=tuple(odd)).write(tmp_path)
    assert (tmp_path / "ablation.png").is_file()


def test_the_text_has_each_head_in_a_column(result):
    lines = result.text().splitlines()
    assert "| views | mixture | dense |" in lines
    assert sum(line.startswith("| both views - the original twice | ") for line in lines) == 2
    cell = next(c for c in result.cells if (c.arm, c.head) == ("original", "dense"))
    (line,) = [line for line in lines if line.startswith("| the original alone")]
    assert line.split("|")[3].strip().startswith(f"{100 * cell.value:.1f} [")


def test_a_smaller_set_lies_within_a_larger():
    rows = np.arange(100, 160)
    for seed in range(3):
        sets = [subset(rows, size, seed) for size in (5, 20, 60)]
        assert [len(one) for one in sets] == [5, 20, 60]
        assert {*sets[0]} < {*sets[1]} < {*sets[2]} == {*rows}
        assert all((np.diff(one) > 0).all() for one in sets)
    assert subset(rows, 20, 0).tolist() == subset(rows, 20, 0).tolist()
    assert subset(rows, 20, 0).tolist() != subset(rows, 20, 1).tolist()


QUICK = settings(least_steps=2)


def test_a_tiny_run_and_nothing_twice(easy, tmp_path):
    config = AblateConfig(
        arms=("original", "original+normalized"), heads=("mixture",), seeds=(0,), sizes=(20, 38),
        resamples=20, by="emotion",
    )  # fmt: skip
    found = ablate(config, QUICK, opened(easy), tmp_path)
    assert {(cell.size, cell.arm) for cell in found.cells} == {
        (size, arm) for size in (20, 38) for arm in ("original", "original+normalized")
    }
    assert found.test_rows == 20 and found.people == 5 and not found.without_subject
    assert {*found.groups} == {"neutral", "happiness", "surprise"}
    assert sum(group.test_rows for group in found.groups.values()) == 20
    assert any("cannot be checked" in note for note in found.warnings)  # of the toys' shards
    assert found.text().startswith("warning: ")
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {
        f"{cell.size}-{cell.arm}-mixture-seed0" for cell in found.cells
    }
    cards = [
        json.loads(p.read_text()) for p in sorted((tmp_path / "runs").rglob("classifier.json"))
    ]
    assert [card["trained_on"]["faces"] for card in cards] == [20, 20, 38, 38]
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").rglob("*") if p.is_file()}
    assert ablate(config, QUICK, opened(easy), tmp_path) == found
    assert {p: p.stat().st_mtime_ns for p in times} == times


def test_the_same_trainings_are_scored_elsewhere(easy, tmp_path, monkeypatch):
    """On all faces of another dataset, by a table that names it; nothing is trained again."""
    config = AblateConfig(
        arms=("original", "original+normalized"), heads=("mixture",), seeds=(0,), sizes=(20,),
        resamples=20,
    )  # fmt: skip
    here = ablate(config, QUICK, opened(easy), tmp_path)
    models = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").rglob("*.safetensors")}
    faces = [Face(f"other/{n}.png", {"emotion": name}) for n, name in enumerate(ELSEWHERE)]
    faces[1].status, faces[1].reason = "rejected", "no_face"
    other = write_faces(tmp_path / "other", faces)
    there = ablate(config, QUICK, opened(easy), tmp_path, test=(opened(other), ""))
    assert {p: p.stat().st_mtime_ns for p in models} == models
    assert there.tested == "other" and there.test_rows == there.people == 4
    assert "20 training faces; accuracy in % on 4 faces of other of 4 people" in there.text()
    for arm in config.arms:
        scores = read_scores(tmp_path / "runs" / f"20-{arm}-mixture-seed0" / "scores-other")
        assert scores.predictions["key"].to_pylist() == [face.key for face in faces]
        (cell,) = [cell for cell in there.cells if cell.arm == arm]
        assert cell.value == scores.card.scores["full"]["accuracy"] <= 0.75  # contempt is wrong
    saved = json.loads((tmp_path / "ablation-other.json").read_text())
    assert saved["tested"] == "other"
    assert (tmp_path / "ablation.md").read_text() == here.text() + "\n"


def test_the_same_faces_train_without_duplicates_wherever_it_is_scored(tmp_path):
    faces = [Face(key, labels, original=one, normalized=two)
             for key, labels, one, two in easy_faces(9)]  # fmt: skip
    for number, face in enumerate(faces):
        face.source = f"s{number}"
    faces[0].source = faces[30].source  # the last twelve test
    data = write_faces(tmp_path / "data", faces)
    foreign = [
        Face("other/a.png", {"emotion": "neutral"}), Face("other/b.png", {"emotion": "anger"})
    ]  # fmt: skip
    foreign[0].source, foreign[1].source = "s99", "s98"
    other = write_faces(tmp_path / "other", foreign)
    config = AblateConfig(arms=("original",), heads=("mixture",), seeds=(0,), sizes=(20,))
    recipe = QUICK.model_copy(update={"drop_duplicates": True})
    ablate(config, recipe, opened(data), tmp_path / "made")
    (model,) = (tmp_path / "made/runs").rglob("classifier.safetensors")
    before = model.stat().st_mtime_ns
    ablate(config, recipe, opened(data), tmp_path / "made", test=(opened(other), ""))
    assert model.stat().st_mtime_ns == before
    # A picture of the other dataset does not train either: that is another training.
    foreign[0].source = "s3"
    other = write_faces(tmp_path / "third", foreign)
    with pytest.raises(OutputError, match=r"other (labels|settings)"):
        ablate(config, recipe, opened(data), tmp_path / "made", test=(opened(other), ""))


ELSEWHERE = ("neutral", "happiness", "surprise", "contempt")


def test_what_cannot_be_is_said_before_anything_is_trained(easy, tmp_path, monkeypatch):
    def never(*_, **__):
        raise AssertionError("trained")

    monkeypatch.setattr(module, "train", never)
    for config, recipe, words in (
        ({"sizes": (39,)}, QUICK, "asks for 39 faces, but 38"),
        ({"sizes": (38, 0)}, QUICK, "asks for 0 faces"),
        ({"sizes": (38, 2)}, QUICK, "no example of"),
        ({"by": "emotoin"}, QUICK, "no column 'emotoin' to group by; did you mean 'emotion'"),
        ({"starts": ("a/one.pth", "b/one.safetensors")}, QUICK, "several files 'one'"),
        ({"starts": ("compact",)}, QUICK, "preset = 'small' always starts from random weights"),
        ({}, settings(folds="2"), "one split"),
        ({}, settings(devices=2), "one process"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            ablate(AblateConfig(**config), recipe, opened(easy), tmp_path)
        assert "\n" not in str(caught.value)


def test_starts_and_full_sizes(easy, tmp_path):
    recipe = settings(least_steps=2, preset="compact")
    config = AblateConfig(
        arms=("original",), heads=("mixture", "dense"), seeds=(0, 1), sizes=(20, 38),
        full_sizes=(20,), starts=("random", "compact"), resamples=20,
    )  # fmt: skip
    found = ablate(config, recipe, opened(easy), tmp_path)
    assert {(cell.size, cell.start, cell.head, len(cell.each)) for cell in found.cells} == {
        *((20, start, head, 2) for start in config.starts for head in config.heads),
        *((38, start, "mixture", 1) for start in config.starts),
    }
    for path in (tmp_path / "runs").rglob("classifier.json"):
        start = json.loads(path.read_text())["started_from"]["weights"]
        assert path.parent.name.endswith(f"-{start}")
    for change, words in (
        ({"full_sizes": (30,)}, "full_sizes names 30, which ablate.sizes does not"),
        ({"starts": ("random", "x.safetensors")}, r"no weights 'x\.safetensors'"),
    ):
        with pytest.raises(InputError, match=words):
            ablate(config.model_copy(update=change), recipe, opened(easy), tmp_path)


def test_two_at_once_are_refused(easy, tmp_path):
    with (
        FileLock(tmp_path / ".normpipe.lock"),
        pytest.raises(OutputError, match="another normpipe is running in"),
    ):
        ablate(AblateConfig(), QUICK, opened(easy), tmp_path)
