"""synthesize: renders paired faces with exact labels from a face kit.

Its rows come from its configuration, not from another dataset. Every row is a person making an
expression (``image``), the target face making the same one (``target``), and all their labels.
People are painted and scenes laid out in the engine's pool, batches are rendered on the device.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import cv2
import pyarrow as pa
from threadpoolctl import threadpool_limits

from ...manifests.arrays import Pixels
from ...manifests.schema import IMAGE, POINTS, schema
from ...pipeline.errors import NormpipeError
from ...pipeline.stage import MapStage, Row, Scan, SourceStage
from .cast import Cast
from .drawing.degrade import simulate_camera
from .pair_renderer import Draft, PairRenderer, RenderedPair
from .render_settings import SynthesizeConfig, pairs_of
from .scene.expressions import RENDERED_UNITS, occurring
from .scene.pairs import PairSpec
from .scene.person import generator

_GOES_ON = "normpipe synthesize --output {}"

#: One row for every pair to render; everything else is derived from these numbers.
PLAN = schema(
    [
        ("split", pa.string()),
        ("identity", pa.int64()),
        ("seed", pa.int64()),
        ("expression_seed", pa.int64()),
    ]
)


def synthesized_schema(expression_names: tuple[str, ...] = (), target: str = "") -> pa.Schema:
    """Return the schema of synthesized pairs.

    If given, the names of the shapes, in order, and the target (JSON, see ``Cast.target_note``)
    are in its metadata.
    """
    notes = {"expression_names": ",".join(expression_names), "target": target}
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
        metadata={name: note for name, note in notes.items() if note} or None,
    )


class PlanPairs(SourceStage):
    """Lists the pairs of a configuration."""

    name: ClassVar[str] = "plan"
    settings_table: ClassVar[str] = "synthesize"
    resume_command = _GOES_ON
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
        """Return one row per pair, person by person."""
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
            for spec in pairs_of(self.config)
        ]
        return Scan(pa.Table.from_pylist(rows, schema=PLAN))


class Synthesize(MapStage):
    """Renders the planned pairs."""

    name: ClassVar[str] = "synthesize"
    resume_command = _GOES_ON
    version: ClassVar[int] = 4
    libraries: tuple[str, ...] = ("pyarrow", "numpy", "opencv-python", "torch", "numba")
    reads = ("plan",)
    writes = "pairs"
    description = (
        "Rendered faces with exact labels, each with the target face making the same expression. "
        "Heads: ICT-FaceKit Light (USC-ICT, MIT licence)."
    )

    def __init__(self, config: SynthesizeConfig, threads: int = 1) -> None:
        """``threads``: CPU threads that render, if the device is a CPU."""
        self.config: SynthesizeConfig = config
        self._threads = threads
        self._renderer: PairRenderer | None = None
        #: Number of pairs rendered so far.
        self.rendered = 0
        _one_blas_thread()
        # The schema needs the names of the shapes and the target, hence the cast.
        self._cast = Cast(config)
        self.schema = synthesized_schema(self._cast.expression_names, self._cast.target_note)

    @property
    def batch_size(self) -> int:
        """Return the rows of a batch."""
        return self.config.batch_size

    @property
    def device_class(self) -> str:
        """Return ``cpu`` or ``cuda``."""
        return "cpu" if self._renderer is None else self._renderer.device.type

    def open(self) -> None:
        """Move the heads to the device. Raises InputError for a missing device."""
        if self._renderer is None:
            cv2.setNumThreads(1)  # its own threads would compete with ours
            self._renderer = PairRenderer(self.config, self._cast, self._threads)

    def digests(self) -> dict[str, str]:
        """Return the sha256 of the face kit, of the picture folders, and of the target."""
        return self._cast.digests()

    @property
    def renderer(self) -> PairRenderer:
        """Return the renderer; only after ``open``."""
        if self._renderer is None:
            raise RuntimeError("open() comes first")
        return self._renderer

    def prepare(self, row: Row) -> Draft:
        """Lay out the pair of a row; paint its person unless cached."""
        return self.renderer.draft(_spec(row))

    def compute(self, items: list[Any]) -> Sequence[RenderedPair]:
        """Return the rendered pairs."""
        self.rendered += len(items)
        return self.renderer.render(items)

    def finish(self, row: Row, item: Any, result: Any) -> list[Row]:
        """Return the row of a rendered pair, encoded."""
        if self.config.camera == "varied":
            source = simulate_camera(result.source, generator(23, row["seed"]))
            result = replace(result, source=source)
        return [pair_row(_spec(row), result, self.config.quality)]


def _one_blas_thread() -> None:
    """Limit numpy's matrix products in this process to one thread.

    Sums over several threads round differently, so the bytes would depend on the number of cores;
    and the products are too small to share.
    """
    threadpool_limits(1, "blas")


def _spec(row: Row) -> PairSpec:
    return PairSpec(row["key"], row["split"], row["identity"], row["seed"], row["expression_seed"])


def pair_row(spec: PairSpec, pair: RenderedPair, jpeg_quality: int) -> dict[str, Any]:
    """Return a pair as a row of the schema."""
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


def _jpeg(pixels_rgb_u8: Pixels, quality: int) -> bytes:
    """(H, W, 3) RGB → JPEG without chroma subsampling, which would blur lips and irises."""
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
