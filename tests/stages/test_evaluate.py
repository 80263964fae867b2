"""Scores of a classifier: every test input counts, and nothing is done twice."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from normpipe.pipeline.errors import InputError
from normpipe.stages.classification import evaluate as module
from normpipe.stages.classification.classifiers import (
    open_classifier,
    save_classifier,
    save_pictures,
    trained_by,
)
from normpipe.stages.classification.evaluate import (
    evaluate,
    evaluate_partition,
    list_for,
    paper_style,
    part_elsewhere,
)
from normpipe.stages.classification.listing import list_faces
from normpipe.stages.classification.protocol import all_of
from normpipe.stages.classification.protocol_run import run_protocol
from normpipe.stages.classification.scores.score_files import read_scores
from normpipe.stages.classification.settings import EvaluateConfig
from normpipe.stages.classify import plan_partitions

from .classification.faces import Face, opened, write_faces
from .classification.training import EMOTIONS, planned, run, settings

CPU = EvaluateConfig(device="cpu")


@pytest.fixture(scope="module")
def trained(easy, tmp_path_factory):
    output = tmp_path_factory.mktemp("model")
    run(settings(least_steps=3), easy, output)
    return output


@pytest.fixture
def model(trained, tmp_path):
    """A copy, to change."""
    return shutil.copytree(trained, tmp_path / "model")


@pytest.fixture(scope="module")
def plan(easy):
    return planned(settings(), easy)


def predicted(predictions):
    return np.stack([predictions[f"p_{name}"].to_numpy() for name in EMOTIONS], 1)


def test_unusable_faces_get_the_fallback(model, plan):
    listing, _, part = plan
    card = evaluate_partition(CPU, listing, part, model)
    assert card == read_scores(model / "scores").card
    assert card.coverage.model_dump() == {
        "test_rows": 20, "kept": 18, "without_truth": 0, "by_reason": {"no_face": 2},
        "unknown_classes": {}, "trained": 0, "left_out": {}, "excluded": 0,
    }  # fmt: skip
    predictions = read_scores(model / "scores").predictions
    lost = np.array([status != "ok" for status in predictions["status"].to_pylist()])
    assert lost.sum() == 2
    by = np.array(predictions["predicted_by"].to_pylist())
    assert (by == np.where(lost, "fallback", "model")).all()
    fallback = json.loads((model / "classifier.json").read_text())["fallback"]
    for row in predicted(predictions)[lost]:
        assert row == pytest.approx(fallback, abs=1e-6)
    assert predictions["key"].to_pylist() == listing.take(part.test).column("key")
    truth = listing.take(part.test).column("emotion")
    assert predictions["truth"].to_pylist() == truth
    guess = [EMOTIONS[n] for n in predicted(predictions).argmax(1)]
    right = np.array([one == two for one, two in zip(guess, truth, strict=True)])
    assert card.scores["full"]["accuracy"] == pytest.approx(right.mean())
    assert card.scores["kept"]["accuracy"] == pytest.approx(right[~lost].mean())
    assert (card.split, card.fold, card.seed, card.variant) == ("split test", None, 0, "compact")


def test_predictions_do_not_depend_on_memory_or_company(model, plan):
    listing, _, part = plan
    evaluate_partition(CPU, listing, part, model)
    whole = predicted(read_scores(model / "scores").predictions)
    few = EvaluateConfig(device="cpu", memory_gb=0.0)
    evaluate(few, model, listing, replace(part, test=part.test[:3]), model / "few")
    some = predicted(read_scores(model / "few").predictions)
    assert some == pytest.approx(whole[:3], abs=1e-5)


def test_a_second_call_does_nothing(model, plan, monkeypatch):
    listing, _, part = plan
    card = evaluate_partition(CPU, listing, part, model)

    def never(*_):
        raise AssertionError("predicted again")

    with monkeypatch.context() as patch:
        patch.setattr(module, "predict_faces", never)
        assert evaluate_partition(CPU, listing, part, model) == card
        for config in (EvaluateConfig(device="cpu", threshold=0.4),
                       EvaluateConfig(device="cpu", views="original")):  # fmt: skip
            with pytest.raises(AssertionError, match="predicted again"):
                evaluate_partition(config, listing, part, model)
    made = open_classifier(model)
    with torch.no_grad():
        made.network.head.bias.add_(torch.tensor([0.0, 0, 50]))
    save_classifier(made, model / "classifier.safetensors")
    other = evaluate_partition(CPU, listing, part, model)
    assert other.model_sha256 != card.model_sha256
    assert other.per_label["kept"]["surprise"]["recall"] == 1


def test_groups_and_older_scores_are_scored_again(model, plan):
    listing, _, part = plan
    card = evaluate_partition(CPU, listing, part, model)
    assert not card.groups
    by = EvaluateConfig(device="cpu", by=("subject", "AU12"))
    grouped = evaluate_partition(by, listing, part, model)
    assert grouped.scores == card.scores
    people = grouped.groups["subject"]
    names = sorted({*listing.take(part.test).subjects()})
    assert [*people] == names and all(one.people == 1 for one in people.values())
    assert sum(one.rows for one in people.values()) == 20
    assert sum(one.kept for one in people.values()) == 18
    right = sum(one.scores["full"]["accuracy"] * one.rows for one in people.values())
    assert right / 20 == pytest.approx(card.scores["full"]["accuracy"])
    assert [*grouped.groups["AU12"]] == ["0", "1"]
    smiles = grouped.groups["AU12"]["1"]
    assert smiles.scores["full"]["accuracy"] == card.per_label["full"]["happiness"]["recall"]
    # Without groups asked for, those that are there are enough.
    assert evaluate_partition(CPU, listing, part, model) == grouped
    assert read_scores(model / "scores").card == grouped
    # Other people, groups or warnings are no longer what was scored.
    names = pa.array(["p"] * len(listing))
    place = listing.labels.column_names.index("subject")
    changed = replace(listing, labels=listing.labels.set_column(place, "subject", names))
    assert [*evaluate_partition(by, changed, part, model).groups["subject"]] == ["p"]
    noted = replace(part, notes=("drawn at random",))
    assert "drawn at random" in evaluate_partition(by, listing, noted, model).warnings
    path = model / "scores/scores.json"
    older = {**json.loads(path.read_text()), "schema_version": 1}
    path.write_text(json.dumps({name: older[name] for name in older if name != "reliability"}))
    assert evaluate_partition(CPU, listing, part, model).reliability == card.reliability
    with pytest.raises(InputError, match="no column 'subjct' to group by; did you mean 'subject'"):
        evaluate_partition(EvaluateConfig(device="cpu", by=("subjct",)), listing, part, model)


def test_one_view_of_a_model_of_both(model, plan, easy):
    listing, _, part = plan
    both = evaluate_partition(CPU, listing, part, model)
    tables = [predicted(read_scores(model / "scores").predictions)]
    for views in ("original", "normalized"):
        config = EvaluateConfig(device="cpu", views=views)
        card = evaluate_partition(config, listing, part, model)
        assert card.views == views and card.coverage == both.coverage
        assert card.variant == (None if views == "original" else "compact")
        tables.append(predicted(read_scores(model / "scores").predictions))
    assert not any(np.allclose(tables[0], one) for one in tables[1:])
    # The originals alone need no normalized faces.
    found = open_classifier(model)
    alone = list_for(EvaluateConfig(views="original"), found, opened(easy / "aligned"))
    assert len(alone) == len(listing)
    with pytest.raises(InputError, match="side by side"):
        list_for(CPU, found, opened(easy / "aligned"))


@pytest.mark.parametrize(
    ("trained_on", "views"),
    [
        ("original", "normalized"),
        ("original", "original+normalized"),
        ("original+original", "original+normalized"),
        ("original+normalized", "original+code"),
        ("original+code", "original+features"),
    ],
)
def test_views_that_it_does_not_know_are_refused(model, plan, trained_on, views):
    listing, _, part = plan
    made = open_classifier(model)
    save_classifier(made.__class__(made.network, made.task, trained_on, made.normalizer),
                    model / "classifier.safetensors")  # fmt: skip
    with pytest.raises(InputError, match="does not know") as caught:
        evaluate_partition(EvaluateConfig(device="cpu", views=views), listing, part, model)
    assert "\n" not in str(caught.value)


def test_experts_of_a_mixture(model, plan):
    listing, _, part = plan
    card = evaluate_partition(CPU, listing, part, model)
    found = json.loads((model / "scores/experts.json").read_text())
    assert sum(found["input_load"]) == pytest.approx(1, abs=1e-3)
    assert found["output_gates"].keys() == {*EMOTIONS} and (model / "scores/experts.png").is_file()
    assert [note for note in card.warnings if "mixture" in note] == found["warnings"]


def test_dense_layers_have_none(easy, plan, tmp_path):
    run(settings(least_steps=2, head="dense"), easy, tmp_path)
    listing, _, part = plan
    card = evaluate_partition(CPU, listing, part, tmp_path)
    assert card.head == "dense" and not [*(tmp_path / "scores").glob("experts*")]


def test_a_collapsed_mixture_is_reported(model, plan):
    """All tokens look alike, and their gate wants one expert."""
    made = open_classifier(model)
    head = made.network.head
    with torch.no_grad():
        for norm, mixture in (
            (head.layers[0].norm2, head.layers[0].mixture),
            (head.norm_gathered, head.output),
        ):
            norm.weight.zero_()
            norm.bias.fill_(1.0)
            mixture.gate.zero_()
            mixture.gate[..., 2] = 1.0
    save_classifier(made, model / "classifier.safetensors")
    listing, _, part = plan
    card = evaluate_partition(CPU, listing, part, model)
    collapsed = [f"the {which} mixture has collapsed: expert 3 has 100% of the weight"
                 for which in ("input", "output")]  # fmt: skip
    assert [note for note in card.warnings if "mixture" in note] == collapsed
    assert json.loads((model / "scores/experts.json").read_text())["warnings"] == collapsed


def test_a_test_set_without_a_usable_face(model, plan):
    listing, _, part = plan
    lost = part.test[~listing.usable[part.test]]
    card = evaluate(CPU, model, listing, replace(part, test=lost), model / "lost")
    assert card.coverage.kept == 0 and card.scores["kept"]["accuracy"] is None
    assert card.scores["full"]["accuracy"] is not None


def test_a_dataset_without_such_labels_is_one_line(model, tmp_path):
    faces = [Face(f"u/{n}.png", {"AU12": 1.0}) for n in range(3)]
    folder = write_faces(tmp_path / "units", faces)
    listing = list_faces(opened(folder), ("original", "normalized"))
    with pytest.raises(InputError, match="no input with a known label"):
        all_of(listing, open_classifier(model).task)


def elsewhere(folder, names, sources=None):
    faces = [
        Face(f"e/{n}.png", {"emotion": name}, source=sources[n] if sources else None)
        for n, name in enumerate(names)
    ]
    return list_for_all(write_faces(folder, faces))


def list_for_all(folder):
    return list_faces(opened(folder), ("original", "normalized"))


def test_classes_that_the_model_does_not_know_stay_in_the_test(model, tmp_path):
    names = ["neutral", "happiness", "fear", "Surprised", None, "contempt", "fear", "happiness"]
    other = elsewhere(tmp_path / "other", names)
    card = evaluate(CPU, model, other, part_elsewhere(CPU, model, other, ""), model / "other")
    assert (card.coverage.test_rows, card.coverage.kept) == (7, 7)
    assert card.coverage.unknown_classes == {"fear": 2, "contempt": 1}
    assert card.coverage.left_out == {"without a label": 1}
    predictions = read_scores(model / "other").predictions
    guess = [EMOTIONS[n] for n in predicted(predictions).argmax(1)]
    truth = ["neutral", "happiness", "fear", "surprise", "contempt", "fear", "happiness"]
    assert predictions["truth"].to_pylist() == truth
    right = [one == two for one, two in zip(guess, truth, strict=True)]
    assert card.scores["full"]["accuracy"] == pytest.approx(np.mean(right))
    said = [
        "not scored, of the test part: 1 without a label for this task",
        "3 of 7 labelled test faces show fear (2), contempt (1), which the model does not know: "
        "they count as wrong; on the other 4: accuracy",
    ]
    page = (model / "other/index.html").read_text()
    for note in said:
        assert any(one.startswith(note) for one in card.warnings) and note in page
    # Left out on request, or where the classes were chosen; and said all the same.
    leave_out = EvaluateConfig(device="cpu", other_classes="leave_out")
    about = json.loads((model / "classifier.json").read_text())
    some = part_elsewhere(leave_out, model, other, "")
    about["recipe"]["labels"] = [*EMOTIONS]
    (model / "classifier.json").write_text(json.dumps(about))
    assert part_elsewhere(CPU, model, other, "").left_out == some.left_out
    card = evaluate(leave_out, model, other, some, model / "other")
    assert card.coverage.test_rows == 4 and not card.coverage.unknown_classes
    assert card.warnings[0] == (
        "not scored, of the test part: fear (2), contempt (1), by choice of the "
        "classes; 1 without a label for this task"
    )
    wrong = EvaluateConfig(device="cpu", other_classes="wrong")
    assert len(part_elsewhere(wrong, model, other, "").test) == 7


def test_pictures_that_trained_the_model_are_told(model, tmp_path):
    other = elsewhere(tmp_path / "other", ["neutral", "happiness", "surprise"], ["a", "b", "c"])
    part = part_elsewhere(CPU, model, other, "")
    card = evaluate(CPU, model, other, part, model / "unknown")
    assert any(n.startswith("whether 3 of 3 test pictures also trained") for n in card.warnings)
    assert save_pictures(model, ["b", "z", None, "b"]) == 1
    assert (model / "training_pictures.npy").stat().st_size == 128 + 2 * 8
    assert trained_by(model, ["a", "b", None, "z"]) == [False, True, None, True]
    card = evaluate(CPU, model, other, part, model / "known")
    assert card.coverage.trained == 1
    assert card.warnings[0].startswith("1 of 3 test pictures also trained the model")
    trained = read_scores(model / "known").predictions["trained"].to_pylist()
    assert trained == [False, True, False]


def test_action_units_of_one_side_only_are_told(easy, tmp_path):
    config = settings(least_steps=2, task="action_units")
    run(config, easy, tmp_path / "model")
    faces = [Face(f"u/{n}.png", {"AU12": float(n % 2), "AU5": 1.0}) for n in range(4)]
    faces.append(Face("u/4.png", {"AU12": None, "AU5": 1.0}))
    other = list_for_all(write_faces(tmp_path / "other", faces))
    part = part_elsewhere(CPU, tmp_path / "model", other, "")
    card = evaluate(CPU, tmp_path / "model", other, part, tmp_path / "scores")
    assert card.coverage.test_rows == 4 and card.coverage.left_out == {"without a label": 1}
    assert [note for note in card.warnings if "AU" in note] == [
        "not scored, as the model does not predict them: AU5 (4)",
        "the means are over 1 of 2 action units: no test face has a known AU1",
    ]


def test_occurrence_follows_the_levels_of_another_dataset(easy, tmp_path):
    """A list of levels, such as DISFA's, tests a model of occurrence without a second list."""
    config = settings(least_steps=2, task="action_units")
    run(config, easy, tmp_path / "model")
    model = open_classifier(tmp_path / "model")
    assert model.task.names == ("AU1", "AU12")
    faces = [Face(f"l/{n}.png", {"AU12_intensity": float(n)}) for n in range(5)]
    faces.append(Face("l/5.png", {"AU12_intensity": None}))
    folder = write_faces(tmp_path / "other", faces)
    with pytest.raises(InputError, match=r"levels alone: .* evaluate\.present_from=2") as caught:
        plan_partitions(config, opened(easy), (opened(folder), ""))
    assert "\n" not in str(caught.value)
    truths = {}
    for level in (2.0, 3.5):
        scoring = EvaluateConfig(device="cpu", present_from=level)
        other = list_for(scoring, model, opened(folder))
        part = part_elsewhere(scoring, tmp_path / "model", other, "")
        card = evaluate(scoring, tmp_path / "model", other, part, tmp_path / "scores")
        assert card.coverage.test_rows == 5 and card.coverage.left_out == {"without a label": 1}
        assert f"occurs from level {level:g} on: AU12" in card.warnings
        assert card.per_label["full"]["AU12"]["positives"] == (3 if level == 2 else 1)
        truths[level] = read_scores(tmp_path / "scores").predictions["truth_AU12"].to_pylist()
    assert truths == {2: [0, 0, 1, 1, 1], 3.5: [0, 0, 0, 0, 1]}
    # Training with --test counts the same.
    scoring = EvaluateConfig(device="cpu", present_from=2)
    crossed = (opened(folder), "")
    planned = plan_partitions(config, opened(easy), crossed, scoring)
    (scored,) = run_protocol(config, scoring, planned, tmp_path / "model", crossed).scores
    assert scored.predictions["truth_AU12"].to_pylist() == truths[2]
    assert "occurs from level 2 on: AU12" in scored.card.warnings


