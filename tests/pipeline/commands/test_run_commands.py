"""The command line on the real job: its promises, and one line for every bad input."""

import hashlib
import json
import re
import shutil
import tomllib
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from normpipe.pipeline.store.shards import ShardFolder
from normpipe.stages.networks.files.checkpoint import save_tensors

from ..calling import call, refused
from ..conftest import small_disk
from ..living import digests

INPUTS = 26  # files in the sample set that are taken for images


@pytest.fixture
def finished(tmp_path: Path, settings: list[str]) -> Path:
    result = call("run", *settings, "--output", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    return tmp_path / "out"


def test_run_gives_counts_datasets_and_a_clean_verify(finished: Path) -> None:
    state = json.loads(call("status", finished, "--json").stdout)
    assert [s["stage"] for s in state["stages"]] == ["ingest", "align", "normalize", "pair"]
    for stage in state["stages"]:
        assert stage["inputs_done"] == INPUTS and stage["inputs_left"] == 0
        assert stage["ok"] + stage["rejected"] + stage["failed"] == INPUTS
    align = state["stages"][1]
    assert align["reasons"] == {"align": {"no_face": 1, "truncated": 1}}
    table = call("status", finished).stdout
    assert re.search(r"align\s+aligned\s+26\s+0\s+24\s+1\s+1", table)
    verified = call("verify", finished)
    assert verified.exit_code == 0 and "all as recorded" in verified.stdout
    rows = pq.read_table(finished / "normalized/compact/shard-00000.parquet").to_pylist()
    digest = {row["weights_sha256"] for row in rows if row["status"] == "ok"}
    assert len(digest) == 1
    for row in rows:
        if row["status"] == "ok":
            assert hashlib.sha256(row["image"]["bytes"]).hexdigest() == row["image_sha256"]


def test_stages_one_by_one_equal_the_whole_run(
    tmp_path: Path, settings: list[str], finished: Path
) -> None:
    parts = tmp_path / "parts"
    steps = [
        ("--stage", "ingest"),
        ("--from", "align", "--until", "normalize"),
        ("--stage", "pair"),
    ]
    for step in steps:
        result = call("run", *settings, "--output", parts, *step)
        assert result.exit_code == 0, result.stderr
    assert digests(parts) == digests(finished)


@pytest.mark.parametrize("stages", [("--stage", "align"), ()])
def test_nothing_usable_is_status_2_whatever_ran(
    tmp_path: Path, settings: list[str], stages: tuple[str, ...]
) -> None:
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(b"not a picture")
    junk = [str(tmp_path / "in") if i and settings[i - 1] == "--input" else one
            for i, one in enumerate(settings)]  # fmt: skip
    out = tmp_path / "out"
    if "--stage" in stages:
        assert call("run", *junk, "--output", out, "--stage", "ingest").exit_code == 0
    refused(call("run", *junk, "--output", out, *stages), "2 rows", "not_an_image", "JPEG or PNG")
    refused(call("measure", tmp_path / "in", "--output", tmp_path / "m.csv"), "not_an_image")
    assert pq.read_table(out / "aligned/shard-00000.parquet").num_rows == 2


def test_limit_takes_the_first_and_the_rest_comes_later(
    tmp_path: Path, settings: list[str]
) -> None:
    out = tmp_path / "out"
    assert call("run", *settings, "--output", out, "--limit", 7).exit_code == 0
    first = digests(out, "shard-*.parquet")
    state = json.loads(call("status", out, "--json").stdout)
    assert [s["inputs_done"] for s in state["stages"]] == [7] * 4
    assert call("run", *settings, "--output", out).exit_code == 0
    later = digests(out, "shard-*.parquet")
    assert all(later[name] == value for name, value in first.items())
    state = json.loads(call("status", out, "--json").stdout)
    assert [s["inputs_done"] for s in state["stages"]] == [INPUTS] * 4


def test_a_later_limit_cuts_no_labels_away(tmp_path: Path, samples: Path) -> None:
    arguments = [
        "run", "--input", samples / "labels.csv", "--output", tmp_path / "out", "--stage", "ingest",
        "--set", "ingest.au_columns=intensity",
    ]  # fmt: skip
    assert call(*arguments).exit_code == 0
    before = pq.read_table(tmp_path / "out/labels.parquet")
    assert call(*arguments, "--limit", 3).exit_code == 0
    after = pq.read_table(tmp_path / "out/labels.parquet")
    assert after.num_rows == INPUTS
    assert sorted(after.to_pylist(), key=lambda r: r["key"]) == sorted(
        before.to_pylist(), key=lambda r: r["key"]
    )


def test_dry_run_prints_a_plan_and_writes_nothing(tmp_path: Path, settings: list[str]) -> None:
    result = call("run", *settings, "--output", tmp_path / "out", "--dry-run")
    assert result.exit_code == 0, result.stderr
    for stage in ("ingest", "align", "normalize", "pair"):
        assert re.search(rf"^{stage}\s+26\s+0\s+6\s", result.stdout, re.MULTILINE), result.stdout
    assert not (tmp_path / "out").exists()


def test_init_writes_a_job_file_that_runs(
    tmp_path: Path, samples: Path, random_weights: Path
) -> None:
    path = tmp_path / "job.toml"
    assert call("init", path).exit_code == 0
    text = path.read_text()
    values = tomllib.loads(re.sub(r"^# (\w+ = )", r"\1", text, flags=re.MULTILINE))
    assert set(values) >= {"ingest", "align", "normalize", "pair", "run"}
    refused(call("init", path), "exists")
    shutil.copytree(samples, tmp_path / "photos")
    text = text.replace("[normalize]", f'[normalize]\nweights = "{random_weights}"')
    path.write_text(text)
    result = call("run", path, "--limit", 3)
    assert result.exit_code == 0, result.stderr
    # Relative paths count from the job file.
    assert (tmp_path / "out/normalized/compact/shard-00000.parquet").is_file()


def test_variants_lie_side_by_side_and_pair_one_to_n(
    tmp_path: Path, settings: list[str], finished: Path
) -> None:
    result = call(
        "run",
        *settings,
        "--output",
        finished,
        "--stage",
        "normalize",
        "--set",
        "normalize.variant=png",
        "--set",
        "normalize.format=png",
    )
    assert result.exit_code == 0, result.stderr
    result = call(
        "run",
        *settings,
        "--output",
        finished,
        "--stage",
        "pair",
        "--overwrite",
        "--set",
        'pair.variants=["compact", "png"]',
    )
    assert result.exit_code == 0, result.stderr
    folder = ShardFolder(finished / "pairs")
    rows = [row for n in folder.records() for row in pq.read_table(folder.shard(n)).to_pylist()]
    assert len(rows) == 2 * INPUTS
    state = json.loads(call("status", finished, "--json").stdout)
    assert [s["dataset"] for s in state["stages"]] == [
        "manifest", "aligned", "normalized/compact", "normalized/png", "pairs",
    ]  # fmt: skip
    assert sum(row["status"] == "ok" for row in rows) == 48


def test_materialized_pairs_carry_pictures_and_labels(
    tmp_path: Path, samples: Path, random_weights: Path
) -> None:
    result = call(
        "run",
        "--input",
        samples / "labels.csv",
        "--output",
        tmp_path / "out",
        "--until",
        "pair",
        "--set",
        "ingest.au_columns=intensity",
        "--set",
        "pair.materialize=true",
        "--set",
        f"normalize.weights={random_weights}",
    )
    assert result.exit_code == 0, result.stderr
    rows = pq.read_table(tmp_path / "out/pairs/shard-00000.parquet").to_pylist()
    good = [row for row in rows if row["status"] == "ok"]
    assert len(good) == 24
    for row in good:
        assert row["image"]["bytes"][:2] == row["normalized"]["bytes"][:2] == b"\xff\xd8"
    assert {row["emotion"] for row in good} >= {"happiness", "surprise", "anger"}


def test_bad_outputs_are_rejected_with_their_reason(tmp_path: Path, samples: Path) -> None:
    from normpipe.stages.networks.compact import CompactNormalizer

    network = CompactNormalizer()
    state = {name: torch.zeros_like(tensor) for name, tensor in network.state_dict().items()}
    cases = {"black_output": 0.0, "saturated_output": 1.0, "flat_output": 0.4}
    for reason, level in cases.items():
        state["decoder.template"] = torch.full_like(state["decoder.template"], level)
        weights = tmp_path / f"{reason}.safetensors"
        save_tensors(state, weights, {"network": "compact", "settings": network.settings()})
        out = tmp_path / reason
        result = call(
            "run", "--input", samples, "--output", out, "--set", f"normalize.weights={weights}"
        )
        refused(result, reason, "normalize.weights")
        reasons = json.loads(call("status", out, "--json").stdout)["stages"][2]["reasons"]
        assert reasons["normalize"] == {reason: 24}


def test_bad_input_is_one_line(tmp_path: Path, settings: list[str], random_weights: Path) -> None:
    out = tmp_path / "out"
    rest = settings[2:]
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "notes.txt").write_text("x")
    refused(call("run", "--input", tmp_path / "none", "--output", out, *rest), "none")
    refused(call("run", "--input", empty, "--output", out, *rest), "empty", ".txt")
    refused(call("run", "--output", out), "--input")
    refused(call("run", "--input", empty), "--output")
    refused(call("run", *settings, "--output", out, "--set", "align.detektor=opencv"), "'detector'")
    refused(call("run", *settings, "--output", out, "--set", "alin.size_px=3"), "'align'")
    refused(call("run", *settings, "--output", out, "--set", "align.size_px=3"), "align.size_px")
    refused(call("run", *settings, "--output", out, "--set", "align"), "stage.key=value")
    refused(call("run", *settings, "--output", out, "--set", "align.detector=opencw"), "opencv")
    refused(call("run", *settings, "--output", out, "--set", "normalize.network=compct"), "compact")
    refused(call("run", *settings, "--output", out, "--set", "normalize.device=cuda:7"), "cuda:7")
    refused(call("run", *settings, "--output", out, "--stage", "aline"), "'align'")
    refused(call("run", *settings, "--output", out, "--from", "pair", "--until", "align"), "order")
    refused(
        call("run", *settings, "--output", out, "--stage", "pair", "--from", "align"), "--stage"
    )
    refused(call("run", "--input", empty, "--output", empty / "out", *rest), "inside the input")
    refused(call("status", tmp_path), "no normpipe job")
    refused(call("verify", tmp_path / "nowhere"), "no normpipe job")
    refused(call("sheet", tmp_path), "no normpipe job")
    job = tmp_path / "job.toml"
    job.write_text('input = "x"\noutputt = "y"\n')
    refused(call("run", job), "'output'")
    job.write_text("input = \n")
    refused(call("run", job), "not valid TOML")
    refused(call("run", tmp_path / "no.toml"), "normpipe init")


