"""normpipe run on its own output: the saved job needs no settings again."""

import shutil
import tomllib
from pathlib import Path

import pytest

from normpipe.pipeline.care.status import status
from normpipe.pipeline.store.job_file import saved_settings
from normpipe.stages import CONFIGS

from ...calling import call, refused
from ...layouts import make_old, saved
from ...living import digests


@pytest.fixture
def photos(tmp_path: Path, samples: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("person01_neutral.jpg", "person02_anger.jpg", "person03_happiness.jpg"):
        shutil.copy(samples / name, folder / name)
    return folder


@pytest.fixture
def job(tmp_path: Path, photos: Path) -> Path:
    """Aligned at 96 px, of a folder with one photograph more by now."""
    arguments = ["--set", "align.size_px=96", "--set", "ingest.shard_rows=2", "--until", "align"]
    done = call("run", "--input", photos, "--output", tmp_path / "out", "--limit", 2, *arguments)
    assert done.exit_code == 0, done.stderr
    return tmp_path / "out"


def test_run_out_goes_on_without_settings(job: Path, photos: Path) -> None:
    text = (job / "job.toml").read_text()
    assert str(photos) in text and "# side of the square crop\nsize_px = 96\n" in text
    assert "limit" not in tomllib.loads(text)["ingest"]
    done = call("run", job, "--until", "align")
    assert done.exit_code == 0, done.stderr
    state = status(job)["stages"]
    assert [one["inputs_done"] for one in state[:2]] == [3, 3]  # --limit was of that run
    assert "→" not in done.stderr
    assert (job / "job.toml").read_text() == text


def test_every_way_to_name_the_job(
    job: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = ("--until", "align")
    assert call("run", job / "job.toml", *last).exit_code == 0
    assert call("run", "--input", photos, "--output", job, *last).exit_code == 0
    assert call("run", "--output", job, *last).exit_code == 0
    before = digests(job)
    monkeypatch.chdir(tmp_path)
    assert call("run", "out", *last).exit_code == 0
    shutil.copytree(job, tmp_path / "copy")
    assert call("run", tmp_path / "copy", *last).exit_code == 0
    assert digests(job) == before == digests(tmp_path / "copy")
    # The same job anew; a saved job serves as a job file.
    done = call("run", job / "job.toml", "--output", tmp_path / "anew", *last)
    assert done.exit_code == 0, done.stderr
    assert digests(tmp_path / "anew", "aligned/*") == digests(job, "aligned/*")


def test_a_differing_setting_is_said_refused_and_saved_when_redone(job: Path) -> None:
    other = ("--until", "align", "--set", "align.size_px=64", "--set", "align.quality=90")
    done = call("run", job, *other)
    line = refused(done, "align.size_px: 96 → 64", "align.quality: 95 → 90", f"run {job}'")
    assert "settings" in line
    assert "align.size_px: 96 → 64 (the old value is saved in" in done.stderr
    assert saved(job)["align"]["size_px"] == 96
    assert call("run", job, "--until", "align").exit_code == 0
    assert call("run", job, *other, "--overwrite").exit_code == 0
    assert saved(job)["align"]["size_px"] == 64
    assert "→" not in call("run", job, "--until", "align").stderr


def test_a_users_file_is_a_complete_statement(job: Path, photos: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text(f'input = "{photos}"\noutput = "{job}"\n[ingest]\nshard_rows = 2\n')
    refused(call("run", mine, "--until", "align"), "align.size_px: 96 → 224")


def test_mistakes_are_one_line(job: Path, photos: Path, samples: Path, tmp_path: Path) -> None:
    refused(call("run", photos), "holds no normpipe job", "--input")
    refused(call("run", job, "--output", tmp_path / "x"), "leave --output out")
    refused(call("run", job, "--input", samples), "another job", "job.toml")
    refused(call("run", job, "--dataset", "x"), "another job")
    text = (job / "job.toml").read_text()
    for old, new, words in (
        ("size_px", "sizepx", "did you mean 'size_px'"),
        ("[align]", "[aling]", "did you mean 'align'"),
        ("[align]", "[align", "job.toml cannot be read"),
        ("input =", "imput =", "did you mean 'input'"),
    ):
        (job / "job.toml").write_text(text.replace(old, new, 1))
        refused(call("run", job), words, "job.toml")


def test_paths_hold_from_any_folder(
    photos: Path, tmp_path: Path, random_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(random_weights.parent)
    weights = f"normalize.weights={random_weights.name}"
    done = call("run", "--input", photos, "--output", tmp_path / "out", "--set", weights)
    assert done.exit_code == 0, done.stderr
    monkeypatch.chdir("/")
    assert saved(tmp_path / "out")["normalize"]["weights"] == str(random_weights)
    before = digests(tmp_path / "out")
    assert call("run", tmp_path / "out").exit_code == 0
    assert call("verify", tmp_path / "out").exit_code == 0
    assert call("sheet", tmp_path / "out").exit_code == 0
    after = digests(tmp_path / "out")
    assert {name: after[name] for name in before} == before
    # A variant beside it changes nothing of the job.
    beside = ("--set", "normalize.variant=png", "--set", "normalize.format=png")
    assert call("run", tmp_path / "out", "--stage", "normalize", *beside).exit_code == 0
    assert (tmp_path / "out/normalized/png").is_dir()
    assert digests(tmp_path / "out")["job.toml"] == before["job.toml"]
    assert call("run", tmp_path / "out").exit_code == 0


def test_a_name_that_is_a_file_here_stays_a_name(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "png").mkdir()
    (tmp_path / "cpu").mkdir()
    monkeypatch.chdir(tmp_path)
    arguments = ("--set", "normalize.variant=png", "--set", "normalize.device=cpu")
    out = tmp_path / "out"
    done = call("run", "--input", photos, "--output", out, "--stage", "ingest", *arguments)
    assert done.exit_code == 0, done.stderr
    assert saved(out)["normalize"]["variant"] == "png"
    assert saved(out)["normalize"]["device"] == "cpu"


def test_a_list_that_is_a_link_is_found_again(photos: Path, tmp_path: Path) -> None:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    (shelf / "blob").write_text("path\nperson01_neutral.jpg\n")
    (photos / "faces.csv").symlink_to(shelf / "blob")
    arguments = ("--until", "align")
    out = tmp_path / "out"
    done = call("run", "--input", photos / "faces.csv", "--output", out, *arguments)
    assert done.exit_code == 0, done.stderr
    assert call("run", out, *arguments).exit_code == 0


def test_an_old_folder_is_gone_on_with(job: Path, photos: Path) -> None:
    make_old(job)
    refused(call("run", job, "--until", "align", "--set", "align.size_px=64"), "96 → 64")
    done = call("run", job, "--until", "align")
    assert done.exit_code == 0, done.stderr
    assert saved(job)["align"]["size_px"] == 96 and saved(job)["input"] == str(photos)
    assert not (job / "job.json").exists()


def test_how_labels_were_read_is_not_known_of_an_old_folder(tmp_path: Path, samples: Path) -> None:
    out = tmp_path / "out"
    given = ("--input", samples / "labels.csv", "--output", out, "--stage", "ingest")
    levels = ("--set", "ingest.au_columns=intensity")
    assert call("run", *given, *levels).exit_code == 0
    make_old(out)
    refused(call("run", out, "--stage", "ingest"), "0.1.0", "--input")
    assert call("run", *given, *levels).exit_code == 0
    assert call("run", out, "--stage", "ingest").exit_code == 0
    assert saved(out)["ingest"]["au_columns"] == "intensity"


def test_all_settings_are_saved_with_the_sinks(job: Path) -> None:
    found = saved_settings(job, CONFIGS)
    assert found is not None and list(found) == list(CONFIGS)
    assert "minutes" not in found["classify"]


def test_a_dry_run_is_of_the_saved_job_and_changes_nothing(job: Path) -> None:
    before = digests(job)
    done = call("run", job, "--dry-run", "--until", "align", "--set", "align.quality=90")
    assert done.exit_code == 0, done.stderr
    assert "align.quality: 95 → 90" in done.stderr
    assert digests(job) == before


def test_an_input_that_moved_is_said_in_the_job(job: Path, photos: Path, tmp_path: Path) -> None:
    photos.rename(tmp_path / "moved")
    refused(call("run", job, "--until", "align"), "photos")
    text = (job / "job.toml").read_text().replace(f'"{photos}"', f'"{tmp_path / "moved"}"')
    (job / "job.toml").write_text(text)
    done = call("run", job, "--until", "align")
    assert done.exit_code == 0, done.stderr
    assert saved(job)["dataset"] == "photos"
