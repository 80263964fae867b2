"""Stages are chosen, run and reported as a user asks."""

from pathlib import Path
from typing import Any

import pytest
import typer

from normpipe.pipeline.commands.running import execute as module
from normpipe.pipeline.commands.running.execute import (
    align_faces,
    execute,
    identity,
    opened,
    refuse_unusable,
    refuse_without_faces,
    report_run,
    report_scores,
    run_until,
    select,
)
from normpipe.pipeline.config import Job, RunConfig, load_job
from normpipe.pipeline.errors import InputError, Interrupted, OutputError
from normpipe.pipeline.run.runner import Options
from normpipe.pipeline.store.shards import ShardFolder
from normpipe.stages import CONFIGS, build_flow
from normpipe.stages.classification.protocol_run import ProtocolResult

from ...toys import ToyMap, flow, run

FLOW = ["ingest", "align", "normalize", "pair", "classify", "evaluate"]


@pytest.mark.parametrize(
    ("only", "first", "until", "chosen"),
    [
        (None, None, None, ("ingest", None)),
        ("align", None, None, ("align", "align")),
        (None, "normalize", None, ("normalize", None)),
        (None, None, "align", ("ingest", "align")),
        (None, "align", "pair", ("align", "pair")),
        (None, "align", "align", ("align", "align")),
    ],
)
def test_stages_are_chosen_by_name(
    only: str | None, first: str | None, until: str | None, chosen: tuple[str, str | None]
) -> None:
    names = select(None, None, None)
    assert names[:4] == FLOW[:4]
    start, end = chosen
    last = names.index(end) if end else len(names) - 1
    assert select(only, first, until) == names[names.index(start) : last + 1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("align", "ingest", None), "--stage cannot be combined"),
        (("align", None, "pair"), "--stage cannot be combined"),
        (("allign", None, None), "unknown stage 'allign'; did you mean 'align'"),
        ((None, "pair", "align"), "--until align comes before --from pair: the order is ingest,"),
    ],
)
def test_a_choice_that_is_none_is_refused(arguments: tuple[Any, Any, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        select(*arguments)


def test_a_folder_is_known_by_where_its_input_really_is(tmp_path: Path, samples: Path) -> None:
    def of(source: Path, **ingest: str) -> dict[str, str]:
        given = {"input": source, "output": tmp_path / "out", "dataset": "d", "ingest": ingest}
        job = load_job(None, given, [], CONFIGS)
        return identity(job, build_flow(job))

    (tmp_path / "link").symlink_to(samples)
    assert of(tmp_path / "link") == of(samples)
    assert of(samples)["input"] == str(samples.resolve()) and of(samples)["dataset"] == "d"
    # A list's folder is that of the link, for its paths count from there.
    (tmp_path / "far").mkdir()
    (tmp_path / "far/list").write_text("image\na.jpg\n")
    (tmp_path / "list.csv").symlink_to("far/list")
    found = of(tmp_path / "list.csv")
    assert found["input"] == str(tmp_path.resolve() / "list.csv")
    other = of(tmp_path / "list.csv", root=str(tmp_path / "far"))
    assert other["input"] == found["input"] and other["input_root"] != found["input_root"]


def toy_job(output: Path, **run: Any) -> Job:
    return Job(output=output, dataset="toy", run=RunConfig(**{"threads": 1, **run}), stages={})


def test_a_deadline_drops_what_is_in_hand(tmp_path: Path) -> None:
    stages = flow([f"n{i}" for i in range(500)])
    with pytest.raises(Interrupted):
        execute(toy_job(tmp_path), stages, stages, Options(), deadline=lambda: True)
    done = len(ShardFolder(tmp_path / "made").records())
    assert done < 50 and not list(tmp_path.rglob("*.tmp"))
    execute(toy_job(tmp_path), stages[:1], stages[:1], Options(), deadline=lambda: False)


def test_workers_are_for_commands_that_say_how_they_build_stages(tmp_path: Path) -> None:
    stages = flow()
    with pytest.raises(InputError, match=r"run\.workers.* are for normpipe run"):
        execute(toy_job(tmp_path / "out", workers=2), stages, stages, Options())
    assert not (tmp_path / "out").exists()


def test_weights_are_accepted_before_anything_is_done(
    tmp_path: Path, samples: Path, random_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[list[str]] = []

    def executed(_job: Job, _flow: Any, selected: list[Any], options: Options) -> None:
        assert options.identity["dataset"] == "d" and options.settings
        ran.append([stage.name for stage in selected])

    monkeypatch.setattr(module, "execute", executed)
    given = {
        "input": samples, "output": tmp_path / "out", "dataset": "d",
        "normalize": {"weights": str(random_weights), "device": "cpu"},
    }  # fmt: skip
    job = load_job(None, given, [], CONFIGS)
    digests: list[str] = []
    run_until(job, "pair", Options(), digests.append)
    run_until(job, "align", Options(), digests.append)
    assert ran == [FLOW[:4], FLOW[:2]] and [len(one) for one in digests] == [64]

    def refuse(_digest: str) -> None:
        raise InputError("other weights")

    with pytest.raises(InputError, match="other weights"):
        run_until(job, "normalize", Options(), refuse)
    assert len(ran) == 2


def test_faces_of_a_list_are_aligned(tmp_path: Path, samples: Path) -> None:
    labels = tmp_path / "list.csv"
    labels.write_text("image,emotion\nperson01_neutral.jpg,neutral\n")
    out = align_faces(samples, labels, tmp_path / "out", {"size_px": 64, "device": "cpu"})
    found = opened(out / "aligned")
    assert [item["emotion"] for item in found] == ["neutral"]
    assert isinstance(found[0]["image"], bytes)  # encoded, as it lies there
    with pytest.raises(OutputError, match=r"align\.size_px: 64 → 80"):
        align_faces(samples, labels, out, {"size_px": 80, "device": "cpu"})


def test_all_rows_are_opened_with_their_reasons(tmp_path: Path) -> None:
    run(tmp_path, flow())
    statuses = [item["status"] for item in opened(tmp_path / "made")]
    assert (len(statuses), {*statuses}) == (28, {"ok", "rejected", "failed"})


def test_a_report_ends_in_an_error_where_rows_were_set_aside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"output": tmp_path, "dataset": "toy"}
    job = load_job(None, given, ["normalize.variant=mine"], CONFIGS)
    run(tmp_path, flow())
    report_run(job)
    shown = capsys.readouterr().out
    assert shown.startswith("stage") and "normalized dataset" not in shown
    manifest = ShardFolder(tmp_path / "normalized/mine").manifest_path
    manifest.parent.mkdir(parents=True)
    manifest.write_text("{}")
    report_run(job)
    assert f"normalized dataset: {tmp_path}/normalized/mine\n" in capsys.readouterr().out
    stages = flow(["n1", "n2"])
    assert isinstance(stages[1], ToyMap)
    stages[1].breaks = {"n2": 99}
    other = tmp_path / "other"
    run(other, stages, retries=0)
    with pytest.raises(OutputError, match="2 of toy-map"):
        report_run(job.model_copy(update={"output": other}))
    assert "toy-map: quarantined 2" in capsys.readouterr().out  # the table all the same


def test_a_training_that_is_not_through_exits_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report_scores(ProtocolResult([], None, True), tmp_path)
    assert capsys.readouterr().out == ""
    with pytest.raises(typer.Exit) as ended:
        report_scores(ProtocolResult([], None, False), tmp_path)
    assert ended.value.exit_code == 3 and str(tmp_path) in capsys.readouterr().out


def staged(stage: str, ok: int, **reasons: dict[str, int]) -> dict[str, Any]:
    return {"stage": stage, "ok": ok, "reasons": reasons}


def state_of(*stages: dict[str, Any]) -> dict[str, Any]:
    return {"output": "OUT", "stages": list(stages)}


def test_a_run_without_one_usable_row_says_why_and_what_to_do() -> None:
    bad = state_of(
        staged("ingest", 5, ingest={"empty_file": 1}),
        staged("align", 0, ingest={"empty_file": 1}, align={"no_face": 4, "low_score": 1}),
    )
    with pytest.raises(
        OutputError, match=r"align: none of 6 rows is ok; 4 have no_face \(no face.*"
    ):
        refuse_unusable(bad, FLOW)
    refuse_unusable(bad, ["ingest"])  # what another run did is not this one's
    strange = state_of(staged("align", 0, align={"from_tomorrow": 2}))
    with pytest.raises(OutputError, match="normpipe status OUT"):
        refuse_unusable(strange, FLOW)


def test_a_run_with_some_usable_rows_or_none_that_could_be_is_well() -> None:
    refuse_unusable(state_of(staged("align", 1, align={"no_face": 4})), FLOW)
    # Another variant of the same stage counts, and a withdrawal is no failure.
    refuse_unusable(
        state_of(staged("normalize", 0, n={"black_output": 1}), staged("normalize", 3)), FLOW
    )
    refuse_unusable(state_of(staged("align", 0, withdraw={"withdrawn": 4})), FLOW)
    refuse_unusable(state_of(staged("align", 0)), FLOW)


def test_a_table_without_a_face_says_so(tmp_path: Path) -> None:
    refuse_without_faces({"ok": 1, "failed": 3}, tmp_path / "a.csv")
    with pytest.raises(OutputError, match="none of 3 rows"):
        refuse_without_faces({"failed": 3}, tmp_path / "a.csv")
