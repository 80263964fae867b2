"""Job files and overrides."""

from pathlib import Path

import pytest

from normpipe.pipeline.config import RunConfig, differences, load_job, template
from normpipe.pipeline.errors import InputError
from normpipe.stages import CONFIGS


def test_file_then_command_line_then_overrides(tmp_path: Path) -> None:
    file = tmp_path / "job.toml"
    file.write_text('input = "photos"\noutput = "out"\n[align]\nsize_px = 96\nquality = 80\n')
    job = load_job(
        file, {"output": Path("elsewhere")}, ["align.size_px=128", "run.retries=0"], CONFIGS
    )
    assert job.input == tmp_path / "photos"
    assert job.output == Path("elsewhere")
    assert job.dataset == "photos"
    assert job.stage("align").size_px == 128 and job.stage("align").quality == 80
    assert job.run.retries == 0


def test_a_list_s_folder_counts_from_the_job_file(tmp_path: Path) -> None:
    file = tmp_path / "job.toml"
    file.write_text('input = "faces.csv"\noutput = "out"\n[ingest]\nroot = "photos"\n')
    assert load_job(file, {}, [], CONFIGS).stage("ingest").root == tmp_path / "photos"


@pytest.mark.parametrize("value", ["3", "true", '["photos"]', "2024-01-01", "{a = 1}", "10:00:00"])
@pytest.mark.parametrize("key", ["input", "output", "dataset"])
def test_what_must_be_text_is_text(tmp_path: Path, key: str, value: str) -> None:
    rest = {"input": "'photos'", "output": "'out'", "dataset": "'d'"} | {key: value}
    file = tmp_path / "job.toml"
    file.write_text("".join(f"{name} = {text}\n" for name, text in rest.items()))
    with pytest.raises(InputError, match=rf"^{key} = .* is not text: put it in quotes$"):
        load_job(file, {}, [], CONFIGS)


def test_override_values_are_toml_or_else_words() -> None:
    given = {"input": Path("x"), "output": Path("y")}
    job = load_job(None, given, ["align.detector=none", 'pair.variants=["a", "b"]'], CONFIGS)
    assert job.stage("align").detector == "none"
    assert job.stage("pair").variants == ("a", "b")


#: Characters that TOML, a shell or a terminal give a meaning to.
AWKWARD = ["it's", 'a "b" c', "back\\slash", " two  words ", "zoë/😀", "'", '"', "a#b", "[x", "-"]


@pytest.mark.parametrize(
    "text", [*AWKWARD, "1\nlimit = 2", "1\n[run]", "tab\there", "[" * 5000, "9" * 5000]
)
def test_what_is_no_toml_value_is_plain_text(text: str) -> None:
    given = {"input": Path("x"), "output": Path("y")}
    job = load_job(None, given, [f"align.pack={text}"], CONFIGS)
    assert job.stage("align").pack == text


@pytest.mark.parametrize("text", [*AWKWARD, "7", "true", "[1, 2]", "2024-01-01", "x = 1"])
def test_values_of_options_are_taken_as_they_are(tmp_path: Path, text: str) -> None:
    given = {
        "input": Path(text),
        "dataset": "d",
        "output": Path("y"),
        "align": {"pack": text},
        "run": {"scheduler": f"tcp://{text}"},
    }
    job = load_job(None, given, [], CONFIGS)
    assert job.input == Path(text) and job.stage("align").pack == text
    assert job.run.scheduler == f"tcp://{text}"


def test_options_win_over_set_file_and_saved(tmp_path: Path) -> None:
    file = tmp_path / "job.toml"
    file.write_text('input = "x"\noutput = "y"\n[ingest]\nlimit = 1\nshard_rows = 7\n')
    given = {"ingest": {"limit": 3, "allow_urls": None}, "run": {"workers": None}}
    for saved, source in ((None, file), ({"output": "y", "ingest": {"limit": 1}}, None)):
        job = load_job(source, given, ["ingest.limit=2"], CONFIGS, saved)
        assert job.stage("ingest").limit == 3 and not job.stage("ingest").allow_urls
        assert load_job(source, {}, ["ingest.limit=2"], CONFIGS, saved).stage("ingest").limit == 2
    assert load_job(file, given, [], CONFIGS).stage("ingest").shard_rows == 7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[align]\nsizepx = 3", "unknown key 'align.sizepx' in the job; did you mean 'size_px'?"),
        ("[aling]\n", "unknown key 'aling' in the job; did you mean 'align'?"),
        ("align = 3", "must be a table"),
        ("[align]\nsize_px = 'big'", "align.size_px = 'big'"),
        ("[run]\nthreads = 0", "run.threads = 0"),
        ("dataset = 'a/b'", "may not contain"),
        ("x = ", "not valid TOML"),
    ],
)
def test_mistakes_are_named_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "job.toml"
    file.write_text(text)
    with pytest.raises(InputError) as error:
        load_job(file, {"input": Path("x"), "output": Path("y")}, [], CONFIGS)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["input", "output"])
