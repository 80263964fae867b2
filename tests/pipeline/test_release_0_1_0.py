"""A dataset of release 0.1.0 is verified, resumed and extended, and none of its shards made again.

It lies in ``tests/fixtures/release_0_1_0`` for good; its README says how it was made. Old paths are
spelled here (``OUT/pairs/records``): a folder keeps the layout it was made with.
"""

import hashlib
import importlib
import json
import os
import pkgutil
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import normpipe
import normpipe.pipeline
from normpipe.pipeline.config import load_job
from normpipe.pipeline.run import plan
from normpipe.stages import CONFIGS, build_flow
from normpipe.stages.align import Align
from normpipe.stages.normalize import Normalize
from normpipe.stages.pair import Pair

from .calling import call

RELEASE = Path(__file__).resolve().parents[1] / "fixtures" / "release_0_1_0"
DATASETS = ("manifest", "aligned", "normalized/compact", "pairs")
#: What the release was given, and what its fingerprints were made of.
SETTINGS = (
    *("ingest.shard_rows=2", "ingest.au_columns=intensity", "normalize.batch_size=2"),
    "normalize.weights=compact-0.1.0",
)
PAIRED = [
    "release/person01_happiness.jpg",
    "release/person01_neutral.jpg",
    "release/person02_anger.jpg",
]

_describe = plan.describe


@pytest.fixture(autouse=True)
def _as_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let stages be described as the release described them.

    Library versions, digests of weights, stage versions, the device and settings with new defaults
    are all in the fingerprints, and rightly so; but they change over the years, and this dataset
    does not. What is tested is that the engine knows an old folder, not that time stood still.
    """

    def described(stage: Any) -> dict[str, Any]:
        return description(stage.writes)

    # All of them now: a module imported while this is in place would keep it for later tests.
    for one in pkgutil.iter_modules(normpipe.pipeline.__path__, "normpipe.pipeline."):
        importlib.import_module(one.name)
    for name, module in list(sys.modules.items()):
        if name.startswith("normpipe.") and getattr(module, "describe", None) is _describe:
            monkeypatch.setattr(module, "describe", described)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note each call of a stage's own work."""
    calls: list[str] = []

    def note(kind: type, name: str) -> None:
        original = getattr(kind, name)

        def noted(*arguments: Any, **named: Any) -> Any:
            calls.append(f"{kind.__name__}.{name}")
            return original(*arguments, **named)

        monkeypatch.setattr(kind, name, noted)

    for kind, name in ((Align, "prepare"), (Normalize, "prepare"), (Pair, "join")):
        note(kind, name)
    return calls


def description(dataset: str) -> dict[str, Any]:
    return json.loads((RELEASE / "out" / dataset / "stage.json").read_bytes())