def test_a_dataset_of_several_variants_is_tested_on_one(easy, tmp_path):
    run(settings(least_steps=2), easy, tmp_path / "model")
    faces = [Face(f"v/{n}.png", {"emotion": name}) for n, name in enumerate(EMOTIONS)]
    folder = write_faces(tmp_path / "other", faces, variants=("one", "two"))
    found = open_classifier(tmp_path / "model")
    with pytest.raises(InputError, match="choose one of one, two"):
        list_for(CPU, found, opened(folder))
    scoring = EvaluateConfig(device="cpu", variant="two")
    crossed = (opened(folder), "")
    planned = plan_partitions(settings(least_steps=2), opened(easy), crossed, scoring)
    (scored,) = run_protocol(
        settings(least_steps=2), scoring, planned, tmp_path / "model", crossed
    ).scores
    assert scored.card.variant == "two" and scored.card.coverage.test_rows == 3


def test_figures_chosen_on_the_test_stand_apart(model):
    assert paper_style(model) is None
    rows = [{"epoch": n, "name": "f1", "headline": value, "tuned": {"tuned_threshold": 0.1 * n}}
            for n, value in ((1, 0.3), (2, 0.8), (3, None))]  # fmt: skip
    (model / "epochs.json").write_text(json.dumps(rows))
    assert paper_style(model) == {
        "best_epoch": 2.0, "best_epoch_f1": 0.8, "tuned_threshold": 0.2,
    }  # fmt: skip


def test_faces_of_another_normalizer_are_refused(model, plan):
    listing, _, part = plan
    file = model / "classifier.safetensors"
    found = open_classifier(file)
    assert found.normalized_by
    save_classifier(replace(found, normalized_by=("0" * 64,)), file)
    with pytest.raises(InputError, match=r"000000000000….*evaluate\.any_normalizer=true"):
        evaluate_partition(CPU, listing, part, model)
    assert not (model / "scores").exists()
    anyway = EvaluateConfig(device="cpu", any_normalizer=True)
    assert evaluate_partition(anyway, listing, part, model).coverage.test_rows == 20
