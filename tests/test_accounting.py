"""5 % of the inputs spoilt, in every way of the corpus: each row has its reason at every stage."""

import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from normpipe.pipeline.care.verify import verify
from normpipe.pipeline.config import RunConfig, load_job
from normpipe.pipeline.run.progress import Progress
from normpipe.pipeline.run.runner import Options, Runner
from normpipe.pipeline.stage import Stage
from normpipe.pipeline.store.shards import ShardFolder
from normpipe.stages import CONFIGS, build_flow, networks
from normpipe.stages.align import Align
from normpipe.stages.networks.files.checkpoint import save_tensors
from normpipe.stages.normalize import Normalize

from .corpus import ODD, SPOILT, Way, saved
from .pipeline.living import digests

DATASETS = ("manifest", "aligned", "normalized/placed", "pairs")
SAMPLES = Path(__file__).parent.parent / "stages/samples"


class Placed(nn.Module):
    """A network whose results hang on a picture's place in the batch: a moved neighbour shows."""

    output_size = 32
    weight: Tensor

    def __init__(self, expressions: int = 0) -> None:
        super().__init__()
        self.register_buffer("weight", torch.linspace(0.5, 1, 8))

    def forward(self, images: Tensor) -> Tensor:
        return images * self.weight[:, None, None, None]

    def for_inference(self) -> "Placed":
        return self.eval()


@dataclass
class Inputs:
    """A folder of photographs; ``spoilt``: key → what was done to it."""

    root: Path
    spoilt: dict[str, Way]

    @property
    def broken(self) -> dict[str, Way]:
        return {key: way for key, way in self.spoilt.items() if way.reason is not None}


