"""``normpipe withdraw`` on the real job: faces, two variants, pairs as index and with pictures."""

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import normpipe
from normpipe.pipeline.store.shards import ShardFolder

from ..calling import call, refused
from ..living import digests

WHO = "person02"
DATASETS = ("manifest", "aligned", "normalized/compact", "normalized/second", "pairs")


@pytest.fixture(scope="module", params=["false", "true"], ids=["index", "materialized"])
def arguments(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    samples: Path,
    random_weights: Path,
) -> list[str]:
    output = tmp_path_factory.mktemp("job") / "out"
    given = [
        *("--input", str(samples / "labels.csv")),
        *("--output", str(output)),
        *("--set", "ingest.shard_rows=5"),
        *("--set", "ingest.au_columns=intensity"),
        *("--set", f"normalize.weights={random_weights}"),
        *("--set", f"pair.materialize={request.param}"),
        *("--set", 'pair.variants=["compact", "second"]'),
    ]
    second = ("--set", "normalize.variant=second")
    assert call("run", *given, "--until", "normalize").exit_code == 0
    assert call("run", *given, *second, "--stage", "normalize").exit_code == 0
    paired = call("run", *given, "--stage", "pair")
    assert paired.exit_code == 0, paired.output
    assert call("sheet", output, "--variant", "compact").exit_code == 0
    return given


def test_a_person_is_gone_from_every_dataset(arguments: list[str], tmp_path: Path) -> None:
    output = Path(arguments[3])
    before = digests(output)
    pictures = _pictures(output, WHO)
    assert len(pictures) >= 3
    result = call("withdraw", output, "--subject", WHO)
    assert result.exit_code == 0, result.output
    assert "withdrawn: 3 inputs" in result.stdout and "contact_sheet.jpg" in result.stdout
    for path in output.rglob("*"):
        data = path.read_bytes() if path.is_file() else b""
        assert WHO.encode() not in data, path
        assert not [1 for picture in pictures if picture in data], path
    after = digests(output)
    held = {
        n for n in before if "/shard-" in n and n.endswith(".parquet") and before[n] != after[n]
    }
    assert held == {f"{name}/shard-0000{i}.parquet" for name in DATASETS for i in _shards(output)}
    verified = call("verify", output)
    assert verified.exit_code == 0, verified.stdout
    assert "withdrawn: 3 inputs" in call("status", output).stdout
    _others_open(output)
    # Their files are still among the photographs, and nobody comes back.
    again = call("run", *arguments, "--until", "pair")
    assert again.exit_code == 0, again.output
    assert digests(output) == after
    assert "nothing to do" in call("withdraw", output, "--subject", WHO).stdout
    # Made anew from the neutral manifest, every shard is the same.
    copy = tmp_path / "copy"
    shutil.copytree(output, copy)
    shutil.rmtree(copy / "aligned")
    shutil.rmtree(copy / "normalized/compact")
    elsewhere = [*arguments[:3], str(copy), *arguments[4:]]
    assert call("run", *elsewhere, "--until", "pair").exit_code == 0
    assert digests(copy) == after


def _pictures(output: Path, who: str) -> set[bytes]:
    """Return pictures of one person alone: random weights normalize some people alike."""
    found: set[bytes] = set()
    others: set[bytes] = set()
    for name in DATASETS[1:4]:
        folder = ShardFolder(output / name)
        for number in folder.records():
            rows = pq.read_table(folder.shard(number), columns=["key", "image"]).to_pylist()
            for row in rows:
                if row["image"]:
                    (found if who in row["key"] else others).add(row["image"]["bytes"])
    return found - others


def _shards(output: Path) -> set[int]:
    folder = ShardFolder(output / "manifest")
    reasons = {n: record.reasons for n, record in folder.records().items()}
    return {n for n, found in reasons.items() if "withdraw:withdrawn" in found}


def _others_open(output: Path) -> None:
    pairs = normpipe.open_dataset(output)
    assert len(pairs) == 2 * 21
    for i in (0, len(pairs) // 2, len(pairs) - 1):
        item = pairs[i]
        assert item["image"].shape[0] == item["normalized"].shape[0] == 3
        assert item["subject"] != WHO


def test_bad_input_is_one_line(arguments: list[str], tmp_path: Path) -> None:
    output = arguments[3]
    refused(call("withdraw", tmp_path, "--subject", "x"), "holds no normpipe job")
    refused(call("withdraw", output), "--subject", "--key")
    refused(call("withdraw", output, "--subject", "person1"), "did you mean")
    refused(call("withdraw", output, "--key", "labels/none.jpg"), "no input has the key")
