"""Settings of classifiers. Imports no torch: every command reads them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ...pipeline.stage import StageConfig, added, free

Views = Literal[
    "original",
    "normalized",
    "original+normalized",
    "original+original",
    "original+code",
    "original+features",
]
Preset = Literal["compact", "small", "norface"]
Head = Literal["mixture", "dense"]
#: A value of ``classify.encoder``: start from random weights.
RANDOM = "random"
#: Suffixes of files that ``classify.encoder`` may name; the last three are MAE checkpoints alone. A
#: shipped name may have dots, too: compact-0.1.0.
WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
ARMS: tuple[Views, ...] = (
    "original",
    "normalized",
    "original+original",
    "original+normalized",
    "original+code",
    "original+features",
)


class ClassifyConfig(StageConfig):
    """Task, views, network and training of a classifier."""

    task: Literal["auto", "emotion", "action_units", "intensity"] = Field(
        "auto",
        description="emotion, action_units or intensity; auto: the first that has labels",
    )
    labels: tuple[str, ...] = Field(
        (),
        description="classes or action units to predict; empty: all in the labels, or with "
        "folds = bp4d or disfa those of the protocol",
    )
    views: Views = Field("original+normalized", description="views of a face that the network gets")
    variant: str = Field("", description="which normalized faces; empty: the only ones")
    normalizer: str = Field(
        "compact", description="normalizer whose encoder makes code and features"
    )
    train_split: str = Field("train", description="split of the labels to train on")
    test_split: str = Field("test", description="split of the labels to test on")
    folds: str = free(
        "", description="a number, labels (the column fold), bp4d or disfa; empty: a held-out split"
    )
    shared_subjects: bool = Field(False, description="allow subjects in both training and test")
    drop_duplicates: bool = added(
        False, description="do not train on pictures that are also in the test part"
    )
    preset: Preset = Field(
        "compact",
        description="encoder: compact (the normalizer's own), small (64 px, always from random "
        "weights) or norface (ViT, 224 px)",
    )
    size: str = Field("B", description="size of norface's vision transformer: T, S or B")
    image_size: int = Field(224, ge=16, description="side of norface's pictures, pixels")
    stem: Literal["patch", "conv"] = added("patch", description="stem of norface's transformer")
    encoder: str = Field(
        "",
        description="weights to start from: a normalizer's (a file or a shipped name), or for "
        "norface an MAE checkpoint. Empty: the shipped compact for compact, else random weights; "
        "random: random weights",
    )
    freeze_encoder: bool = Field(False, description="train only the layers after the encoder")
    encoder_rate: float = added(
        1.0, gt=0, le=1, description="learning rate of the encoder, as a share of learning_rate"
    )
    batch_norm: Literal["trained", "frozen"] = added(
        "trained",
        description="trained, or frozen: keep the statistics of the encoder that it starts from",
    )
    head: Literal["mixture", "dense"] = Field(
        "mixture", description="mixture of experts, or dense layers of the same size"
    )
    experts: int = Field(4, ge=2, description="experts of each mixture")
    top: int = Field(
        0, ge=0, description="experts used per token; 0: all, softly weighted (Norface: 2)"
    )
    layers: int = Field(1, ge=1, description="mixture layers before the queries")
    view_dropout: float = Field(
        0.2,
        ge=0,
        le=1,
        description="share of rows that get one view only, so that the model also works with one",
    )
    imbalance: Literal["weights", "sampling", "none"] = Field(
        "weights",
        description="rare labels get more weight, are drawn more often (emotion), or neither",
    )
    imbalance_power: float = added(
        1.0,
        ge=0,
        le=1,
        description="power of their inverse frequency: 1: all labels weigh alike; 0.5 is milder",
    )
    votes: bool = added(
        False, description="learn the raters' shares of each emotion where the labels have votes"
    )
    label_smoothing: float = added(
        0.0, ge=0, lt=1, description="share of an emotion's label that all classes get alike"
    )
    mirror: bool = added(
        False, description="predict on a picture and its mirror image, and average"
    )
    intensity_loss: Literal["squared", "huber"] = Field(
        "squared", description="squared errors, or Huber's, which is less sensitive to wrong labels"
    )
    icc_weight: float = Field(
        0.0, ge=0, description="weight of 1 - ICC(3,1) of the batch (intensity)"
    )
    balance_weight: float = Field(
        0.001, ge=0, description="weight of the experts' balance; used only with top"
    )
    seed: int = Field(0, ge=0, description="seed of weights, order, augmentation and random folds")
    epochs: int = Field(20, ge=1, description="passes over all training faces")
    least_steps: int = Field(400, ge=1, description="minimum steps; small sets get more epochs")
    batch_size: int = Field(64, ge=2, description="faces per step, over all processes")
    learning_rate: float = Field(1e-3, gt=0, description="highest learning rate, after warm-up")
    weight_decay: float = Field(0.05, ge=0, description="weight decay of AdamW")
    warmup_steps: int = Field(50, ge=1, description="warm-up steps, at most a quarter of all")
    ema_decay: float = Field(0.998, gt=0, lt=1, description="highest decay; short runs use less")
    paper_style: bool = Field(
        False,
        description="also score every epoch on the test set, for figures as many papers print",
    )
    accumulate: int = free(1, ge=1, description="parts that each process splits its batch into")
    device: Literal["auto", "cpu", "cuda"] = free(
        "auto", description="cpu or cuda; auto: a GPU where there is one"
    )
    devices: int = free(1, ge=1, description="processes: GPUs, or on a CPU processes")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="fp32 or bf16; auto: bf16 where it is fast"
    )
    threads: int | None = free(None, ge=1, description="CPU threads; unset: torch's choice")
    workers: int = free(1, ge=0, description="processes that prepare batches")
    memory_gb: float = free(8.0, ge=0, description="pictures beyond this are decoded as needed")
    minutes: float | None = free(
        None,
        gt=0,
        description="save and stop after so many minutes",
        per_run=True,
    )
    save_every: int = free(500, ge=1, description="steps between checkpoints")


class EvaluateConfig(StageConfig):
    """How a classifier is scored."""

    camera: str = Field("", description="camera of the test set; recorded with every score")
    threshold: float = Field(
        0.5, gt=0, lt=1, description="an action unit occurs above this probability"
    )
    views: Views | None = Field(
        None, description="views to use; unset: those it was trained on. original or normalized: "
        "one view of a model of both"
    )  # fmt: skip
    by: tuple[str, ...] = free(
        (), description="labels, such as source: also score the faces of each of their values"
    )
    memory_gb: float = Field(8.0, ge=0, description="pictures beyond this are decoded as needed")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="cpu or cuda; auto: a GPU where there is one"
    )
    threads: int = Field(1, ge=1, description="threads that decode pictures")
    any_normalizer: bool = Field(
        False, description="accept faces normalized by other weights than in training"
    )
    other_classes: Literal["auto", "wrong", "leave_out"] = added(
        "auto",
        description="faces of another dataset whose class the model does not know: wrong, or "
        "leave_out; auto: leave_out if classify.labels chose the classes, else wrong",
    )
    variant: str = added(
        "", description="which normalized faces of another dataset; empty: the only ones"
    )
    present_from: float | None = added(
        None,
        gt=0,
        le=5,
        description="in another dataset, action units without a label of occurrence occur from "
        "this level on (DISFA: 2); unset: they are unknown",
    )


class AblateConfig(StageConfig):
    """Which configurations are compared."""

    arms: tuple[Views, ...] = Field(ARMS, description="views to compare")
    heads: tuple[Head, ...] = Field(("mixture", "dense"), description="heads to compare")
    seeds: tuple[int, ...] = Field(
        (0, 1, 2), description="seeds of weights, order and smaller sets"
    )
    sizes: tuple[int, ...] = Field(
        (), description="numbers of training faces, nested sets; empty: all faces"
    )
    starts: tuple[str, ...] = added(
        (),
        description="weights that encoders start from, values of classify.encoder such as random "
        "and compact; empty: the recipe's alone",
    )
    full_sizes: tuple[int, ...] = added(
        (),
        description="sizes that get all seeds and heads, the others the first of each; empty: all",
    )
    by: str = Field("", description="also tabulate each value of this label, such as source")
    resamples: int = Field(1000, ge=10, description="bootstrap draws of people")
