"""What verify, withdraw and clean say, and how they exit."""

import json
import shutil
from pathlib import Path

import pytest

from normpipe.pipeline.store.shards import ShardFolder

from ..calling import call, refused
from ..living import digests, make
from ..toys import flow, run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "out"
    make(out)
    return out


@pytest.fixture
def job(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "out")


def test_verify_counts_and_exits_1_on_a_flipped_bit(tmp_path: Path) -> None:
    run(tmp_path, flow())
    whole = call("verify", tmp_path)
    shards = list(tmp_path.rglob("shard-*.parquet"))
    size = sum(path.stat().st_size for path in shards)
    assert whole.exit_code == 0
    # 27 inputs, and 28 rows in each of the three datasets made of them: one has two faces.
    assert whole.stdout == f"12 shards, 111 rows, {size:,} bytes: all as recorded\n"
    shard = tmp_path / "made/shard-00000.parquet"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(bytes(data))
    damaged = call("verify", tmp_path)
    assert damaged.exit_code == 1
    line, summary = damaged.stdout.splitlines()
    assert line == "made/shard-00000.parquet: its sha256 is not the recorded one"
    assert summary.endswith("bytes: 1 differences")
    found = call("verify", tmp_path, "--json")
    assert found.exit_code == 1
    assert json.loads(found.stdout)["differences"] == [line]


def test_a_line_of_verify_is_fit_for_a_terminal(tmp_path: Path) -> None:
    run(tmp_path, flow())
    (tmp_path / "made/a\x1b[31mb\nc").write_bytes(b"")
    found = call("verify", tmp_path)
    assert found.exit_code == 1 and len(found.stdout.splitlines()) == 2
    assert "\\x1b[31mb c" in found.stdout and "\x1b" not in found.stdout


def test_withdraw_says_what_went_and_what_is_left_to_the_user(job: Path) -> None:
    done = call("withdraw", job, "--subject", "anna", "--key", "toy/n6")
    assert done.exit_code == 0, done.stderr
    first, removed, last = done.stdout.splitlines()
    # Anna is n0, n5, n10, n15 and twins35.
    assert first.startswith("withdrawn: 6 inputs; their ") and "hold no picture" in first
    scores = "classify/scores/predictions.parquet, classify/scores/scores.json"
    assert removed == f"removed: contact_sheet.jpg, {scores}"
    assert last.startswith("normpipe changes no file of the input folder")
    lines = [line for line in done.stderr.splitlines() if line.startswith("normpipe: ")]
    assert any("told.csv" in line for line in lines) and any("models may" in x for x in lines)
    again = call("withdraw", job, "--key", "toy/n6")
    assert again.exit_code == 0 and "nothing to do: withdrawn already" in again.stdout
    refused(call("withdraw", job), "no one to withdraw: give --subject NAME or --key KEY")
    refused(call("withdraw", job, "--subject", "bob"), "bob")


def test_clean_without_yes_removes_nothing(job: Path) -> None:
    before = digests(job)
    asked = call("clean", job, "--stage", "toy-second")
    refused(asked, "nothing was removed: add --yes")
    folder = ShardFolder(job / "normalized/second")
    size = sum(folder.shard_sizes().values())
    assert asked.stdout.startswith(f"frees {size:,} bytes: normalized/second")
    assert digests(job) == before
    done = call("clean", job, "--stage", "normalized/second", "--yes")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"freed {size:,} bytes: {job}/normalized/second"
    assert folder.shard_sizes() == {}
    refused(call("clean", job, "--stage", "toy-secnd", "--yes"), "did you mean 'toy-second'")