def test_weights_of_other_shapes_are_refused_before_any_work(
    tmp_path: Path, settings: list[str]
) -> None:
    wrong = tmp_path / "wrong.safetensors"
    save_tensors({"encoder.x": torch.zeros(3)}, wrong, {"network": "compact"})
    arguments = [*settings, "--set", f"normalize.weights={wrong}"]
    refused(call("run", *arguments, "--output", tmp_path / "out"), "does not fit", "Compact")
    assert not list((tmp_path / "out").glob("aligned/shard-*"))
    wrong.write_bytes(b"not safetensors")
    refused(call("run", *arguments, "--output", tmp_path / "out"), "safetensors")


def test_output_of_another_job_is_refused(
    tmp_path: Path, settings: list[str], finished: Path
) -> None:
    before = digests(finished)
    refused(call("run", *settings, "--output", finished, "--dataset", "other"), "another job")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "x").write_text("x")
    refused(call("run", *settings, "--output", foreign), "choose another --output")
    refused(
        call("run", *settings, "--output", finished, "--set", "align.size_px=64"),
        "size_px: 224 → 64",
        "--overwrite",
    )
    assert digests(finished) == before


def test_no_space_left_is_one_line(tmp_path: Path, settings: list[str]) -> None:
    out = tmp_path / "out"
    with small_disk(300_000):
        refused(call("run", *settings, "--output", out), "No space left", "same command")
    assert not list(out.rglob("*.tmp"))
    assert call("run", *settings, "--output", out).exit_code == 0
    assert call("verify", out).exit_code == 0


