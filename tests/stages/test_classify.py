"""Training a classifier: it learns, it can be killed, and it refuses what does not fit."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from normpipe.pipeline.errors import InputError, OutputError
from normpipe.stages import classify as module
from normpipe.stages.classification.classifiers import (
    open_classifier,
    save_classifier,
    start_digest,
)
from normpipe.stages.classification.evaluate import evaluate_partition
from normpipe.stages.classification.protocol_run import run_protocol
from normpipe.stages.classification.scores.score_files import read_scores
from normpipe.stages.classification.settings import EvaluateConfig
from normpipe.stages.classify import plan_partitions, train
from normpipe.stages.networks.files.checkpoint import (
    find_weights,
    read_notes,
    read_tensors,
    save_tensors,
)
from normpipe.stages.networks.files.normalizer_file import open_normalizer
from normpipe.stages.networks.norface import NorfaceNormalizer
from normpipe.stages.networks.vit import Vit
from normpipe.stages.training.logs import read_log
from normpipe.stages.training.trainer import Trainer

from .classification.faces import Face, opened, write_faces
from .classification.training import EMOTIONS, TINY, easy_faces, planned, run, settings

ROOT = Path(__file__).parents[2]
LEG = {"least_steps": 12, "save_every": 2}
NORFACE = {"preset": "norface", "size": "T", "image_size": 32}
COMPACT = {"preset": "compact"}


def weights(folder):
    return (folder / "classifier.safetensors").read_bytes()


def card(folder):
    return json.loads((folder / "classifier.json").read_text())


@pytest.fixture(scope="module")
def whole(easy, tmp_path_factory):
    output = tmp_path_factory.mktemp("whole")
    assert run(settings(**LEG), easy, output).finished
    return output


def test_it_leaves_a_model_and_a_card(whole, easy):
    found = card(whole)
    assert found["classes"] == [*EMOTIONS] and found["steps"] == 12
    assert found["trained_on"] == {
        "dataset": "d", "faces": 38, "left_out": 2, "subjects": 10, "normalized_by": ["w"],
        "dropped_duplicates": 0, "excluded": 0, "pictures_unknown": 38,
    }  # fmt: skip
    listing, task, part = planned(settings(), easy)
    truth = task.truth(listing.labels)[part.train][listing.usable[part.train]]
    assert found["fallback"] == pytest.approx([(truth == n).mean() for n in range(3)])
    model = open_classifier(whole)
    assert model.task.names == EMOTIONS and model.views == "original+normalized"
    assert found["parameters"] == sum(p.numel() for p in model.network.parameters())
    assert not [*whole.glob("*.state.safetensors"), *whole.glob("*.tmp")]
    assert {row[2] for row in read_log(whole / "log.csv")} >= {"loss/total", "loss/labels", "rate"}


def test_a_second_call_does_nothing(whole, easy):
    times = {path: path.stat().st_mtime_ns for path in whole.iterdir()}
    same = settings(**LEG, workers=1, memory_gb=0.0)  # how, not what
    assert run(same, easy, whole).finished
    assert {path: path.stat().st_mtime_ns for path in whole.iterdir()} == times


def test_other_settings_are_refused_and_overwrite_redoes(whole, easy, tmp_path):
    for name in ("classifier.safetensors", "classifier.json"):
        (tmp_path / name).write_bytes((whole / name).read_bytes())
    other = settings(**{**LEG, "seed": 1})
    with pytest.raises(OutputError, match=r"other (labels or pictures|settings).*--overwrite"):
        run(other, easy, tmp_path)
    assert weights(tmp_path) == weights(whole)
    assert run(other, easy, tmp_path, overwrite=True).finished
    assert weights(tmp_path) != weights(whole) and card(tmp_path)["recipe"]["seed"] == 1


def test_overwrite_also_redoes_what_was_half_done(easy, tmp_path):
    half = settings(**LEG, minutes=1e-9)
    assert not run(half, easy, tmp_path).finished
    state = tmp_path / "classifier.state.safetensors"
    assert state.is_file() and not (tmp_path / "classifier.json").is_file()
    other = settings(**{**LEG, "seed": 1, "least_steps": 2, "epochs": 1, "batch_size": 38})
    with pytest.raises(InputError, match="other settings or data"):
        run(other, easy, tmp_path)
    assert run(other, easy, tmp_path, overwrite=True).finished
    assert card(tmp_path)["steps"] == 2


def test_legs_make_the_whole(whole, easy, tmp_path):
    """Stopped after every step; and pictures that are read as needed are the same."""
    config = settings(**LEG, minutes=1e-9, memory_gb=0.0)
    legs = 0
    while not run(config, easy, tmp_path, overwrite=legs == 3).finished:
        legs += 1
    assert legs == 11
    assert weights(tmp_path) == weights(whole)


@pytest.mark.slow
def test_a_killed_training_goes_on_exactly(whole, easy, tmp_path):
    state = tmp_path / "classifier.state.safetensors"
    process = subprocess.Popen(command(easy, tmp_path, LEG), **environment())
    deadline = time.monotonic() + 200
    while process.poll() is None and time.monotonic() < deadline:
        if state.is_file() and len(read_tensors(state)["losses"]) >= 4:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.005)
    assert process.wait() == -signal.SIGKILL
    assert state.is_file() and not (tmp_path / "classifier.safetensors").is_file()
    assert run(settings(**LEG), easy, tmp_path).finished
    assert weights(tmp_path) == weights(whole)


def command(data, output, change):
    config = json.dumps({**TINY, **change})
    script = "tests.stages.classification.training"
    return [sys.executable, "-m", script, config, str(data), str(output)]


def environment():
    return {"cwd": ROOT, "env": {**os.environ, "OMP_NUM_THREADS": "1"}}


@pytest.mark.slow
def test_two_processes_finish_and_write_once(easy, tmp_path):
    done = subprocess.run(
        command(easy, tmp_path, {**LEG, "devices": 2}), capture_output=True, timeout=280,
        **environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    assert card(tmp_path)["steps"] == 12
    steps = [row[1] for row in read_log(tmp_path / "log.csv") if row[2] == "loss/total"]
    assert steps == ["12"]
    scored = read_scores(tmp_path / "scores").card
    assert scored.coverage.test_rows == 20 and scored.coverage.kept == 18
    assert b"Error" not in done.stderr
    for tensor in open_classifier(tmp_path).network.state_dict().values():
        assert tensor.isfinite().all()
    assert not [*tmp_path.glob("*.state.safetensors"), *tmp_path.glob("*.tmp")]


def test_the_average_is_kept(easy, tmp_path, monkeypatch):
    """Followed step by step by its formula; and it, not the last weights, is what is saved."""
    trainers, seen = [], []

    class Watched(module.Trainer):
        def save(self):
            trainers.append(self)
            seen.append(self.unwrapped.head.answer.detach().clone())
            super().save()

    monkeypatch.setattr(module, "Trainer", Watched)
    run(settings(least_steps=10, learning_rate=0.01, save_every=1), easy, tmp_path)
    average, decay = seen[0], 1 - 10 / 20  # of a short run
    for weight in seen[1:10]:
        average = decay * average + (1 - decay) * weight
    saved = open_classifier(tmp_path).network.state_dict()
    torch.testing.assert_close(saved["head.answer"], average, rtol=1e-4, atol=1e-6)
    assert (saved["head.answer"] - seen[9]).abs().max() > 1e-4
    for name, tensor in trainers[-1].averaged().items():
        assert torch.equal(saved[name], tensor), name


def test_a_frozen_encoder_stays_as_it_was(easy, tmp_path):
    encoder = Vit("T", 32)
    file = tmp_path / "mae.safetensors"
    save_tensors(encoder.state_dict(), file, {})
    change = {**NORFACE, "encoder": str(file), "freeze_encoder": True}
    run(settings(**change), easy, tmp_path / "frozen")
    frozen = open_classifier(tmp_path / "frozen").network
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(frozen.encoder.vit.state_dict()[name], tensor)
    run(settings(**{**change, "freeze_encoder": False}), easy, tmp_path / "free")
    free = open_classifier(tmp_path / "free").network
    assert not torch.equal(free.encoder.vit.state_dict()["norm.weight"],
                           encoder.state_dict()["norm.weight"])  # fmt: skip
    for name, tensor in frozen.head.state_dict().items():
        assert tensor.isfinite().all(), name
    # The file is looked at, not only its name.
    save_tensors(Vit("T", 32).state_dict(), file, {})
    with pytest.raises(OutputError, match="other settings"):
        run(settings(**change), easy, tmp_path / "frozen")


def test_it_starts_from_the_normalizers_encoder(easy, tmp_path):
    """By default from the shipped weights; their digest is in the model's notes and card."""
    shipped = open_normalizer("compact")
    known = {name.removeprefix("encoder."): value for name, value in
             shipped.module.state_dict().items() if name.startswith("encoder.body.")}  # fmt: skip
    change = {"preset": "compact", "freeze_encoder": True, "mirror": True}
    run(settings(**change), easy, tmp_path / "frozen")
    model = open_classifier(tmp_path / "frozen")
    encoder = model.network.encoder
    for name, value in known.items():
        assert torch.equal(encoder.state_dict()[name], value), name
    assert model.started_from == shipped.digest and model.network.mirror
    start = {"weights": "compact", "sha256": shipped.digest}
    assert card(tmp_path / "frozen")["started_from"] == start
    # It sees what the normalizer's encoder sees.
    picture = torch.rand(2, 1, encoder.image_size, encoder.image_size)
    tokens = encoder.norm(shipped.module.features(picture.expand(-1, 3, -1, -1)).flatten(2).mT)
    torch.testing.assert_close(encoder(picture), tokens + encoder.place, atol=2e-4, rtol=1e-3)
    with pytest.raises(OutputError, match=r'classify\.encoder: "" → random'):
        run(settings(**{**change, "freeze_encoder": False, "encoder": "random"}), easy,
            tmp_path / "frozen")  # fmt: skip
    # A shipped name may have dots. Weights that change under their name are another start.
    encoder_file = tmp_path / "start.safetensors"
    for name in ("compact-0.1.0", "compact"):
        assert start_digest(settings(preset="compact", encoder=name)) == (
            open_normalizer(name).digest
        )
    shutil.copy(find_weights("compact"), encoder_file)
    named = settings(**{**change, "encoder": str(encoder_file), "least_steps": 2})
    run(named, easy, tmp_path / "named")
    shutil.copy(find_weights("compact-0.1.0"), encoder_file)
    with pytest.raises(OutputError, match=r"\(the weights of classify\.encoder are others\)"):
        run(named, easy, tmp_path / "named")
    run(settings(preset="compact", encoder="random"), easy, tmp_path / "random")
    other = open_classifier(tmp_path / "random")
    assert other.started_from == "" and card(tmp_path / "random")["started_from"]["sha256"] == ""
    assert not torch.equal(other.network.encoder.body[0].weight, encoder.body[0].weight)