@dataclass(frozen=True)
class Released:
    """A copy of the dataset and of its inputs."""

    inputs: Path
    out: Path

    def run(self, *options: str) -> None:
        """Run the command that made the dataset. Raises where it fails."""
        result = call("run", *self.words(), *options)
        assert result.exit_code == 0, result.output

    def words(self) -> list[str]:
        settings = [word for value in SETTINGS for word in ("--set", value)]
        given = ["--input", str(self.inputs / "list.csv"), "--output", str(self.out)]
        return [*given, "--dataset", "release", "--until", "pair", *settings]

    def verified(self) -> None:
        result = call("verify", self.out)
        assert result.exit_code == 0 and "all as recorded" in result.stdout, result.output

    def counts(self) -> dict[str, list[int]]:
        """Return dataset → inputs done, left, rows that are ok, rejected, failed."""
        result = call("status", self.out, "--json")
        assert result.exit_code == 0, result.output
        names = ("inputs_done", "inputs_left", "ok", "rejected", "failed")
        stages = json.loads(result.stdout)["stages"]
        return {stage["dataset"]: [stage[name] for name in names] for stage in stages}

    def add(self, **samples: str) -> None:
        """Add copies of the package's samples as further inputs of the list."""
        for name, sample in samples.items():
            self._lay(name, sample)
        head = (self.inputs / "list.csv").read_text().partition("\n")[0]
        line = ["{}.jpg", "newcomer", "test", "fear", *["0.0"] * (head.count(",") - 3)]
        with (self.inputs / "list.csv").open("a") as stream:
            stream.writelines(",".join(line).format(name) + "\n" for name in samples)

    def mend(self) -> None:
        """Replace the truncated file by a whole one."""
        self._lay("person01_truncated", "person03_neutral")

    def _lay(self, name: str, sample: str) -> None:
        shutil.copyfile(_samples() / f"{sample}.jpg", self.inputs / f"{name}.jpg")

    def files(self) -> dict[str, tuple[int, int, str]]:
        """Return path → inode, time and digest of all shards, records and descriptions."""
        found: dict[str, tuple[int, int, str]] = {}
        for path in sorted(self.out.rglob("*")):
            if path.name.startswith("shard-") or path.name == "stage.json":
                facts, digest = path.stat(), hashlib.sha256(path.read_bytes()).hexdigest()
                name = path.relative_to(self.out).as_posix()
                found[name] = (facts.st_ino, facts.st_mtime_ns, digest)
        return found

    def rows(self, dataset: str, number: int) -> dict[str, dict[str, Any]]:
        """Return key → row of a shard."""
        rows = pq.read_table(self.out / dataset / f"shard-{number:05d}.parquet").to_pylist()
        return {row["key"]: row for row in rows}


def _samples() -> Path:
    return Path(normpipe.__file__).parent / "stages" / "samples"


@pytest.fixture
def released(tmp_path: Path) -> Iterator[Released]:
    shutil.copytree(RELEASE, tmp_path / "release", copy_function=shutil.copyfile)
    place = (tmp_path / "release").resolve()
    copy = Released(place / "inputs", place / "out")
    # Git keeps no times, and an input with another than the manifest's is a changed one.
    for number in range(3):
        for row in copy.rows("manifest", number).values():
            times = (row["modified_ns"], row["modified_ns"])
            os.utime(copy.inputs / row["path"], ns=times)
    # No tracked file speaks of a machine; the job's card speaks of where its inputs lie.
    card = copy.out / "job.json"
    card.write_text(card.read_text().replace("INPUTS", json.dumps(str(copy.inputs))[1:-1]))
    before = copy.files()
    assert len(before) == 4 * (3 + 3 + 1)
    yield copy
    # Whatever was done, each dataset is still described as it was, in the folder's old layout.
    for dataset in DATASETS:
        name = f"{dataset}/stage.json"
        assert copy.files()[name] == before[name]
    assert (copy.out / "job.json").exists() or (copy.out / "job.toml").exists()


