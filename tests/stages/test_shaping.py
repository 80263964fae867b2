"""Which settings shape results: what datasets, saved states and weights have been known by so far.

The lists are written by hand. A name that comes or goes makes finished work look like other work,
or other work like the same.
"""

import json
from typing import Any

import pytest

from normpipe.pipeline.stage import StageConfig, added, free
from normpipe.stages import CONFIGS
from normpipe.stages.judging.fit_reader import FitReaderConfig
from normpipe.stages.synthesis.render_settings import SynthesizeConfig
from normpipe.stages.training.landmarks.fit_landmarks import FitLandmarksConfig
from normpipe.stages.training.normalizer.fit_settings import FitNormalizerConfig
from normpipe.stages.training.pretrain_encoder import PretrainEncoderConfig

SHAPING = {
    "ingest": "shard_rows",
    "align": "batch_size border canvases detector faces format max_bytes max_pixels min_face_px "
    "quality size_px threshold",
    "normalize": "batch_size format max_saturated min_brightness min_contrast network precision "
    "quality",
    "pair": "materialize variants",
    "classify": "balance_weight batch_size ema_decay encoder epochs experts freeze_encoder head "
    "icc_weight image_size imbalance intensity_loss labels layers learning_rate least_steps "
    "normalizer paper_style precision preset seed shared_subjects size task test_split top "
    "train_split variant view_dropout views warmup_steps weight_decay",
    "evaluate": "any_normalizer camera device memory_gb threads threshold views",
    "synthesize": "appearance_share camera crossed expressions framing identities pairs quality "
    "seed shard_rows size_px target_size_px targets test validation",
    "fit_normalizer": "batch_size begin decoder_batch_size decoder_learning_rate decoder_steps "
    "ema_decay encoder expression_architecture expression_network faces_split "
    "identity_architecture identity_network learning_rate losses method network network_settings "
    "picture_share real_share seed steps warmup_steps weight_decay",
    "fit_reader": "batch_size learning_rate point_share seed steps weight_decay width",
    "fit_landmarks": "batch_size empty_share inner_learning_rate learning_rate optimizer seed "
    "steps weight_decay wide_mouths",
    "pretrain_encoder": "batch_size column ema_decay held_out image_size learning_rate masked seed "
    "size smallest_cut split steps warmup_steps weight_decay",
}
LOSSES = [
    "coefficients",
    "displacement",
    "landmarks",
    "pose",
    "picture",
    "edges",
    "regions",
    "consistency",
    "flip",
    "steadiness",
    "idempotence",
    "cycle",
    "identity",
    "expression",
]
MODELS: dict[str, type[StageConfig]] = {
    **CONFIGS,
    "synthesize": SynthesizeConfig,
    "fit_normalizer": FitNormalizerConfig,
    "fit_reader": FitReaderConfig,
    "fit_landmarks": FitLandmarksConfig,
    "pretrain_encoder": PretrainEncoderConfig,
}


@pytest.mark.parametrize("name", MODELS)
def test_the_same_settings_shape_results_as_before(name: str) -> None:
    config = MODELS[name]()
    found = config.shaping()
    assert sorted(found) == SHAPING[name].split()
    wanted = {key: json.loads(config.model_dump_json())[key] for key in found}
    if name == "fit_normalizer":  # weights that came after 0.1.0, at their defaults
        wanted["losses"] = {key: wanted["losses"][key] for key in LOSSES}
    assert found == wanted


def test_settings_added_later_count_once_they_are_changed() -> None:
    class Older(StageConfig):
        size: int = 3

    class Inner(StageConfig):
        old: float = 1.0
        new: float = added(0.5)

    class Newer(Older):
        kind: str = added("plain")
        table: Inner = Inner()

    assert Newer().shaping() == {"size": 3, "table": {"old": 1.0}}
    changed = Newer(kind="other", table=Inner(new=0.25))
    assert changed.shaping() == {"size": 3, "kind": "other", "table": {"old": 1.0, "new": 0.25}}
    assert Newer(kind="plain").shaping() == Newer().shaping()


def test_muon_shapes_what_it_trains() -> None:
    found = FitNormalizerConfig(optimizer="muon").shaping()
    assert {*found} == {*SHAPING["fit_normalizer"].split(), "optimizer", "inner_learning_rate"}


def test_a_free_setting_carries_its_marks() -> None:
    class Toy(StageConfig):
        colour: str = "red"
        weights: str = free("", description="a file", path=True)
        limit: int | None = free(None, description="how many", per_run=True, ge=1)

    def marks(name: str) -> Any:
        return Toy.model_fields[name].json_schema_extra

    assert Toy(weights="x", limit=3).shaping() == {"colour": "red"}
    assert marks("weights") == {"shapes_results": False, "path": True}
    assert marks("limit") == {"shapes_results": False, "per_run": True}
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        Toy(limit=0)