@pytest.mark.parametrize(
    ("address", "why"),
    [("https://x.org/a", "object store"), ("nosuch:/x/a", "knows no storage")],
)
def test_an_address_must_be_of_a_store(name: str, address: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        load_job(None, {"input": Path("x"), "output": Path("y"), name: Path(address)}, [], CONFIGS)


def test_an_output_may_lie_in_a_store(tmp_path: Path) -> None:
    file = tmp_path / "job.toml"
    file.write_text('input = "x"\noutput = "memory://bucket/out/"\n')
    assert str(load_job(file, {}, [], CONFIGS).output) == "memory://bucket/out"


def test_every_setting_is_described_and_in_the_template() -> None:
    text = template(CONFIGS)
    for name, model in {"run": RunConfig, **CONFIGS}.items():
        assert f"\n[{name}]\n" in text
        for key, info in model.model_fields.items():
            assert info.description, f"{name}.{key} has no description"
            assert f"# {key} = " in text


def test_settings_outside_the_fingerprint_are_the_intended_ones() -> None:
    hidden = {
        f"{name}.{key}"
        for name, model in CONFIGS.items()
        for key in set(model.model_fields) - set(model().shaping())
    }
    assert hidden == {
        "ingest.limit", "ingest.extensions", "ingest.follow_symlinks", "ingest.class_per_folder",
        "ingest.root", "ingest.path_column", "ingest.videos", "ingest.animations", "ingest.every",
        "ingest.fps", "ingest.seconds", "ingest.first_frame", "ingest.max_frames",
        "ingest.columns", "ingest.au_columns", "ingest.au_missing", "ingest.emotion_names",
        "ingest.valence_arousal_missing", "align.pack", "align.model_root", "align.device",
        "normalize.weights", "normalize.weights_sha256",
        "align.pack_sha256", "align.isolate", "align.decode_seconds", "align.decode_memory_mb",
        "align.fetch_seconds", "ingest.allow_urls", "align.memory_gb", "normalize.memory_gb",
        "normalize.variant", "normalize.device",
        "classify.device", "classify.devices", "classify.threads", "classify.workers",
        "classify.memory_gb", "classify.minutes", "classify.save_every", "classify.accumulate",
        "classify.folds",
        "ingest.release", "ingest.release_file", "ingest.release_sha256", "ingest.layout",
        "ingest.labelled_only",
        # Later than 0.1.0, with their default:
        "classify.encoder_rate", "classify.batch_norm", "classify.votes", "classify.mirror",
        "classify.label_smoothing", "classify.stem", "classify.drop_duplicates", "evaluate.by",
        "classify.imbalance_power", "evaluate.other_classes", "evaluate.variant",
        "evaluate.present_from", "pair.origins",
        "normalize.colours", "normalize.input_range", "normalize.output_range",
        "align.listed", "align.upright", "align.look", "align.white",
        "ingest.emotion_missing",
        "ingest.emotion_columns", "ingest.unknown_words", "ingest.match_names",
    }  # fmt: skip


def test_what_a_message_quotes_ends_no_line_and_commands_no_terminal() -> None:
    assert str(InputError("no column 'a\nb' in \x1b[2Jé.csv")) == "no column 'a b' in \\x1b[2Jé.csv"


def test_differences_are_named_as_a_user_writes_them() -> None:
    old = {"size_px": 224, "columns": {"subject": "who"}, "root": None, "digest": "a" * 64}
    new = {"size_px": 160, "columns": {}, "root": "", "digest": "b" * 64}
    assert differences(old, new, "x.") == [
        "x.columns.subject: who → unset",
        "x.digest: aaaaaaaaaa… → bbbbbbbbbb…",
        'x.root: unset → ""',
        "x.size_px: 224 → 160",
    ]
