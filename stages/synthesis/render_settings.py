"""The settings of synthesize, and the list of pairs for them."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from ...pipeline.errors import InputError
from ...pipeline.stage import StageConfig, free
from .scene.acting import RAMP_STEPS
from .scene.pairs import PairSpec, plan_pairs

Expressions = Literal["mixed", "prototype", "sparse", "single", "talking", "gaze", "ramps"]


class SynthesizeConfig(StageConfig):
    """Settings of synthesize."""

    facekit: str = free(
        "",
        description="path of ICT-FaceKit Light, packed as .npz",
        path=True,  # its digest does
    )
    pairs: int = Field(2000, ge=1, description="number of pairs")
    identities: int = Field(250, ge=1, description="number of people in them")
    seed: int = Field(0, ge=0, lt=90_000, description="another seed: other people, other pictures")
    size_px: int = Field(128, ge=32, le=1024, description="size of the source pictures")
    target_size_px: int = Field(192, ge=32, le=1024, description="size of the target pictures")
    targets: bool = Field(
        True, description="false: without target pictures, in a third of the time"
    )
    framing: Literal["aligned", "snapshot"] = Field(
        "aligned",
        description="aligned (crops as of the align stage) or snapshot (a head with a margin)",
    )
    validation: float = Field(0.05, ge=0, lt=1, description="share of the people for validation")
    test: float = Field(0.05, ge=0, lt=1, description="share of the people for test")
    crossed: str = Field(
        "",
        pattern=r"^(\d+x\d+)?$",
        description="KxM, such as 20x30: K people who all make the same M expressions, "
        "instead of pairs and identities",
    )
    expressions: Expressions = Field(
        "mixed",
        description="mixed, or one kind only: prototype, sparse, single, talking, gaze, ramps",
    )
    backgrounds: str = free(
        "",
        description="folder of background pictures, instead of painted backgrounds",
        path=True,  # its digest does
    )
    camera: Literal["clean", "varied"] = Field(
        "clean",
        description="clean, or varied: random low resolution, blur, noise, exposure, grey, JPEG",
    )
    appearance: str = free(
        "",
        description="folder of photographs, or of aligned faces, whose skin the people get; such "
        "sets show real people's skin: do not release them without the right to",
        path=True,  # its digest does
    )
    appearance_share: float = Field(
        0.5, ge=0, le=1, description="share of the people who get the skin of a photograph"
    )
    target: Annotated[str, BeforeValidator(str)] = free(
        "mean",
        description="the face everything is normalized to: mean, an identity number, or the path "
        "of a photograph of a face",
        path=True,  # its digest does
    )
    device: str = free(  # the device class does
        "auto",
        description="auto (a GPU if there is one), cpu, cuda or cuda:N; a missing one is an error",
    )
    batch_size: int = free(
        64,
        ge=1,
        description="pairs per batch; changes no pixel",
    )
    quality: int = Field(95, ge=1, le=100, description="JPEG quality")
    shard_rows: int = Field(500, ge=1, description="pairs per shard")


def pairs_of(config: SynthesizeConfig) -> list[PairSpec]:
    """Return the pairs of a configuration. Raises InputError for an impossible ``crossed``."""
    shares = (config.validation, config.test)
    pairs, identities = config.pairs, config.identities
    ramps = config.expressions == "ramps"
    if config.crossed:
        people, expressions = (int(number) for number in config.crossed.split("x"))
        if not people or not expressions:
            raise InputError(f"--crossed {config.crossed}: people x expressions, such as 20x30")
        if ramps and expressions % RAMP_STEPS:
            raise InputError(f"--crossed {config.crossed}: ramps are {RAMP_STEPS} pictures each")
        pairs, identities = people * expressions, people
    return list(plan_pairs(pairs, identities, config.seed, shares, bool(config.crossed), ramps))
