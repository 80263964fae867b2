"""The command line on the machine: doctor."""

import json
from pathlib import Path

import pytest

from normpipe.stages.checks import doctor
from normpipe.stages.checks.finding import Finding, no, warn, yes

from ..calling import call


def test_doctor_looks_at_everything_here(tmp_path: Path) -> None:
    result = call("doctor", "--output", tmp_path / "out", "--json")
    findings = [Finding(**one) for one in json.loads(result.stdout)]
    assert {one.check for one in findings} == {
        "python", "package", "onnxruntime", "providers", "cuda", "cpus", "memory", "open files",
        "output", "disk", "writing", "locks", "weights", "pack",
    }  # fmt: skip
    needs = [one for one in findings if one.verdict == "no"]
    assert result.exit_code == (2 if needs else 0), needs
    assert all(one.remedy for one in findings if one.verdict != "yes")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("last", "status", "words"),
    [
        (yes("c", "there"), 0, "everything a job needs is there; 1 to consider"),
        (no("c", "not\nthere", "mend it"), 2, "no   c: not there: mend it"),
    ],
)
def test_doctor_exits_2_where_something_is_missing(
    monkeypatch: pytest.MonkeyPatch, last: Finding, status: int, words: str
) -> None:
    findings = [yes("a", "fine"), warn("b", "slow", "buy another"), last]
    monkeypatch.setattr(doctor, "run_checks", lambda _: findings)
    result = call("doctor")
    assert result.exit_code == status
    assert "yes  a: fine\nwarn b: slow: buy another\n" in result.stdout
    assert words in result.stdout


def test_models_lists_and_refuses_in_one_line(tmp_path: Path) -> None:
    listed = call("models", "--model-root", tmp_path)
    assert listed.exit_code == 0 and "compact.safetensors" in listed.stdout
    found = json.loads(call("models", "--json", "--model-root", tmp_path).stdout)
    assert {one["state"] for one in found} == {"as recorded", "not here"}
    for arguments in (("get",), ("put", "buffalo_l"), ("put",)):
        result = call("models", *arguments, "--model-root", tmp_path)
        assert result.exit_code == 2 and "normpipe models get NAME" in result.stderr
    result = call("models", "get", "buffalo_l", "--model-root", tmp_path)
    assert result.exit_code == 2 and "--accept-licence" in result.stderr
    (tmp_path / "models/buffalo_l").mkdir()
    (tmp_path / "models/buffalo_l/det.onnx").write_bytes(b"x")
    result = call("models", "get", "buffalo_l", "--model-root", tmp_path)
    assert result.exit_code == 0 and "det.onnx: no digest recorded, sha256 2d71164" in result.stdout