def changed(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    """Return the names that are not as they were, new ones left out."""
    return {name for name in before if after.get(name) != before[name]}


def of_shards(*numbers: int) -> set[str]:
    """Return the shards of these numbers and their records, in all datasets."""
    return {
        name
        for dataset in DATASETS
        for number in numbers
        for name in (
            f"{dataset}/shard-{number:05d}.parquet",
            f"{dataset}/records/shard-{number:05d}.json",
        )
    }


def test_it_is_verified_and_told(released: Released) -> None:
    before = released.files()
    released.verified()
    assert released.counts() == {
        "manifest": [5, 0, 5, 0, 0],
        **{dataset: [5, 0, 3, 1, 1] for dataset in DATASETS[1:]},
    }
    assert released.files() == before


def test_it_opens(released: Released) -> None:
    for path in (released.out, released.out / "pairs"):
        pairs = normpipe.open_dataset(path)
        assert pairs.keys == PAIRED
        item = pairs["release/person01_happiness.jpg"]
        assert item["image"].shape == (3, 224, 224)
        assert item["normalized"].shape == (3, 192, 192)
        assert item["emotion"] == "happiness" and item["subject"] == "person01"
    aligned = normpipe.open_dataset(released.out / "aligned", status="all", decode=False)
    assert len(aligned) == 5
    recorded = released.rows("aligned", 2)["release/person02_anger.jpg"]
    picture = aligned["release/person02_anger.jpg"]["image"]
    assert hashlib.sha256(picture).hexdigest() == recorded["image_sha256"]
    assert len(normpipe.open_dataset(released.out / "normalized/compact")) == 3


def test_the_same_command_makes_nothing(released: Released, computed: list[str]) -> None:
    before = released.files()
    for _ in range(2):
        released.run()
        assert released.files() == before
        released.verified()
    assert computed == []


def test_new_inputs_make_new_shards_alone(released: Released, computed: list[str]) -> None:
    before = released.files()
    # One sorts before all others, and the last shard has room: neither moves an old input.
    released.add(a_newcomer="person03_fear", person04_new="person04_happiness")
    released.run()
    after = released.files()
    assert changed(before, after) == set()
    assert {*after} - {*before} == of_shards(3)
    assert sorted(computed) == ["Align.prepare"] * 2 + ["Normalize.prepare"] * 2 + ["Pair.join"]
    released.verified()
    assert released.counts()["pairs"] == [7, 0, 5, 1, 1]
    pairs = normpipe.open_dataset(released.out)
    assert sorted(pairs.keys) == sorted(
        [*PAIRED, "release/a_newcomer.jpg", "release/person04_new.jpg"]
    )
    assert pairs["release/a_newcomer.jpg"]["subject"] == "newcomer"
    released.run()
    assert released.files() == after


def test_a_mended_file_rewrites_its_shard_alone(released: Released, computed: list[str]) -> None:
    before, settled = released.files(), "release/person01_neutral.jpg"
    old = {dataset: released.rows(dataset, 1)[settled] for dataset in DATASETS}
    released.mend()
    released.run("--retry-failed")
    after = released.files()
    assert changed(before, after) == of_shards(1) and after.keys() == before.keys()
    # The other row of that shard is kept as the release wrote it.
    assert {dataset: released.rows(dataset, 1)[settled] for dataset in DATASETS} == old
    assert sorted(computed) == ["Align.prepare", "Normalize.prepare", "Pair.join"]
    released.verified()
    assert released.counts()["pairs"] == [5, 0, 4, 1, 0]
    released.run()
    assert released.files() == after


def test_a_person_is_withdrawn(released: Released, computed: list[str]) -> None:
    before = released.files()
    result = call("withdraw", released.out, "--subject", "person01")
    assert result.exit_code == 0, result.output
    assert "withdrawn: 2 inputs" in result.stdout
    after = released.files()
    assert changed(before, after) == of_shards(0, 1) and after.keys() == before.keys()
    released.verified()
    assert normpipe.open_dataset(released.out).keys == ["release/person02_anger.jpg"]
    released.run()  # their files are still among the inputs, and nobody comes back
    assert released.files() == after
    assert computed == []


@pytest.mark.slow
def test_workers_extend_it(released: Released) -> None:
    otherwise = _otherwise(released)
    if otherwise:
        pytest.skip(f"workers describe themselves, and this machine's differ: {otherwise[0]}, …")
    before = released.files()
    released.run("--workers", "2")
    assert released.files() == before
    released.add(a_newcomer="person03_fear", person04_new="person04_happiness")
    released.run("--workers", "2")
    after = released.files()
    assert changed(before, after) == set()
    assert {*after} - {*before} == of_shards(3)
    released.verified()
    assert released.counts()["pairs"] == [7, 0, 5, 1, 1]


def _otherwise(released: Released) -> list[str]:
    """Return where this machine and release describe the stages otherwise than the dataset does."""
    given = {"input": released.inputs / "list.csv", "output": released.out, "dataset": "release"}
    lines: list[str] = []
    for stage in build_flow(load_job(None, given, list(SETTINGS), CONFIGS)):
        stage.open()
        try:
            found = json.loads(json.dumps(_describe(stage)))
        finally:
            stage.close()
        lines += plan.differences(description(stage.writes), found, f"{stage.name}: ")
    return lines
