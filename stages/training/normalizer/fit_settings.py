"""Settings of fit-normalizer. Imports no torch: a command reads them before it trains."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from ....pipeline.stage import StageConfig, added, free
from ...synthesis.render_settings import SynthesizeConfig

#: Also the name of a folder.
SetName = Annotated[str, StringConstraints(pattern=r"^\w[\w-]*$")]
Weight = Annotated[float, Field(ge=0)]


class LossWeights(StageConfig):
    """Weight of each loss of ``losses.LOSSES``; 0 turns it off."""

    coefficients: Weight = 0.5
    displacement: Weight = 0.5
    landmarks: Weight = 0.1
    pose: Weight = 0.05
    picture: Weight = 0.5
    edges: Weight = 0.35
    regions: Weight = 0.15
    consistency: Weight = 0.2
    flip: Weight = 0.2
    steadiness: Weight = 0.0
    idempotence: Weight = 0.0
    cycle: Weight = 0.0
    identity: Weight = 0.0
    expression: Weight = 0.0
    emotions: Weight = added(0.5)
    emotions_upper: Weight = added(0.0)
    emotions_lower: Weight = added(0.0)
    occurrence: Weight = added(0.5)
    intensity: Weight = added(0.5)
    shapes: Weight = added(0.2)
    negative: Weight = added(1.0)
    excess: Weight = added(1.0)
    neutral: Weight = added(0.3)

    def used(self) -> dict[str, float]:
        """Return the losses in use, in the order of ``losses.LOSSES``, which is that above."""
        return {name: weight for name, weight in self if weight > 0}


class FitNormalizerConfig(StageConfig):
    """Settings of fit-normalizer."""

    sets: dict[SetName, SynthesizeConfig] = free(
        {},
        description="sets to render and to train on, by name: tables of synthesize's settings",
    )
    network: str = Field("compact", description="compact or norface")
    network_settings: dict[str, Any] = Field(
        default_factory=dict, description="keyword arguments of the network, such as size = 'S'"
    )
    encoder: str = Field(
        "", description="MAE checkpoint to start a norface encoder from; empty: from scratch"
    )
    begin: str = Field(
        "", description="weights to start from, a file or a shipped name; empty: from scratch"
    )
    method: Literal["coefficients", "direct"] = Field(
        "coefficients",
        description="coefficients (decoder and encoder separately) or direct (end to end)",
    )
    losses: LossWeights = Field(default_factory=LossWeights, description="weight of each loss")
    identity_network: str = Field("", description="frozen network (.safetensors) for identity")
    identity_architecture: str = Field("", description="if its file does not name it: iresnet50, …")
    expression_network: str = Field("", description="frozen network (.safetensors) for expression")
    expression_architecture: str = ""
    seed: int = Field(0, ge=0)
    device: Literal["auto", "cpu", "cuda"] = free("auto", description="auto, cpu or cuda")
    devices: int = free(1, ge=1, description="processes: GPUs, or on a CPU processes")
    nodes: int = free(1, ge=1, description="machines; start the command on each with torchrun")
    precision: Literal["auto", "fp32", "bf16"] = free(
        "auto", description="fp32 or bf16; auto: bf16 where it is faster"
    )
    threads: int | None = free(None, ge=1, description="CPU threads; unset: torch's choice")
    workers: int = free(1, ge=0, description="processes that prepare batches")
    minutes: float | None = free(
        None,
        gt=0,
        description="save and stop after so many, rendering included; the same command resumes",
    )
    memory_gb: float = free(
        8.0,
        ge=0,
        description="limit each for sources, targets, faces; more stay encoded",
    )
    steps: int = Field(
        13_000, ge=1, description="steps of the encoder, or of the whole network (direct)"
    )
    batch_size: int = Field(64, ge=2, description="pictures per step, over all processes")
    optimizer: Literal["adamw", "muon"] = Field(
        "adamw",
        description="for the encoder, or the whole network (direct); muon: compact's encoder "
        "learns twice as much from as many pictures (untried elsewhere)",
    )
    learning_rate: float = Field(1.2e-3, gt=0, description="learning rate of AdamW")
    inner_learning_rate: float = Field(
        0.02, gt=0, description="learning rate of Muon, for all but the first and the output layers"
    )
    accumulate: int = free(1, ge=1, description="parts that each process splits its batch into")
    picture_share: float | None = Field(
        None,
        gt=0,
        le=1,
        description="share of the pairs that are drawn; unset: a quarter if only coefficients "
        "pass, as in compact; else all",
    )
    faces_split: str = Field("", description="real faces of this split only; empty: all")
    face_shares: tuple[Weight, ...] = added(
        (), description="shares of the real faces, one per --faces; empty: by their numbers"
    )
    covered_share: float = added(
        0.0,
        ge=0,
        le=1,
        description="share of the real faces whose mouth, or brows and eyes, are covered",
    )
    label_smoothing: float = added(
        0.1,
        ge=0,
        lt=1,
        description="share of an emotion without votes that all eight get alike",
    )
    even_emotions: float = added(
        0.0,
        ge=0,
        le=1,
        description="how evenly labelled emotions are shown: 0 as they occur, 1 all as often",
    )
    begin_share: float = added(
        0.0,
        ge=0,
        lt=1,
        description="share of the weights it began with that stays in the trained ones",
    )
    batch_norm: Literal["trained", "frozen"] = added(
        "trained",
        description="trained, or frozen: keep the statistics of the weights that it begins with",
    )
    real_share: float = Field(
        0.25, ge=0, lt=1, description="share of real faces in a batch, if there are any"
    )
    decoder_steps: int = Field(
        3_000, ge=0, description="steps of the decoder alone, before anything else (compact)"
    )
    decoder_batch_size: int = Field(24, ge=1)
    decoder_learning_rate: float = Field(2e-3, gt=0)
    warmup_steps: int = Field(300, ge=1)
    weight_decay: float = Field(0.03, ge=0)
    ema_decay: float = Field(0.998, gt=0, lt=1)
    decoder_ema_decay: float | None = added(
        None, gt=0, lt=1, description="ema_decay of the decoder; unset: the same"
    )
    save_every: int = free(500, ge=1, description="steps between checkpoints")
    evaluate_every: int = free(1_000, ge=1, description="steps between running scores")
    evaluation_pairs: int = free(1_000, ge=2, description="held-out pairs for the running scores")
    most_gain: float = free(
        1.15,
        ge=1,
        description="highest gain that stretches weak readings to the spread of the truth",
    )
    still: float = free(
        0.04,
        ge=0,
        lt=1,
        description="readings up to this above those of a resting face count as rest",
    )
    mirror: bool = free(
        True,
        description="finished weights also read the mirror image, if coefficients alone pass",
    )

    def shaping(self) -> dict[str, Any]:
        """Return the settings that a checkpoint must match; sets count by contents."""
        found = super().shaping()
        if self.optimizer == "adamw":  # runs older than this setting can resume
            del found["optimizer"], found["inner_learning_rate"]
        return found
