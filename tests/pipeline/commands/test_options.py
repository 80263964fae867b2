"""Options of the command line: values as they are given, and groups of them."""

import inspect
import shutil
from pathlib import Path

import pytest

from normpipe.pipeline.commands.options import StageOptions, grouped

from ..calling import call, refused
from ..layouts import saved
from ..test_config import AWKWARD


@pytest.mark.parametrize("text", [*AWKWARD, "1", "true", "2024-01-01"])
def test_inputs_and_settings_keep_every_character(tmp_path: Path, samples: Path, text: str) -> None:
    photos = tmp_path / "in" / text
    photos.mkdir(parents=True)
    shutil.copy(samples / "person01_neutral.jpg", photos / "a.jpg")
    arguments = ["run", "--stage", "ingest", "--dataset", "d", "--output", tmp_path / text]
    done = call(*arguments, "--input", photos, "--set", f"normalize.weights={photos}")
    assert done.exit_code == 0, done.stderr
    job = saved(tmp_path / text)
    assert job["input"] == job["normalize"]["weights"] == str(photos)
    again = call("run", tmp_path / text, "--stage", "ingest")
    assert again.exit_code == 0 and "→" not in again.stderr, again.stderr


@pytest.mark.parametrize("text", ["it's", 'a "b" c', "back\\slash", "zoë 😀"])
def test_quotes_in_options_are_said_as_they_are(
    tmp_path: Path, samples: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("normpipe.pipeline.run.cluster._CONNECT_SECONDS", 0.2)
    run = ("run", "--input", samples, "--output", tmp_path / "out", "--limit", 1)
    refused(call(*run, "--scheduler", f"tcp://{text}"), f"answers at tcp://{text} ")
    refused(call("classify", tmp_path, "--task", text), f"classify.task = {text!r}")
    refused(call(*run, "--set", f"align.detector={text}"), f"'{text}'")


def test_a_group_of_options_is_one_parameter() -> None:
    got: list[object] = []

    @grouped
    def command(stages: StageOptions, more: int = 1) -> None:
        got.extend([stages, more])

    assert [*inspect.signature(command).parameters] == ["stage", "first", "until", "more"]
    command(stage=None, first="align", until=None, more=2)  # type: ignore[call-arg]
    assert got == [StageOptions(None, "align", None), 2]