def test_norface_starts_from_a_norface_normalizer(easy, tmp_path):
    torch.manual_seed(0)
    normalizer = NorfaceNormalizer(3, "T", 32, picture_size=48, stem="conv", merge_depth=1)
    file = tmp_path / "norface.safetensors"
    notes = {"network": "norface", "settings": normalizer.settings(), "expression_names": "a,b,c"}
    save_tensors(normalizer.state_dict(), file, notes)
    run(settings(preset="norface", encoder=str(file), freeze_encoder=True), easy, tmp_path / "m")
    network = open_classifier(tmp_path / "m").network
    assert network.image_size == 48
    seen = torch.rand(2, 3, 48, 48)
    with torch.inference_mode():
        torch.testing.assert_close(network.encoder(seen), normalizer.eval()._tokens(seen))


@pytest.mark.parametrize("batch_norm", ["trained", "frozen"])
def test_batch_norms_are_frozen_on_request(easy, tmp_path, batch_norm):
    known = open_normalizer("compact").module.encoder.body[1].running_mean
    run(settings(preset="compact", batch_norm=batch_norm), easy, tmp_path)
    found = open_classifier(tmp_path).network.encoder.body[1].running_mean
    assert torch.equal(found, known) == (batch_norm == "frozen")


def test_the_encoder_learns_more_slowly_on_request(easy, tmp_path, monkeypatch):
    trainers = []
    monkeypatch.setattr(module, "Trainer", lambda *given: trainers.append(Trainer(*given)) or
                        trainers[-1])  # fmt: skip
    run(settings(preset="compact", encoder_rate=0.1), easy, tmp_path)
    slow, fast = sorted(trainers[0].optimizers[0].param_groups, key=lambda group: group["share"])
    network = trainers[0].unwrapped
    assert slow["lr"] == pytest.approx(0.1 * fast["lr"]) and fast["share"] == 1
    assert {id(p) for p in slow["params"]} == {id(p) for p in network.encoder.parameters()}
    assert {id(p) for p in fast["params"]} == {id(p) for p in network.head.parameters()}


