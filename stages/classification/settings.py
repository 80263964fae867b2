"""Settings of classifiers. Imports no torch: every command reads them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ...pipeline.stage import StageConfig, free

Views = Literal[
    "original",
    "normalized",
    "original+normalized",
    "original+original",
    "original+code",
    "original+features",
]
Preset = Literal["small", "norface"]
Head = Literal["mixture", "dense"]
ARMS: tuple[Views, ...] = (
    "original",
    "normalized",
    "original+original",
    "original+normalized",
    "original+code",
    "original+features",
)


class ClassifyConfig(StageConfig):
    """What is learnt, from which views, and how."""

    task: Literal["auto", "emotion", "action_units", "intensity"] = Field(
        "auto",
        description="emotion, action_units or intensity; auto: the first there are labels of",
    )
    labels: tuple[str, ...] = Field(
        (), description="classes or action units to tell; empty: all that the labels name"
    )
    views: Views = Field("original+normalized", description="what the network sees of a face")
    variant: str = Field("", description="which normalized faces; empty: the only ones")
    normalizer: str = Field("compact", description="whose encoder makes code and features")
    train_split: str = Field("train", description="the split of the labels that trains")
    test_split: str = Field("test", description="the one that tests")
    folds: str = free(
        "", description="a number, labels (the column fold), bp4d or disfa; empty: a held-out split"
    )
    shared_subjects: bool = Field(False, description="allow subjects that train and test")
    preset: Preset = Field("small", description="small (64 px, for a CPU) or norface (ViT, 224 px)")
    size: str = Field("B", description="of norface's vision transformer: S or B")
    image_size: int = Field(224, ge=16, description="side of norface's pictures")
    encoder: str = Field("", description="MAE checkpoint that norface begins with")
    freeze_encoder: bool = Field(False, description="train what is behind the encoder alone")
    head: Literal["mixture", "dense"] = Field(
        "mixture", description="mixture of experts, or dense layers of the same size"
    )
    experts: int = Field(4, ge=2, description="of each mixture")
    top: int = Field(
        0, ge=0, description="experts that answer; 0: all, softly weighed (Norface: 2)"
    )
    layers: int = Field(1, ge=1, description="mixture layers before the queries")
    view_dropout: float = Field(
        0.2,
        ge=0,
        le=1,
        description="share of rows shown one view: the model then serves each alone",
    )
    imbalance: Literal["weights", "sampling", "none"] = Field(
        "weights", description="rare labels weigh more, are drawn more often (emotion), or neither"
    )
    intensity_loss: Literal["squared", "huber"] = Field(
        "squared", description="squared errors, or Huber's, which strange labels move less"
    )
    icc_weight: float = Field(0.0, ge=0, description="of 1 - ICC(3,1) of the batch (intensity)")
    balance_weight: float = Field(
        0.001, ge=0, description="of the experts' balance; counts with top only"
    )
    seed: int = Field(0, ge=0, description="of weights, order, augmentation and dealt-out subjects")
    epochs: int = Field(20, ge=1, description="how often every face is shown")
    least_steps: int = Field(400, ge=1, description="small sets are gone through more often")
    batch_size: int = Field(64, ge=2, description="faces a step, over all processes")
    learning_rate: float = Field(1e-3, gt=0, description="highest, after warming up")
    weight_decay: float = Field(0.05, ge=0, description="of AdamW")
    warmup_steps: int = Field(50, ge=1, description="at most a quarter of the steps")
    ema_decay: float = Field(0.998, gt=0, lt=1, description="at most; short runs forget sooner")
    paper_style: bool = Field(
        False, description="also score every epoch on the test, for the figures papers often print"
    )
    accumulate: int = free(1, ge=1, description="parts that each process cuts its batch into")
    device: Literal["auto", "cpu", "cuda"] = free(
        "auto", description="cpu or cuda; auto: a GPU where there is one"
    )
    devices: int = free(1, ge=1, description="processes: GPUs, or on a CPU processes")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bf16 where it is fast, else fp32"
    )
    threads: int | None = free(None, ge=1, description="CPU threads; unset: torch's choice")
    workers: int = free(1, ge=0, description="processes that prepare batches")
    memory_gb: float = free(8.0, ge=0, description="pictures beyond this are decoded as needed")
    minutes: float | None = free(
        None,
        gt=0,
        description="save and stop after so many",
        per_run=True,
    )
    save_every: int = free(500, ge=1, description="steps between saved states")


class EvaluateConfig(StageConfig):
    """How a classifier is scored."""

    camera: str = Field("", description="which camera the test is of; kept with every score")
    threshold: float = Field(0.5, gt=0, lt=1, description="from here on an action unit occurs")
    views: Views | None = Field(
        None, description="what is shown; unset: what it was trained on. original or normalized: "
        "one view of a model of both"
    )  # fmt: skip
    memory_gb: float = Field(8.0, ge=0, description="pictures beyond this are decoded as needed")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="cpu or cuda; auto: a GPU where there is one"
    )
    threads: int = Field(1, ge=1, description="that decode pictures")
    any_normalizer: bool = Field(
        False, description="score faces that other weights normalized than training saw"
    )


class AblateConfig(StageConfig):
    """Which trainings are compared."""

    arms: tuple[Views, ...] = Field(ARMS, description="views that are compared")
    heads: tuple[Head, ...] = Field(("mixture", "dense"), description="heads that are compared")
    seeds: tuple[int, ...] = Field((0, 1, 2), description="of weights, order and smaller sets")
    sizes: tuple[int, ...] = Field(
        (), description="how many faces train, each set within the next; empty: all of them"
    )
    by: str = Field("", description="also table each value of this label, such as source")
    resamples: int = Field(1000, ge=10, description="how often people are drawn")
