"""The synthesize stage: rows, labels, splits, and the same bytes twice."""

import io
import math

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pydantic import ValidationError

from normpipe.pipeline.errors import InputError
from normpipe.stages.synthesis.scene.expressions import RENDERED_UNITS
from normpipe.stages.synthesis.synthesize import PlanPairs, Synthesize, SynthesizeConfig


@pytest.fixture(scope="module")
def config(fake_kit_file):
    return SynthesizeConfig(
        facekit=str(fake_kit_file), pairs=12, identities=6, size_px=48, target_size_px=32,
        validation=0.2, test=0.2,
    )  # fmt: skip


@pytest.fixture(scope="module")
def rows(config):
    return run(config)


def run(config):
    stage = Synthesize(config)
    stage.open()
    planned = PlanPairs(config).scan().rows.to_pylist()
    items = [stage.prepare(row) for row in planned]
    results = stage.compute(items)
    done = [stage.finish_row(*triple) for triple in zip(planned, items, results, strict=True)]
    assert all(len(made) == 1 for made in done)
    return pa.Table.from_pylist([made[0] for made in done], schema=stage.schema)


def test_every_planned_pair_becomes_a_row(config, rows):
    planned = PlanPairs(config).scan().rows
    assert rows["key"].to_pylist() == planned["key"].to_pylist()
    assert len(set(rows["key"].to_pylist())) == 12
    assert set(rows["status"].to_pylist()) == {"ok"}
    assert rows["key"][0].as_py().startswith("synth/")


def test_splits_are_identity_disjoint(rows):
    where: dict[int, set[str]] = {}
    for row in rows.to_pylist():
        where.setdefault(row["identity"], set()).add(row["split"])
        assert row["split"] in row["key"]
    assert len(where) == 6 and all(len(splits) == 1 for splits in where.values())


def test_pictures_have_the_sizes_asked_for(rows):
    for row in rows.to_pylist()[:3]:
        assert Image.open(io.BytesIO(row["image"]["bytes"])).size == (48, 48)
        assert Image.open(io.BytesIO(row["target"]["bytes"])).size == (32, 32)


def test_labels_are_named_and_in_range(config, rows):
    names = rows.schema.metadata[b"expression_names"].decode().split(",")
    assert "mouthSmile_L" in names and "PupilDilate_L" not in names
    for row in rows.to_pylist():
        assert len(row["expression"]) == len(names)
        assert min(row["expression"]) >= 0 and max(row["expression"]) <= 1
        assert list(row["action_units"]) == list(RENDERED_UNITS)
        assert all(0 <= value <= 5 for value in row["action_units"].values())
        assert row["action_unit_occurrence"] == {
            unit: value >= 1 for unit, value in row["action_units"].items()
        }
        smile = [row["expression"][names.index(f"mouthSmile_{side}")] for side in "LR"]
        assert row["action_units"]["AU12"] == pytest.approx(5 * max(smile), abs=1e-5)
        assert np.shape(row["landmarks68"]) == np.shape(row["target_landmarks68"]) == (68, 2)
        assert np.shape(row["landmarks"]) == (5, 2)
        assert all(math.isfinite(row[f"{angle}_deg"]) for angle in ("yaw", "pitch", "roll"))


def test_the_same_settings_give_the_same_bytes(config, rows):
    assert run(config).equals(rows)


def test_another_seed_gives_other_people(config, rows):
    other = PlanPairs(config.model_copy(update={"seed": 1})).scan().rows
    assert not set(other["identity"].to_pylist()) & set(rows["identity"].to_pylist())


def test_more_pairs_leave_the_first_ones_as_they_are(config):
    short = PlanPairs(config).scan().rows.to_pylist()
    longer = config.model_copy(update={"pairs": 24, "identities": 12})
    assert PlanPairs(longer).scan().rows.to_pylist()[:12] == short


def test_targets_can_be_left_out(config):
    made = run(config.model_copy(update={"targets": False, "pairs": 2, "identities": 2}))
    assert made["target"].null_count == 2 and made["image"].null_count == 0


def test_crossed_identities_share_expressions(config):
    crossed = config.model_copy(update={"crossed": "3x2", "targets": False})
    made = run(crossed).to_pylist()
    assert len(made) == 6
    by_person: dict[int, list[list[float]]] = {}
    for row in made:
        by_person.setdefault(row["identity"], []).append(row["expression"])
    first, *others = by_person.values()
    assert len(others) == 2 and all(expressions == first for expressions in others)
    assert first[0] != first[1]


def test_without_a_kit_one_line_says_what_to_do():
    with pytest.raises(InputError, match="--facekit PATH"):
        Synthesize(SynthesizeConfig())


def test_unknown_settings_are_refused():
    with pytest.raises(ValidationError):
        SynthesizeConfig(pears=3)