def test_encoders_that_do_not_fit_are_one_line(easy, tmp_path):
    for change, words in (
        ({"freeze_encoder": True}, "freeze_encoder would keep random weights"),
        ({**COMPACT, "encoder": "random", "batch_norm": "frozen"}, "'frozen' would keep random"),
        ({"encoder": "compact"}, "preset = 'compact' or 'norface'"),
        ({**NORFACE, "encoder": "x.pth"}, "no encoder weights x.pth"),
        ({**NORFACE, "encoder": "compact-0.1.0"}, "is a compact normalizer: .* = 'compact'"),
        ({**NORFACE, "encoder": "compact"}, "is a compact normalizer: .* = 'compact'"),
        ({**COMPACT, "encoder": "compakt"}, r"no weights 'compakt': .*\(compact"),
        ({**COMPACT, "votes": True}, "no votes for these emotions"),
        ({**COMPACT, "votes": True, "task": "intensity"}, "works for emotions only"),
        ({**NORFACE, "size": "X"}, "unknown network size"),
        ({"batch_size": 9, "accumulate": 2}, "cannot be split into 2"),
        ({"task": "action_units", "imbalance": "sampling"}, "sampling works for emotions only"),
    ):
        with pytest.raises(InputError, match=words):
            run(settings(**change), easy, tmp_path / words[:4])


