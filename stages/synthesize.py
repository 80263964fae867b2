"""synthesize: renders paired faces with exact labels from a face kit.

A source stage: its rows come from its own configuration, not from another dataset. Every row is a
person making an expression (``image``), the target face making the same one (``target``), and
everything that is known about them. People are painted and scenes laid out in the engine's pool,
batches are rendered on the device.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, ClassVar, Literal

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from ..manifests.schema import IMAGE, POINTS, schema
from ..pipeline.errors import InputError, NormpipeError
from ..pipeline.stage import MapStage, Row, Scan, SourceStage, StageConfig
from .faces.facekit import FaceKit, load_facekit
from .faces.render.acting import RAMP_STEPS
from .faces.render.atlas import Atlas
from .faces.render.batch import BatchRenderer
from .faces.render.expressions import RENDERED_UNITS, occurring
from .faces.render.head import Head, prepare_head
from .faces.render.pairs import Draft, Pair, PairSpec, draft_pair, plan_pairs
from .faces.render.person import draw_person
from .faces.render.photographs import Photographs
from .faces.render.renderer import PreparedPerson, prepare_person
from .faces.render.scene import SceneOptions
from .faces.render.target import TargetFace
from .normalize import resolve_device

ByteArray = NDArray[np.uint8]


Expressions = Literal["mixed", "prototype", "sparse", "single", "talking", "gaze", "ramps"]


class SynthesizeConfig(StageConfig):
    """What to render."""

    facekit: str = Field(
        "",
        description="path of ICT-FaceKit Light, packed as .npz",
        json_schema_extra={"shapes_results": False},  # its digest does
    )
    pairs: int = Field(2000, ge=1, description="how many pairs")
    identities: int = Field(250, ge=1, description="how many people they are shared among")
    seed: int = Field(0, ge=0, lt=90_000, description="another seed: other people, other pictures")
    size_px: int = Field(128, ge=32, le=1024, description="size of the source pictures")
    target_size_px: int = Field(192, ge=32, le=1024, description="size of the target pictures")
    targets: bool = Field(
        True, description="false leaves the target pictures out: a third of the time"
    )
    framing: Literal["aligned", "snapshot"] = Field(
        "aligned",
        description="aligned (as the align stage cuts) or snapshot (a head with a margin)",
    )
    validation: float = Field(0.05, ge=0, lt=1, description="share of the people for validation")
    test: float = Field(0.05, ge=0, lt=1, description="share of the people for test")
    crossed: str = Field(
        "",
        pattern=r"^(\d+x\d+)?$",
        description="KxM, such as 20x30: K people who all make the same M expressions, "
        "instead of pairs and identities",
    )
    expressions: Literal["mixed", "prototype", "sparse", "single", "talking", "gaze", "ramps"] = (
        Field(
            "mixed",
            description="mixed, or one kind alone: prototype, sparse, single, talking, gaze, ramps",
        )
    )
    backgrounds: str = Field(
        "",
        description="folder of pictures to stand behind the heads, instead of drawn places",
        json_schema_extra={"shapes_results": False},  # its digest does
    )
    device: str = Field(
        "auto",
        description="auto (a GPU if there is one), cpu, cuda or cuda:N; none there is an error",
        json_schema_extra={"shapes_results": False},  # the device class does
    )
    batch_size: int = Field(
        64,
        ge=1,
        description="pairs a batch; changes no pixel",
        json_schema_extra={"shapes_results": False},
    )
    quality: int = Field(95, ge=1, le=100, description="JPEG quality")
    shard_rows: int = Field(500, ge=1, description="pairs a shard")


#: One row for every pair to render; everything else follows from these numbers.
PLAN = schema(
    [
        ("split", pa.string()),
        ("identity", pa.int64()),
        ("seed", pa.int64()),
        ("expression_seed", pa.int64()),
    ]
)


def synthesized_schema(expression_names: tuple[str, ...] = ()) -> pa.Schema:
    """The columns of synthesized pairs; the shapes' names, in order, are in the metadata."""
    return schema(
        [
            ("image", IMAGE),
            ("target", IMAGE),
            ("split", pa.string()),
            ("identity", pa.int64()),
            ("seed", pa.int64()),
            ("emotion", pa.string()),
            ("expression", pa.list_(pa.float32())),
            ("action_units", pa.struct([(unit, pa.float32()) for unit in RENDERED_UNITS])),
            ("action_unit_occurrence", pa.struct([(unit, pa.bool_()) for unit in RENDERED_UNITS])),
            ("yaw_deg", pa.float32()),
            ("pitch_deg", pa.float32()),
            ("roll_deg", pa.float32()),
            ("landmarks", POINTS),
            ("landmarks68", POINTS),
            ("target_landmarks68", POINTS),
        ],
        metadata={"expression_names": ",".join(expression_names)} if expression_names else None,
    )