def test_new_inputs_ingested_alone_are_left_not_quarantined(
    tmp_path: Path, samples: Path, random_weights: Path
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    shutil.copy(samples / "person01_neutral.jpg", photos / "a.jpg")
    arguments = [
        "run", "--input", photos, "--output", tmp_path / "out",
        "--set", f"normalize.weights={random_weights}",
    ]  # fmt: skip
    assert call(*arguments).exit_code == 0
    shutil.copy(samples / "person02_anger.jpg", photos / "b.jpg")
    result = call(*arguments, "--stage", "ingest")
    assert result.exit_code == 0 and "quarantined" not in result.stderr
    state = json.loads(call("status", tmp_path / "out", "--json").stdout)
    assert [s["inputs_left"] for s in state["stages"]] == [0, 1, 1, 1]


def test_max_rejected_stops_the_job(tmp_path: Path, random_weights: Path) -> None:
    folder = tmp_path / "grey"
    folder.mkdir()
    from PIL import Image

    for i in range(6):
        Image.new("RGB", (120, 120), (90, 90, 90)).save(folder / f"{i}.png")
    line = refused(
        call(
            "run",
            "--input",
            folder,
            "--output",
            tmp_path / "out",
            "--max-rejected",
            "0.2",
            "--set",
            f"normalize.weights={random_weights}",
        ),
        "--max-rejected 0.2",
        "6 of 6",
    )
    assert "normpipe status" in line


def test_the_product_opens_without_our_code(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder of shards alone, as strangers will open it."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets
    import duckdb

    released = tmp_path / "released"
    shutil.copytree(finished / "normalized/compact", released)
    rows = datasets.load_dataset(str(released), split="train", cache_dir=str(tmp_path / "cache"))
    assert rows.num_rows == INPUTS
    pictures = [row["image"] for row in rows if row["status"] == "ok"]
    assert len(pictures) == 24 and pictures[0].size == (192, 192)
    counts = duckdb.sql(
        f"select status, count(*) from '{released}/shard-*.parquet' group by status order by 1"
    ).fetchall()
    assert counts == [("failed", 1), ("ok", 24), ("rejected", 1)]
    # Where the job made it, too: nothing but shards lies in the folder.
    import pandas
    import polars

    for dataset in ("manifest", "aligned", "normalized/compact", "pairs"):
        frame = pandas.read_parquet(finished / dataset)
        assert list(frame["status"]) == polars.read_parquet(finished / dataset)["status"].to_list()
        assert len(frame) == INPUTS

    import normpipe

    pairs = normpipe.open_dataset(finished)
    assert len(pairs) == 24
    item = pairs["samples/person01_happiness.jpg"]
    assert item["image"].shape == (3, 224, 224) and item["normalized"].shape == (3, 192, 192)


def test_threads_and_queues_change_no_byte(
    tmp_path: Path, settings: list[str], finished: Path
) -> None:
    for threads, prefetch in ((1, 1), (5, 4)):
        out = tmp_path / f"threads-{threads}"
        result = call(
            "run", *settings, "--output", out,
            "--set", f"run.threads={threads}", "--set", f"run.prefetch={prefetch}",
        )  # fmt: skip
        assert result.exit_code == 0, result.stderr
        assert digests(out) == digests(finished)