@pytest.mark.parametrize(
    "change",
    [
        {"imbalance": "sampling"},
        {"imbalance": "none", "head": "dense"},
        {"top": 2, "layers": 2},
        {"accumulate": 4},
        {"task": "action_units", "views": "normalized"},
        {"task": "intensity", "icc_weight": 0.5, "intensity_loss": "huber"},
        {"views": "original+original"},
        {"views": "original+code"},
        {"views": "original+features"},
        {**NORFACE, "views": "original"},
        {**COMPACT, "encoder_rate": 0.3, "batch_norm": "frozen", "mirror": True},
        {**COMPACT, "views": "original+features", "label_smoothing": 0.1},
    ],
    ids=lambda change: ",".join(map(str, change.values())),
)
def test_every_kind_of_training(easy, tmp_path, change):
    config = settings(**{"least_steps": 2, "batch_size": 16, **change})
    assert run(config, easy, tmp_path).finished
    names = {row[2].removeprefix("loss/") for row in read_log(tmp_path / "log.csv")}
    assert ("icc" in names) == ("icc_weight" in change) and ("balance" in names) == (
        "top" in change
    )
    listing, _, part = planned(config, easy)
    found = evaluate_partition(EvaluateConfig(device="cpu"), listing, part, tmp_path)
    assert found.coverage.kept == 18 and found.views == config.views
    assert found.head == change.get("head", "mixture")


def test_accumulation_sees_the_same_faces(easy, tmp_path, whole):
    """Parts draw their own augmentation and normalize over themselves: near, not the same."""
    run(settings(**LEG, accumulate=2), easy, tmp_path)
    assert weights(tmp_path) != weights(whole)
    one, two = (open_classifier(path).network.state_dict() for path in (whole, tmp_path))
    gaps = [
        (one[name] - two[name]).norm() / one[name].norm()
        for name in ("head.answer", "head.gather.in_proj_weight")
    ]
    assert max(gaps) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "figure"),
    [({}, "accuracy"), ({"task": "intensity", "icc_weight": 1.0}, "icc")],
    ids=["emotion", "intensity"],
)
def test_it_learns_what_can_be_seen(easy, tmp_path, change, figure):
    config = settings(least_steps=80, batch_size=16, **change)
    run(config, easy, tmp_path)
    listing, _, part = planned(config, easy)
    found = evaluate_partition(EvaluateConfig(device="cpu"), listing, part, tmp_path)
    assert found.scores["kept"][figure] > 0.9
    for views in ("original", "normalized"):  # each view alone
        shown = EvaluateConfig(device="cpu", views=views)
        alone = evaluate_partition(shown, listing, part, tmp_path)
        assert alone.scores["kept"][figure] > 0.8 and alone.views == views


def test_labels_that_differ_are_another_training(whole, easy, tmp_path):
    listing, task, part = planned(settings(**LEG), easy)
    for name in ("classifier.safetensors", "classifier.json"):
        (tmp_path / name).write_bytes((whole / name).read_bytes())
    assert train(settings(**LEG), listing, task, part, tmp_path).finished
    fewer = part.__class__(part.name, "", None, part.train[1:], part.test)
    with pytest.raises(OutputError, match="other labels or pictures"):
        train(settings(**LEG), listing, task, fewer, tmp_path)


