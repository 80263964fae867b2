"""The job that its output saves: what it holds, who goes on with it, and what is refused."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from normpipe.pipeline.care.status import status
from normpipe.pipeline.config import RunConfig
from normpipe.pipeline.errors import InputError, OutputError
from normpipe.pipeline.run.progress import Progress
from normpipe.pipeline.run.runner import Options, Runner
from normpipe.pipeline.stage import Stage
from normpipe.pipeline.store.job_file import read_job, saved_settings
from normpipe.pipeline.store.labels import holds_job
from normpipe.pipeline.store.storage import without_credentials

from ..layouts import make_old, saved
from ..toys import SecondMap, ToyConfig, ToyJoin, ToyMap, ToySource

NAMES = [f"n{i}" for i in range(23)]
IDENTITY = {"dataset": "toy", "input": "here"}


def flow(factor: int = 1, variant: str = "second") -> list[Stage]:
    return [
        ToySource(NAMES),
        ToyMap(ToyConfig(factor=factor)),
        SecondMap(ToyConfig(factor=factor), reads="made", writes=variant),
    ]


def run(
    root: Path,
    stages: Sequence[Stage],
    selected: Sequence[Stage] = (),
    settings: RunConfig | None = None,
    **options: Any,
) -> None:
    wanted = Options(**{"identity": IDENTITY, **options})
    settings = settings or RunConfig(threads=1)
    Runner(root, stages, settings, wanted, Progress(bars=False)).run(selected or stages)


def test_a_fresh_folder_holds_all_settings_and_nothing_of_the_run(tmp_path: Path) -> None:
    run(tmp_path / "out", flow(), settings=RunConfig(threads=1))
    run(tmp_path / "other", flow(), settings=RunConfig(threads=3, prefetch=5, grace_seconds=1))
    job = saved(tmp_path / "out")
    assert job["toy-map"] == {"shard_rows": 10, "batch": 4, "factor": 1}
    assert {name: job[name] for name in IDENTITY} == IDENTITY and job["schema_version"]
    assert job["flow"][1] == {"stage": "toy-map", "reads": ["manifest"], "writes": "made"}
    assert "run" not in job and "output" not in job
    texts = [(tmp_path / name / "job.toml").read_bytes() for name in ("out", "other")]
    assert texts[0] == texts[1]


def test_a_refused_setting_does_not_stick_and_a_redone_one_does(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(out, flow())
    before = (out / "job.toml").read_bytes()
    with pytest.raises(OutputError, match=r"toy-map\.factor: 1 → 3.*'normpipe run .*out' without"):
        run(out, flow(factor=3))
    assert (out / "job.toml").read_bytes() == before
    run(out, flow(factor=3), overwrite=True)
    assert saved(out)["toy-map"]["factor"] == 3


def test_settings_of_stages_that_do_not_run_stay(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(out, flow())
    stages = flow(factor=3)
    run(out, stages, stages[:1])
    assert saved(out)["toy-map"]["factor"] == 1
    run(out, stages, stages[:2], overwrite=True)
    assert saved(out)["toy-map"]["factor"] == 3 and saved(out)["toy-second"]["factor"] == 1


def test_another_variant_is_a_dataset_beside_the_jobs_own(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(out, flow())
    before = (out / "job.toml").read_bytes()
    stages = [*flow()[:2], SecondMap(ToyConfig(factor=5), reads="made", writes="third")]
    run(out, stages, stages[2:])
    assert (out / "third").is_dir() and (out / "job.toml").read_bytes() == before
    assert [one["dataset"] for one in status(out)["stages"]] == [
        *("manifest", "made", "second", "third"),
    ]
    run(out, flow())


def test_a_longer_flow_is_written_down(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(out, flow())
    run(out, [*flow(), ToyJoin()])
    assert [entry["writes"] for entry in saved(out)["flow"]][-1] == "joined"
    assert "toy-join" in saved(out)


def test_an_attempt_that_made_nothing_binds_nobody(tmp_path: Path) -> None:
    out = tmp_path / "out"

    class Missing(ToyMap):
        def open(self) -> None:
            raise InputError("no such weights")

    with pytest.raises(InputError, match="weights"):
        run(out, [ToySource(NAMES), Missing(ToyConfig(factor=9))])
    assert saved(out)["toy-map"]["factor"] == 9
    run(out, flow(), identity={"dataset": "other", "input": "there"})
    assert saved(out)["toy-map"]["factor"] == 1 and saved(out)["dataset"] == "other"


def test_old_folders_are_read_and_go_over(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(out, flow())
    text = (out / "job.toml").read_bytes()
    make_old(out)
    assert holds_job(out) and status(out)["dataset"] == "toy"
    assert saved_settings(out, {"toy-map": ToyConfig}) is None
    with pytest.raises(OutputError, match=r"another job \(dataset: toy, here x\).*edit job.json"):
        run(out, flow(), identity={**IDENTITY, "dataset": "x"})
    with pytest.raises(OutputError, match="made with other settings"):
        run(out, flow(factor=3))
    assert not (out / "job.toml").exists()
    run(out, flow())
    assert (out / "job.toml").read_bytes() == text and not (out / "job.json").exists()


def test_killed_between_the_new_and_the_old_file(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(out, flow())
    (out / "job.json").write_text('{"dataset": "of another time"}')
    assert read_job(out)["dataset"] == "toy"
    run(out, flow())
    assert not (out / "job.json").exists()


def test_no_credentials_are_saved(tmp_path: Path) -> None:
    address = "sftp://me:secret@host:22/photos"
    identity = {"dataset": "toy", "input": address, "input_root": address}

    class Config(ToyConfig):
        source: str = address

    stages = [ToySource(NAMES, Config()), ToyMap()]
    run(tmp_path / "out", stages, identity=identity)
    text = (tmp_path / "out/job.toml").read_text()
    assert "secret" not in text and 'input = "sftp://host:22/photos"' in text
    run(tmp_path / "out", stages, identity=identity)  # it is the same job all the same


@pytest.mark.parametrize(
    ("address", "kept"),
    [
        ("sftp://me:p@ss@host/a@b", "sftp://host/a@b"),
        ("s3://KEY:sec/ret@bucket/in", "s3://bucket/in"),
        ("s3://:x@bucket", "s3://bucket"),
        ("sftp://host:22/in/a@b", "sftp://host:22/in/a@b"),
        ("abfs://container@account/in", "abfs://container@account/in"),
        ("/photos/me:you@home", "/photos/me:you@home"),
    ],
)
def test_credentials_are_told_from_places(address: str, kept: str) -> None:
    assert without_credentials(address) == kept


def test_a_folder_whose_name_is_no_text_is_a_jobs_input_too(tmp_path: Path) -> None:
    identity = {"dataset": "toy", "input": "/photos/caf\udce9"}
    run(tmp_path / "out", flow(), identity=identity)
    assert saved(tmp_path / "out")["input"] == "/photos/caf%E9"
    run(tmp_path / "out", flow(), identity=identity)


def test_what_no_setting_changes_offers_no_command(tmp_path: Path) -> None:
    class Newer(ToyMap):
        version = 2

    run(tmp_path / "out", flow())
    with pytest.raises(
        OutputError, match=r"\(version: 1 → 2\): go back to the old settings, choose"
    ):
        run(tmp_path / "out", [flow()[0], Newer(), flow()[2]])


def test_a_users_job_file_makes_no_job_and_is_not_written_over(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "job.toml").write_text('input = "x"\noutput = "."\n')
    assert not holds_job(out)
    with pytest.raises(OutputError, match="not empty and holds no normpipe job"):
        run(out, flow())
    with pytest.raises(InputError, match="no normpipe job"):
        read_job(out)
    assert (out / "job.toml").read_text().startswith('input = "x"')


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("factor = 1", "factor = = 1", "job.toml cannot be read"),
        ("factor = 1", "faktor = 1", "did you mean 'factor'"),
        ("factor = 1", "factor = 'x'", "job.toml: toy-source.factor"),
        ('writes = "made"', "", "must name stage, reads and writes"),
    ],
)
def test_a_broken_job_is_one_line(tmp_path: Path, old: str, new: str, words: str) -> None:
    out = tmp_path / "out"
    run(out, flow())
    text = (out / "job.toml").read_text()
    assert old in text
    (out / "job.toml").write_text(text.replace(old, new))
    with pytest.raises(InputError, match=words):
        run(out, flow(), flow()[:1])