def photographs(root: Path, count: int) -> None:
    """Small photographs of faces, no two alike."""
    root.mkdir(parents=True)
    (root.parent / "secret.jpg").write_bytes(b"secret")
    sources = [
        Image.open(path).convert("RGB").resize((64, 64)) for path in sorted(SAMPLES.glob("p*.jpg"))
    ]
    for i in range(count):
        turned = sources[i % len(sources)].rotate(i // len(sources) * 3)
        (root / f"n{i:04d}.png").write_bytes(saved(turned, "PNG", compress_level=1))


def spoil(good: Path, root: Path, ways: Sequence[Way], seed: int = 0) -> Inputs:
    """Copy the photographs and spoil one for each way, wherever chance puts it."""
    shutil.copytree(good, root)
    (root.parent / "secret.jpg").write_bytes(b"secret")
    rng = random.Random(seed)
    names = rng.sample(sorted(path.name for path in root.iterdir()), len(ways))
    spoilt: dict[str, Way] = {}
    for name, way in zip(names, ways, strict=True):
        path = root / name
        data = path.read_bytes()
        path.unlink()
        # Keys keep the order of the names whatever the suffix, so neighbours stay neighbours.
        spoilt[f"photos/{way.apply(path, data, rng).name}"] = way
    return Inputs(root, spoilt)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("weights") / "placed.safetensors"
    save_tensors({"weight": torch.linspace(0.5, 1, 8)}, path, {"network": "placed"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(networks.NETWORKS, "placed", Placed)
        yield path


def flow_of(source: Path, out: Path, weights: Path, **settings: Any) -> list[Stage]:
    values = {
        "ingest.shard_rows": 50, "align.detector": "none", "align.size_px": 32,
        "align.batch_size": 8, "normalize.network": "placed", "normalize.weights": weights,
        "normalize.batch_size": 8,
        "normalize.min_brightness": 0, **settings,
    }  # fmt: skip
    given = {"input": source, "output": out, "dataset": "photos"}
    job = load_job(None, given, [f"{name}={value}" for name, value in values.items()], CONFIGS)
    return build_flow(job)


def run(out: Path, flow: list[Stage], **options: Any) -> None:
    wanted = Options(identity={"dataset": "photos"}, **options)
    Runner(out, flow, RunConfig(threads=2), wanted, Progress(bars=False)).run(flow)


def table(out: Path, dataset: str) -> dict[str, dict[str, Any]]:
    folder = ShardFolder(out / dataset)
    found = [row for n in folder.records() for row in folder.read(n).to_pylist()]
    by_key = {row["key"]: row for row in found}
    assert len(by_key) == len(found)
    return by_key


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> tuple[Path, Path]:
    """The photographs, and the job's folder of an undisturbed run over them."""
    folder = tmp_path_factory.mktemp("good")
    photographs(folder / "photos", 20 * len(SPOILT))
    run(folder / "out", flow_of(folder / "photos", folder / "out", weights))
    return folder / "photos", folder / "out"


def check_rows(inputs: Inputs, out: Path, undisturbed: Path) -> None:
    keys = {f"photos/{path.name}" for path in inputs.root.iterdir()}
    for dataset in DATASETS:
        rows, before = table(out, dataset), table(undisturbed, dataset)
        assert set(rows) == keys, dataset
        for key, row in rows.items():
            way = inputs.spoilt.get(key)
            if way is None:
                # A neighbour, in the same batch and shard: every column, every byte, its place.
                times = {"modified_ns": None, "path": None}
                assert row | times == before[key] | times, (dataset, key)
            elif way.reason is None or (dataset == "manifest" and way.stage == "align"):
                assert row["status"] == "ok", (dataset, way.name, row["reason"])
            else:
                told = (row["status"], row["reason"], row["decided_by"])
                assert told == ("failed", way.reason, way.stage), (dataset, way.name)
    assert verify(out).differences == []


def test_every_row_has_its_reason_and_no_neighbour_notices(
    good: tuple[Path, Path], weights: Path, tmp_path: Path
) -> None:
    photos, undisturbed = good
    inputs = spoil(photos, tmp_path / "in/photos", SPOILT)
    assert len(inputs.broken) >= 12
    assert len(inputs.broken) * 20 == len(list(photos.iterdir()))  # 5 %
    out = tmp_path / "out"
    run(out, flow_of(inputs.root, out, weights))
    check_rows(inputs, out, undisturbed)


def test_odd_pictures_are_taken(good: tuple[Path, Path], weights: Path, tmp_path: Path) -> None:
    photos, undisturbed = good
    inputs = spoil(photos, tmp_path / "in/photos", ODD, seed=1)
    out = tmp_path / "out"
    run(out, flow_of(inputs.root, out, weights))
    check_rows(inputs, out, undisturbed)


def in_a_row(photos: Path, root: Path) -> Inputs:
    """A whole batch, and its neighbours on both sides, spoilt."""
    shutil.copytree(photos, root)
    names = sorted(path.name for path in root.iterdir())[5:18]
    rng = random.Random(2)
    way = next(way for way in SPOILT if way.name == "a web page")
    for name in names:
        data = (root / name).read_bytes()
        (root / name).unlink()
        way.apply(root / name, data, rng)
    return Inputs(root, {f"photos/{Path(name).with_suffix('.jpg')}": way for name in names})


def test_a_batch_without_one_good_picture(
    good: tuple[Path, Path], weights: Path, tmp_path: Path
) -> None:
    photos, undisturbed = good
    inputs = in_a_row(photos, tmp_path / "in/photos")
    run(tmp_path / "out", flow_of(inputs.root, tmp_path / "out", weights))
    check_rows(inputs, tmp_path / "out", undisturbed)


def prepared(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Return what align and normalize prepare from now on, by stage."""
    seen: dict[str, list[str]] = {"align": [], "normalize": []}
    for kind in (Align, Normalize):
        original = kind.prepare

        def watched(self: Any, row: Any, original: Any = original) -> Any:
            seen[self.name].append(row["key"])
            return original(self, row)

        monkeypatch.setattr(kind, "prepare", watched)
    return seen


def test_retry_failed_tries_the_failed_rows_alone_and_ends_as_if_nothing_had_been(
    good: tuple[Path, Path], weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, _ = good
    ways = [way for way in SPOILT if way.suffix == ".jpg"]
    named = tmp_path / "named"  # so that what is mended has the name of what was broken
    named.mkdir()
    for path in sorted(photos.iterdir())[:150]:
        shutil.copy2(path, named / path.with_suffix(".jpg").name)
    inputs = spoil(named, tmp_path / "in/photos", ways)
    out = tmp_path / "out"
    run(out, flow_of(inputs.root, out, weights))
    before = digests(out)
    seen = prepared(monkeypatch)
    run(out, flow_of(inputs.root, out, weights), retry_failed=True)  # nothing is mended yet
    found_by_align = sorted(key for key, way in inputs.broken.items() if way.stage == "align")
    assert sorted(seen["align"]) == found_by_align and seen["normalize"] == []
    assert digests(out) == before

    for key in inputs.spoilt:
        path = inputs.root / key.removeprefix("photos/")
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copy2(named / path.name, path)
    for done in seen.values():
        done.clear()
    run(out, flow_of(inputs.root, out, weights), retry_failed=True)
    assert sorted(seen["align"]) == sorted(seen["normalize"]) == sorted(inputs.broken)
    fresh = tmp_path / "fresh"
    run(fresh, flow_of(inputs.root, fresh, weights))
    assert digests(out) == digests(fresh)