def test_pictures_of_the_test_part_can_be_dropped_from_training(tmp_path):
    faces = [Face(key, labels, original=one, normalized=two)
             for key, labels, one, two in easy_faces(9)]  # fmt: skip
    for number, face in enumerate(faces):
        face.source = f"s{number}"
    for number in (0, 5, 11):  # train; the last twelve test
        faces[number].source = f"s{number + 24}"
    folder = write_faces(tmp_path / "data", faces)
    found = run_all(settings(least_steps=2), folder, tmp_path / "kept")
    assert found.card.coverage.trained == 3
    assert any(
        note.startswith("3 of 12 test pictures also trained") for note in found.card.warnings
    )
    dropping = settings(least_steps=2, drop_duplicates=True)
    found = run_all(dropping, folder, tmp_path / "dropped")
    assert found.card.coverage.trained == 0
    assert not any("trained" in note for note in found.card.warnings)
    about = card(tmp_path / "dropped")["trained_on"]
    assert (about["faces"], about["dropped_duplicates"]) == (21, 3)
    assert about["pictures_unknown"] == 0
    with pytest.raises(OutputError, match=r"other (labels|settings)"):
        run_all(dropping, folder, tmp_path / "kept")
    # A model of an earlier release learns what it was trained on, and is not trained anew.
    old = tmp_path / "kept/classifier.json"
    about = json.loads(old.read_text())
    del about["trained_on"]["pictures_unknown"]
    about["trained_on"]["normalized_by"] = []
    old.write_text(json.dumps(about))
    (tmp_path / "kept/training_pictures.npy").unlink()
    model = open_classifier(tmp_path / "kept")
    save_classifier(replace(model, normalized_by=()), tmp_path / "kept/classifier.safetensors")
    again = run_all(settings(least_steps=2), folder, tmp_path / "kept")
    assert again.card.coverage.trained == 3
    assert open_classifier(tmp_path / "kept").normalized_by == ("w",)
    assert card(tmp_path / "kept")["trained_on"]["normalized_by"] == ["w"]


def run_all(config, folder, output):
    planned = plan_partitions(config, opened(folder))
    (scores,) = run_protocol(config, EvaluateConfig(device="cpu"), planned, output).scores
    return scores


def test_the_real_job_is_classified_in_folds(samples_job, tmp_path):
    """Three classes of the package's own faces, through the real stages."""
    config = settings(
        labels=("happiness", "surprise", "anger"), folds="2", batch_size=4, least_steps=2
    )
    listing, task, parts = planned = plan_partitions(config, opened(samples_job))
    found = run_protocol(config, EvaluateConfig(device="cpu"), planned, tmp_path)
    assert found.finished and len(found.scores) == 2 and found.pooled is not None
    assert len(listing) == 27 and listing.name == "samples"
    rows = sum(len(part.test) for part in parts)
    assert found.pooled.predictions.num_rows == rows == sum(
        name in task.names for name in listing.column("emotion")
    )  # fmt: skip
    people = [{*run.predictions["subject"].to_pylist()} for run in found.scores]
    assert not people[0] & people[1]
    assert "fold 1 of 2" in found.table()
    # The pooled score repeats what holds for all folds, and nothing that counts one fold's rows.
    notes = found.pooled.card.warnings
    assert len({*notes}) == len(notes) and {*parts[0].notes} & {*parts[1].notes} <= {*notes}
    assert not any(f" of {len(parts[0].test)} " in note for note in notes)
    model = weights(tmp_path / "fold-1")
    again = run_protocol(config, EvaluateConfig(device="cpu"), planned, tmp_path)
    assert again.pooled.card == found.pooled.card and weights(tmp_path / "fold-1") == model


def test_cross_dataset(easy, samples_job, tmp_path):
    config = settings(labels=("neutral", "happiness"), least_steps=2)
    scoring = EvaluateConfig(device="cpu", any_normalizer=True)  # drawn faces, real faces
    other = (opened(samples_job), "")
    planned = plan_partitions(config, opened(easy), other)
    found = run_protocol(config, scoring, planned, tmp_path, other)
    (scored,) = found.scores
    assert scored.card.train_dataset == "d" and scored.card.test_dataset == "samples"
    assert scored.card.coverage.test_rows == 12 and found.pooled is None
    listing, _, parts = planned
    assert {listing.column("split")[row] for row in parts[0].train} == {"train"}
    never = settings(labels=("neutral", "fear"))
    with pytest.raises(InputError, match="never name 'fear'"):
        plan_partitions(never, opened(easy), other)
    with pytest.raises(InputError, match="exclude each other"):
        plan_partitions(settings(folds="3"), opened(easy), other)


def test_notes_of_a_state_say_what_it_belongs_to(easy, tmp_path):
    run(settings(**LEG, minutes=1e-9), easy, tmp_path)
    notes = read_notes(tmp_path / "classifier.state.safetensors")
    found = json.loads(notes["fingerprint"])
    assert {"settings", "data", "task", "files", "losses", "shapes"} <= found.keys()
    assert np.isfinite(float(notes["cpu_seconds"]))