class PlanPairs(SourceStage):
    """Lists the pairs that a configuration asks for."""

    name: ClassVar[str] = "plan"
    writes = "plan"
    schema = PLAN
    description = "Which pairs normpipe synthesize renders: person, seed and split of each."

    def __init__(self, config: SynthesizeConfig) -> None:
        self.config: SynthesizeConfig = config

    @property
    def shard_rows(self) -> int:
        """Return the pairs of a shard."""
        return self.config.shard_rows

    def scan(self) -> Scan:
        """Return one row a pair, person by person."""
        rows = [
            {
                "key": spec.key,
                "parent_key": spec.key,
                "status": "ok",
                "decided_by": self.name,
                "split": spec.split,
                "identity": spec.identity,
                "seed": spec.seed,
                "expression_seed": spec.expression_seed,
            }
            for spec in plan(self.config)
        ]
        return Scan(pa.Table.from_pylist(rows, schema=PLAN))


class Synthesize(MapStage):
    """Renders the planned pairs."""

    name: ClassVar[str] = "synthesize"
    version: ClassVar[int] = 2
    libraries: tuple[str, ...] = ("pyarrow", "numpy", "opencv-python", "torch")
    reads = ("plan",)
    writes = "pairs"
    description = (
        "Rendered faces with exact labels, each with the target face making the same expression. "
        "Heads: ICT-FaceKit Light (USC-ICT, MIT licence)."
    )

    def __init__(self, config: SynthesizeConfig, threads: int = 1) -> None:
        """``threads``: CPU threads that render, where the device is a CPU."""
        self.config: SynthesizeConfig = config
        self._threads = threads
        self._renderer: PairRenderer | None = None
        #: Pairs rendered so far, for rates.
        self.rendered = 0
        # The shapes' names are part of the schema, so the kit is read at once.
        self._kit = load_facekit(_kit_path(config))
        self.schema = synthesized_schema(self._kit.expression_names)
        self._options = scene_options(config)

    @property
    def batch_size(self) -> int:
        """Return the rows of a batch."""
        return self.config.batch_size

    @property
    def device_class(self) -> str:
        """Return ``cpu`` or ``cuda``."""
        return "cpu" if self._renderer is None else self._renderer.device.type

    def open(self) -> None:
        """Prepare the head and the target face. Raises InputError for a device not there."""
        if self._renderer is None:
            self._renderer = PairRenderer(self.config, self._kit, self._options, self._threads)

    def digests(self) -> dict[str, str]:
        """Return the sha256 of the face kit, and of folders of pictures that are drawn from."""
        found = {"facekit": self._kit.digest}
        if self._options.backgrounds is not None:
            found["backgrounds"] = self._options.backgrounds.digest
        return found

    @property
    def renderer(self) -> "PairRenderer":
        """Return what renders; after ``open``."""
        if self._renderer is None:
            raise RuntimeError("open() comes first")
        return self._renderer

    def prepare(self, row: Row) -> Draft:
        """Paint the person of a row, unless a row before did, and lay out the pair."""
        return self.renderer.draft(_spec(row))

    def compute(self, items: list[Any]) -> Sequence[Pair]:
        """Return the rendered pairs."""
        self.rendered += len(items)
        return self.renderer.render(items)

    def finish(self, row: Row, item: Any, result: Any) -> list[Row]:
        """Return the row of a rendered pair, encoded."""
        return [pair_row(_spec(row), result, self.config.quality)]


def _kit_path(config: SynthesizeConfig) -> str:
    if not config.facekit:
        raise InputError("synthesize needs a face kit: --facekit PATH (ICT-FaceKit Light, an .npz)")
    return config.facekit


