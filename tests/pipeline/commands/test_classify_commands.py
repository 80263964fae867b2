"""classify and evaluate in the flow of the real job, and the commands around them."""

import json
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from normpipe.stages.classification.scores.score_files import read_scores
from normpipe.stages.sources.sample_faces import sample_list

from ...stages.classification.faces import count_openings
from ..calling import call, refused
from ..layouts import saved

SHORT = [
    *("--set", "classify.least_steps=2"),
    *("--set", "classify.epochs=1"),
    *("--set", "classify.batch_size=8"),
    *("--set", "classify.workers=0"),
    *("--set", "classify.threads=1"),
    *("--set", "classify.preset=small"),
]


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The samples, run with their labels to the end."""
    folder = tmp_path_factory.mktemp("job")
    photographs = sample_list(folder / "photographs")
    result = call("run", *_run(photographs, folder / "out"))
    assert result.exit_code == 0, result.output
    assert "accuracy" in result.stdout and "test faces" in result.stdout
    return folder / "out"


def _run(photographs: Path, output: Path) -> list[str]:
    levels = "ingest.au_columns=intensity"
    return ["--input", str(photographs), "--output", str(output), "--set", levels, *SHORT]


def test_run_ends_with_scores_and_a_second_run_redoes_nothing(job: Path) -> None:
    model = job / "classify/classifier.safetensors"
    card = read_scores(job / "classify/scores").card
    assert card.kind == "emotion" and card.split == "split test" and card.epoch_rule == "last"
    labels = pq.read_table(job / "labels.parquet").to_pylist()
    tests = [row for row in labels if row["split"] == "test" and row["emotion"]]
    # Those that no detector found are tested, too.
    assert card.coverage.test_rows == len(tests)
    assert card.coverage.kept + sum(card.coverage.by_reason.values()) == len(tests)
    before = model.stat().st_mtime_ns, (job / "classify/scores/scores.json").read_bytes()
    again = call("run", *_run(job.parent / "photographs/labels.csv", job))
    assert again.exit_code == 0 and "accuracy" in again.stdout
    after = model.stat().st_mtime_ns, (job / "classify/scores/scores.json").read_bytes()
    assert after == before
    assert call("verify", job).exit_code == 0


def test_the_page_of_a_score_shows_experts_and_confusion(job: Path) -> None:
    page = (job / "classify/scores/index.html").read_text(encoding="utf-8")
    assert "data:image/png;base64," in page and "Confusion" in page and "mean class" in page


def test_other_settings_are_refused_until_overwrite(job: Path) -> None:
    arguments = [*_run(job.parent / "photographs/labels.csv", job), "--set", "classify.seed=5"]
    refused(call("run", *arguments), "other settings (classify.seed: 0 → 5)", "--overwrite")
    refused(call("run", *arguments, "--stage", "classify"), "--overwrite")
    assert saved(job)["classify"]["seed"] == 0


def test_later_commands_need_no_settings_again(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = job / "classify/classifier.safetensors"
    before = model.stat().st_mtime_ns, (job / "job.toml").read_bytes()
    assert saved(job)["classify"]["epochs"] == 1
    openings = count_openings(monkeypatch)
    for command in ("run", "classify"):
        again = call(command, job)
        assert again.exit_code == 0 and "accuracy" in again.stdout, again.output
    assert openings == [job, job]  # each command once
    assert (model.stat().st_mtime_ns, (job / "job.toml").read_bytes()) == before


def test_what_a_classifier_is_trained_with_is_saved(job: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(job, out)
    done = call("run", out, "--stage", "classify", "--set", "classify.minutes=1e-9", "--overwrite",
                "--set", "classify.seed=5")  # fmt: skip
    assert done.exit_code == 3, done.output
    assert "classify.seed: 0 → 5 (the old value" in done.stderr
    assert saved(out)["classify"]["seed"] == 5 and "minutes" not in saved(out)["classify"]
    done = call("run", out, "--stage", "classify", "--overwrite")
    assert done.exit_code == 0, done.output
    done = call("classify", out, "--overwrite", "--set", "classify.seed=6")
    assert done.exit_code == 0, done.output
    assert saved(out)["classify"]["seed"] == 6 and "→" not in call("run", out).stderr
    # A model elsewhere begins from the same settings, and changes nothing here.
    other = ("--output", tmp_path / "model", "--set", "classify.seed=7")
    assert call("classify", out, *other).exit_code == 0
    card = json.loads((tmp_path / "model/classifier.json").read_bytes())
    assert card["about"]["settings"]["epochs"] == 1 and card["about"]["settings"]["seed"] == 7
    assert saved(out)["classify"]["seed"] == 6


def test_new_labels_leave_the_model_as_it_was_and_say_so(job: Path, tmp_path: Path) -> None:
    photographs = sample_list(tmp_path / "photographs")
    assert call("run", *_run(photographs, tmp_path / "out")).exit_code == 0
    model = tmp_path / "out/classify/classifier.safetensors"
    before = model.read_bytes()
    text = photographs.read_text().replace(
        "person01_neutral.jpg,person01,train,neutral", "person01_neutral.jpg,person01,train,anger"
    )
    photographs.write_text(text)
    again = call("run", *_run(photographs, tmp_path / "out"))
    assert again.exit_code == 0, again.output
    assert "left as it was" in again.stderr and "--overwrite" in again.stderr
    assert model.read_bytes() == before
    stage = ("--stage", "classify")
    refused(call("run", *_run(photographs, tmp_path / "out"), *stage), "labels or pictures")


def test_until_pair_leaves_classifiers_out(tmp_path: Path) -> None:
    photographs = sample_list(tmp_path / "photographs")
    result = call("run", *_run(photographs, tmp_path / "out"), "--until", "pair")
    assert result.exit_code == 0 and not (tmp_path / "out/classify").exists()
    # Evaluating alone needs a model.
    stage = call("run", *_run(photographs, tmp_path / "out"), "--stage", "evaluate")
    refused(stage, "no classifier", "normpipe classify")


def test_labels_that_do_not_allow_it_are_said_and_stop_nobody(job: Path, tmp_path: Path) -> None:
    photographs = tmp_path / "faces.csv"
    pictures = job.parent / "photographs"
    names = ["person01_neutral.jpg", "person01_happiness.jpg"]
    root = ["--set", f"ingest.root={pictures}"]
    photographs.write_text("path,split\n" + "".join(f"{name},train\n" for name in names))
    result = call("run", *_run(photographs, tmp_path / "out"), *root)
    assert result.exit_code == 0, result.output
    assert "classify: left out: nothing to learn" in result.stderr
    asked = call("run", *_run(photographs, tmp_path / "out"), *root, "--stage", "classify")
    refused(asked, "nothing to learn")


def test_folds_another_dataset_and_evaluate_each_by_one_flag(job: Path, tmp_path: Path) -> None:
    short = [*SHORT, "--set", 'classify.labels=["neutral","happiness"]']
    folds = call("classify", job, "--output", tmp_path / "folds", "--folds", "2", *short)
    assert folds.exit_code == 0, folds.output
    assert "mean of the folds" in folds.stdout
    assert f"with a page each: {tmp_path / 'folds'}" in folds.stdout
    for page in ("scores", "fold-1/scores", "fold-2/scores"):
        assert (tmp_path / "folds" / page / "index.html").is_file()
    pooled = read_scores(tmp_path / "folds/scores")
    assert pooled.card.folds is not None and set(pooled.card.folds["full"].each) == {1, 2}
    keys = pooled.predictions["key"].to_pylist()
    assert len({*keys}) == len(keys)
    cross = call("classify", job, "--output", tmp_path / "cross", "--test", job, *short)
    assert cross.exit_code == 0, cross.output
    assert "cross-dataset" in cross.stdout
    done = call("evaluate", tmp_path / "cross", "--data", job, "--output", tmp_path / "scores",
                "--by", "split")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert re.search(r"accuracy by split: test .* % \(\d faces\), train ", done.stdout)
    wrong = call("classify", job, "--output", tmp_path / "none", "--by", "spilt", *short)
    refused(wrong, "no column 'spilt' to group by", "did you mean 'split'")
    assert not (tmp_path / "none/classifier.safetensors").exists()
    table = call("compare", tmp_path / "scores", tmp_path / "scores")
    assert table.exit_code == 0, table.output


def test_saved_folds_bind_no_command_that_takes_none(job: Path, tmp_path: Path) -> None:
    """The commands of docs/classifying.md work one after the other."""
    out = shutil.copytree(job, tmp_path / "out", ignore=shutil.ignore_patterns("classify"))
    short = [*SHORT, "--set", 'classify.labels=["neutral","happiness"]']
    assert call("classify", out, "--folds", "2", *short).exit_code == 0
    assert saved(out)["classify"]["folds"] == "2"
    arms = ['ablate.arms=["original"]', "ablate.seeds=[0]", 'ablate.heads=["mixture"]']
    table = call("ablate", out, *(word for arm in arms for word in ("--set", arm)))
    assert table.exit_code == 0 and "test faces" not in table.stdout, table.output
    both = call("classify", out, "--folds", "2", "--test", job)
    refused(both, "exclude each other")
    cross = call("classify", out, "--test", job)
    assert cross.exit_code == 0 and "cross-dataset" in cross.stdout, cross.output
    assert call("classify", out, "--folds", "2").exit_code == 0
    one = call("classify", out, "--output", tmp_path / "one", "--folds", "")
    assert one.exit_code == 0 and "split test" in one.stdout, one.output


def test_paper_style_stands_beside_and_never_as_the_headline(job: Path, tmp_path: Path) -> None:
    output = tmp_path / "model"
    style = ["--set", "classify.paper_style=true", "--set", "classify.epochs=3"]
    result = call("classify", job, "--output", output, *SHORT, *style)
    assert result.exit_code == 0, result.output
    card = read_scores(output / "scores").card
    epochs = json.loads((output / "epochs.json").read_text())
    assert [row["epoch"] for row in epochs] == [1, 2, 3]
    assert card.paper_style is not None
    best = card.paper_style["best_epoch_accuracy"]
    assert best == max(row["headline"] for row in epochs)
    assert epochs[-1]["headline"] == pytest.approx(card.scores["full"]["accuracy"])


def test_bad_input_is_one_line(job: Path, tmp_path: Path) -> None:
    output = ["--output", tmp_path / "model"]
    refused(call("classify", tmp_path / "none", *output), "no folder")
    refused(call("classify", job, *output, "--folds", "bp4e", *SHORT), "bp4")
    refused(call("classify", job, *output, "--test-split", "tset", *SHORT), "did you mean 'test'")
    refused(call("classify", job, *output, "--task", "action_units", *SHORT), "nothing to learn")
    wrong = call("classify", job, *output, *SHORT, "--set", 'classify.labels=["hapiness"]')
    refused(wrong, "happiness")
    refused(call("classify", job, *output, "--set", "classify.encoder=x.pth"), "weights x.pth")
    refused(call("evaluate", tmp_path, "--data", job), "no classifier")
    weights = job / "classify/classifier.safetensors"
    refused(call("evaluate", weights, "--data", job), "is not a folder")
    shutil.copy(weights, tmp_path)
    refused(call("evaluate", tmp_path, "--data", job), "no classifier.json", "classify wrote")
    (tmp_path / "classifier.json").write_bytes(b"{")
    refused(call("evaluate", tmp_path, "--data", job), "is damaged")
    labels = pq.read_table(job / "labels.parquet")
    same = pa.array(["one"] * labels.num_rows)
    place = labels.column_names.index("subject")
    aside = (job / "labels.parquet").read_bytes()
    try:
        pq.write_table(labels.set_column(place, "subject", same), job / "labels.parquet")
        refused(call("classify", job, *output, *SHORT), "both training and test", "shared_subjects")
    finally:
        (job / "labels.parquet").write_bytes(aside)
