"""Masked-autoencoder training on shards."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from normpipe.manifests.schema import IMAGE
from normpipe.pipeline.commands.app import app
from normpipe.pipeline.errors import InputError
from normpipe.stages.faces.pixels import encode
from normpipe.stages.networks.files.checkpoint import read_notes, read_tensors
from normpipe.stages.networks.files.mae_checkpoints import load_encoder
from normpipe.stages.networks.norface import NorfaceNormalizer
from normpipe.stages.networks.vit import Vit
from normpipe.stages.training.masked import MaskedBatches, PictureRows
from normpipe.stages.training.pretrain_encoder import PretrainEncoderConfig, pretrain

TINY = {
    "size": "T", "image_size": 48, "steps": 6, "batch_size": 4, "warmup_steps": 1, "held_out": 3,
    "save_every": 2, "evaluate_every": 3, "workers": 0, "device": "cpu", "precision": "fp32",
    "learning_rate": 0.03,
}  # fmt: skip


def shade(number: int) -> np.ndarray:
    """A picture that tells its number: one grey level, so that it survives cutting."""
    return np.full((40, 40, 3), 2 * number, np.uint8)


def write_shards(folder: Path, column: str = "image", split: bool = False, shards: int = 2) -> Path:
    """20 rows a shard, 5 a row group; every 10th row is rejected and has no picture."""
    folder.mkdir(parents=True)
    for shard in range(shards):
        rows: list[dict[str, Any]] = []
        for n in range(shard * 20, shard * 20 + 20):
            good = n % 10 != 9
            key = f"set/{n}.png"
            data = encode(shade(n), "png", 95)
            picture = {"bytes": data, "path": key} if good else None
            rows.append({"key": key, "parent_key": key, "status": "ok" if good else "rejected",
                         column: picture, "split": "test" if n % 4 == 0 else "train"})  # fmt: skip
        names = ["key", "parent_key", "status", *(["split"] if split else [])]
        schema = pa.schema([*((name, pa.string()) for name in names), (column, IMAGE)])
        table = pa.Table.from_pylist(rows, schema=schema)
        pq.write_table(table, folder / f"shard-{shard:05d}.parquet", row_group_size=5)
    return folder


def numbers(images: Any) -> list[int]:
    return [int(image.reshape(-1)[0]) // 2 for image in images]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("data") / "aligned")


def test_any_picture_by_number(shards: Path, tmp_path: Path) -> None:
    other = write_shards(tmp_path / "out" / "pairs", shards=1)
    rows = PictureRows([shards.parent, other.parent], "image", "")
    assert len(rows) == 36 + 18
    found = numbers(rows.pictures(np.array([0, 53, 9, 35, 36, 9])))
    assert found == [0, 18, 10, 38, 0, 10]
    groups = rows.groups()
    assert [len(group) for group in groups[:4]] == [5, 4, 5, 4] and len(groups) == 12
    assert np.array_equal(np.concatenate(groups), np.arange(54))


def test_only_the_split_is_used(tmp_path: Path, shards: Path) -> None:
    own = write_shards(tmp_path / "own", split=True)
    train = PictureRows([own], "image", "train")
    assert {n % 4 for n in numbers(train.pictures(np.arange(len(train))))} == {1, 2, 3}
    assert len(PictureRows([own], "image", "test")) + len(train) == 36
    with pytest.raises(InputError, match=r"no pictures in .* of the split 'validation'"):
        PictureRows([own], "image", "validation")
    # by the labels of the job
    folder = write_shards(tmp_path / "job" / "aligned").parent
    labels = {"key": [f"set/{n}.png" for n in range(30)], "split": ["train", "test"] * 15}
    pq.write_table(pa.table(labels), folder / "labels.parquet")
    (folder / "job.json").write_text("{}")
    labelled = PictureRows([folder], "image", "train")
    assert {n % 2 for n in numbers(labelled.pictures(np.arange(len(labelled))))} == {0}
    assert len(PictureRows([shards], "image", "train")) == 36  # tells no splits


def test_what_holds_no_pictures_is_one_line(tmp_path: Path, shards: Path) -> None:
    with pytest.raises(InputError, match="no shards in"):
        PictureRows([tmp_path], "image", "")
    with pytest.raises(InputError, match="column 'normalized': choose one of image"):
        PictureRows([shards], "normalized", "")
    other = write_shards(tmp_path / "n", "normalized")
    assert len(PictureRows([other], "normalized", "")) == 36


def test_every_picture_once_an_epoch_and_none_of_the_held_out(shards: Path) -> None:
    held_out = np.array([0, 20, 35])
    rows = PictureRows([shards], "image", "")
    batches = MaskedBatches(rows, held_out, 3, 32, 0.7, seed=4)
    drawn = [batches.numbers(step).tolist() for step in range(22)]
    epochs = [np.concatenate(part).tolist() for part in (drawn[:11], drawn[11:])]
    for epoch in epochs:
        assert sorted(epoch) == sorted({*range(36)} - {*held_out.tolist()})
    assert epochs[0] != epochs[1] and epochs[0] != sorted(epochs[0])
    other = MaskedBatches(rows, held_out, 3, 32, 0.7, seed=5)
    assert other.numbers(0).tolist() != drawn[0]


def test_batch_n_is_a_function_of_n(shards: Path) -> None:
    rows = PictureRows([shards], "image", "")
    made = MaskedBatches(rows, np.array([0]), 4, 32, 0.7, seed=4)
    one = made[7]
    made[3]
    again = MaskedBatches(PictureRows([shards], "image", ""), np.array([0]), 4, 32, 0.7, 4)[7]
    assert one["images"].shape == (4, 3, 32, 32) and one["images"].dtype == torch.uint8
    assert one["noise"].shape == (4, 4)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert numbers(one["images"].numpy()) == numbers(rows.pictures(made.numbers(7)))


@pytest.fixture(scope="module")
def undisturbed(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("whole")
    pretrain(PretrainEncoderConfig(**TINY), [shards], output)
    return output


def test_it_leaves_an_encoder_that_norface_begins_with(undisturbed: Path) -> None:
    path = undisturbed / "encoder.safetensors"
    notes = read_notes(path)
    assert notes["size"] == "T" and json.loads(notes["recipe"])["steps"] == 6
    assert notes["pictures"] == "33"
    network = NorfaceNormalizer(3, "T", 48)
    before = network.encoder.blocks[0].attn.qkv.weight.clone()
    assert load_encoder(network.encoder, path) == "timm"
    assert not torch.equal(network.encoder.blocks[0].attn.qkv.weight, before)
    progress = json.loads((undisturbed / "progress.json").read_text())
    assert progress["step"] == 6 and 0 < progress["held_out_loss"] < 2
    sheet = Image.open(io.BytesIO((undisturbed / "sheet.png").read_bytes()))
    assert sheet.size == (3 * 48, 3 * 48)  # masked, painted and original of three pictures


def test_a_stopped_run_goes_on_exactly(
    shards: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = PretrainEncoderConfig(**TINY)
    whole = MaskedBatches.__getitem__

    def stops(self: MaskedBatches, step: int) -> Any:
        if step == 5:
            raise KeyboardInterrupt
        return whole(self, step)

    monkeypatch.setattr(MaskedBatches, "__getitem__", stops)
    with pytest.raises(KeyboardInterrupt):
        pretrain(config, [shards], tmp_path)
    assert not (tmp_path / "encoder.safetensors").exists()
    drawn: list[int] = []

    def counts(self: MaskedBatches, step: int) -> Any:
        drawn.append(step)
        return whole(self, step)

    monkeypatch.setattr(MaskedBatches, "__getitem__", counts)
    pretrain(config, [shards], tmp_path)
    assert drawn == [4, 5], "it went on from the state saved at step 4"
    one, other = (
        read_tensors(folder / "encoder.safetensors") for folder in (undisturbed, tmp_path)
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_an_encoder_with_convolutions_begins_a_norface_with_convolutions(
    shards: Path, undisturbed: Path, tmp_path: Path
) -> None:
    values = {**TINY, "steps": 1, "stem": "conv"}
    path = pretrain(PretrainEncoderConfig(**values), [shards], tmp_path).encoder
    network = NorfaceNormalizer(3, "T", 64, stem="conv")
    assert load_encoder(network.encoder, path, interpolate=True) == "normpipe"
    found = read_tensors(path)["patch_embed.steps.2.0.weight"]
    assert torch.equal(network.encoder.patch_embed.steps[2][0].weight, found)
    with pytest.raises(InputError, match="stem = 'conv'"):
        load_encoder(network.encoder, undisturbed / "encoder.safetensors")
    with pytest.raises(InputError, match="was pretrained with stem = 'conv'"):
        load_encoder(NorfaceNormalizer(3, "T", 48).encoder, path)


def test_another_run_in_the_folder_is_refused(shards: Path, undisturbed: Path) -> None:
    for change in ({"masked": 0.5}, {"seed": 1}, {"split": ""}):
        config = PretrainEncoderConfig(**{**TINY, **change})
        with pytest.raises(InputError, match=f"another {next(iter(change))}"):
            pretrain(config, [shards], undisturbed)
    # what changes no result may change
    pretrain(PretrainEncoderConfig(**{**TINY, "save_every": 3}), [shards], undisturbed)


def test_it_begins_from_a_checkpoint(shards: Path, tmp_path: Path) -> None:
    torch.manual_seed(9)
    encoder = Vit("T", 48)
    torch.save(encoder.state_dict(), tmp_path / "mae.pth")
    values = {**TINY, "steps": 1, "learning_rate": 1e-9, "encoder": str(tmp_path / "mae.pth")}
    made = pretrain(PretrainEncoderConfig(**values), [shards], tmp_path / "out")
    found = read_tensors(made.encoder)
    # The same path with other weights is another run.
    torch.save(Vit("T", 48).state_dict(), tmp_path / "mae.pth")
    with pytest.raises(InputError, match="another encoder_sha256"):
        pretrain(PretrainEncoderConfig(**values), [shards], tmp_path / "out")
    torch.testing.assert_close(found["blocks.1.mlp.fc1.weight"], encoder.blocks[1].mlp.fc1.weight)


def test_the_command(shards: Path, tmp_path: Path) -> None:
    changes = [f"--set=pretrain_encoder.{name}={value}" for name, value in TINY.items()]
    arguments = ["pretrain-encoder", "--output", str(tmp_path / "out"), *changes]
    result = CliRunner().invoke(app, [*arguments, "--data", str(shards)])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "encoder.safetensors").is_file()
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2 and "give --data" in result.output
    many = [*arguments, "--data", str(shards), "--set=pretrain_encoder.held_out=99"]
    result = CliRunner().invoke(app, many)
    assert result.exit_code == 2 and "lower pretrain_encoder.held_out" in result.output