def scene_options(config: SynthesizeConfig) -> SceneOptions:
    """What all scenes of a set have in common; lists folders of pictures."""
    places = Photographs(config.backgrounds, "--backgrounds") if config.backgrounds else None
    return SceneOptions(config.framing, config.expressions, places)


def _spec(row: Row) -> PairSpec:
    return PairSpec(row["key"], row["split"], row["identity"], row["seed"], row["expression_seed"])


class PairRenderer:
    """Renders pairs; people are kept between their pictures."""

    def __init__(
        self,
        config: SynthesizeConfig,
        kit: FaceKit | None = None,
        options: SceneOptions | None = None,
        threads: int = 1,
    ) -> None:
        """``threads``: CPU threads that render, where the device is a CPU."""
        self.config = config
        self.options = options or scene_options(config)
        self.device = resolve_device(config.device, "synthesize")
        self.head: Head = prepare_head(kit or load_facekit(_kit_path(config)), Atlas())
        self.target = TargetFace(self.head) if config.targets else None
        self._source = BatchRenderer(self.head, config.size_px, self.device, threads)
        self._target = None
        if self.target is not None:
            self._target = BatchRenderer(
                self.target.head, config.target_size_px, self.device, threads
            )
        # Rows come person by person; a few threads may be at the border between two.
        self._prepared = lru_cache(maxsize=8)(self._prepare)

    def _prepare(self, identity: int) -> PreparedPerson:
        kit = self.head.kit
        person = draw_person(identity, kit.expression_names, len(kit.identity))
        return prepare_person(self.head, person)

    def draft(self, spec: PairSpec) -> Draft:
        """Work out one pair; threads may do so at once."""
        config = self.config
        sizes = (config.size_px, config.target_size_px)
        prepared = self._prepared(spec.identity)
        return draft_pair(self.head, self.target, prepared, spec, sizes, self.options)

    def render(self, drafts: Sequence[Draft]) -> list[Pair]:
        """Render a batch of pairs; a pair's pixels do not depend on the others."""
        sources = self._source.render([draft.source for draft in drafts])
        targets: Sequence[ByteArray | None] = [None] * len(drafts)
        if self._target is not None:
            shots = [draft.target for draft in drafts if draft.target is not None]
            targets = list(self._target.render(shots))
        return [Pair(*made) for made in zip(drafts, sources, targets, strict=True)]

    def pair(self, spec: PairSpec) -> Pair:
        """Work out and render one pair."""
        return self.render([self.draft(spec)])[0]


def plan(config: SynthesizeConfig) -> list[PairSpec]:
    """The rows this configuration asks for."""
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


def pair_row(spec: PairSpec, pair: Pair, jpeg_quality: int) -> dict[str, Any]:
    """A pair as a row of the schema."""
    draft = pair.draft
    return {
        "key": spec.key,
        "parent_key": spec.key,
        "status": "ok",
        "reason": None,
        "decided_by": Synthesize.name,
        "image": {"bytes": _jpeg(pair.source, jpeg_quality), "path": f"{spec.key}.jpg"},
        "target": None
        if pair.target is None
        else {"bytes": _jpeg(pair.target, jpeg_quality), "path": f"{spec.key}.target.jpg"},
        "split": spec.split,
        "identity": spec.identity,
        "seed": spec.seed,
        "emotion": draft.emotion,
        "expression": draft.coefficients.tolist(),
        "action_units": draft.intensities,
        "action_unit_occurrence": occurring(draft.intensities),
        "yaw_deg": draft.yaw_deg,
        "pitch_deg": draft.pitch_deg,
        "roll_deg": draft.roll_deg,
        "landmarks": draft.landmarks.tolist(),
        "landmarks68": draft.source.landmarks68.tolist(),
        "target_landmarks68": None if draft.target is None else draft.target.landmarks68.tolist(),
    }


def _jpeg(pixels_rgb_u8: ByteArray, quality: int) -> bytes:
    """(H, W, 3) RGB → JPEG without chroma subsampling, which would smear lips and irises."""
    options = [
        cv2.IMWRITE_JPEG_QUALITY,
        quality,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ]
    done, encoded = cv2.imencode(".jpg", pixels_rgb_u8[..., ::-1], options)
    if not done:
        raise NormpipeError("OpenCV could not encode a rendered picture as JPEG")
    return encoded.tobytes()
