"""import-variant: takes normalized faces that others made for the originals of a job.

Reads ``aligned`` and a folder of pictures, writes ``normalized/<variant>``, as normalize does. Not
a part of the flow: no run makes such a variant.
"""

import hashlib
import io
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import cv2
from PIL import Image

from ...manifests.arrays import Pixels
from ...manifests.keys import sample_id
from ...manifests.schema import NORMALIZED
from ...manifests.vocabularies import SampleError
from ...pipeline.errors import InputError
from ...pipeline.stage import MapStage, Row, sha256_file
from ...pipeline.store.shards import ShardFolder
from ...pipeline.store.storage import is_within
from ..faces.isolation import DecoderPool, ProcessLimits
from ..faces.pixels import Limits, encode, to_pixels
from ..normalize import checked_quality
from ..sources.fetching import SourceReader
from ..sources.files import FileFacts
from .import_plan import ALIGNED_FACES, ImportConfig, ImportPlan, plan_import

#: ``network`` of imported rows: which one made them is not known to normpipe.
IMPORTED = "imported"
#: Pictures that are looked at to find the size of most.
_LOOKED_AT = 25
#: What a reader might show otherwise than as it was checked here: turned, or over another colour.
_NOT_PLAIN = {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif", "transparency"}
_VARIANT = re.compile(r"(?![_.])[A-Za-z0-9._-]+")


class ImportedPicture(NamedTuple):
    """A picture as it is in its file, and (H, W, 3) uint8 RGB, upright."""

    data: bytes
    pixels: Pixels


class ImportVariant(MapStage):
    """The stage that imports a variant.

    Args:
        config: settings; what they leave open must be decided (``plan_variant``).
        root: the job's folder.
        folder: of the pictures, or their archive.
        plan: what ``plan_variant`` decided; None: ``open`` finds it again from the settings.
    """

    name: ClassVar[str] = "import-variant"
    beside_job: ClassVar[bool] = True
    libraries: tuple[str, ...] = ("pyarrow", "pillow", "numpy")
    reads = (ALIGNED_FACES,)
    schema = NORMALIZED

    def __init__(
        self, config: ImportConfig, root: Path, folder: Path, plan: ImportPlan | None = None
    ) -> None:
        self.config: ImportConfig = config
        self.writes = variant_dataset(config.variant)
        shown = shlex.quote(str(folder)).replace("{", "{{").replace("}", "}}")
        self.resume_command = f"normpipe import-variant {{}} {shown} --variant {config.variant}"
        source = config.source or folder.name
        self.description = (
            f"Normalized faces that others made (by {config.made_by}), imported from {source}; no "
            "normpipe run makes them. Their licence is that of their release. Normalized is not "
            "anonymous: see normpipe's README."
        )
        if config.resize:
            self.libraries = (*self.libraries, "opencv-python")
        self._root, self._folder = root, folder
        self._plan = plan
        limits = Limits()
        self._decoders = DecoderPool(limits, ProcessLimits())
        self._reader = SourceReader(folder, limits.max_bytes, 0.0, allow_urls=False)
        self._weights = hashlib.sha256(f"{IMPORTED}: {config.made_by}".encode()).hexdigest()

    @property
    def batch_size(self) -> int:
        """Return the rows of a batch."""
        return 32

    def open(self) -> None:
        """Find each face's picture, and start a decoding process. Raises as ``plan_import``."""
        if self._plan is None:
            self._plan = plan_import(self.config, self._root, self._folder)
        self._reader.open()
        self._decoders.start()

    def close(self) -> None:
        """End the decoding processes, and close the archive."""
        self._reader.close()
        self._decoders.close()

    def digests(self) -> dict[str, str]:
        """Return what stands for the weights, and the digest of the set of pictures."""
        found = {"weights": self._weights, "pictures": self._planned.pictures.digest()}
        if self.config.pairs:
            found["list"] = sha256_file(Path(self.config.pairs))
        return found

    @property
    def _planned(self) -> ImportPlan:
        assert self._plan is not None, "open the stage first"
        return self._plan

    def prepare(self, row: Row) -> ImportedPicture:
        """Read and decode a face's picture."""
        path = self._planned.rows.get(row["key"])
        if path is None:
            raise SampleError("not_in_import")
        seen = self._planned.pictures.facts.get(path, FileFacts())
        known = {"size_bytes": seen.size_bytes, "modified_ns": seen.modified_ns}
        data = self._reader.read({"path": path, **known})
        return ImportedPicture(data, to_pixels(self._decoders.decode(data)))

    def compute(self, items: list[Any]) -> Sequence[Any]:
        """Return the pictures as they are."""
        return items

    def finish(self, row: Row, item: ImportedPicture, result: Any) -> list[Row]:
        """Return the output row; raise SampleError for another size, or too low a quality."""
        del result
        config, size = self.config, self.config.size_px
        height, width = item.pixels.shape[:2]
        if height != width or (height != size and not config.resize):
            raise SampleError("other_size", f"{width}x{height}")
        pixels = _resized(item.pixels, size or height)
        brightness, contrast, saturated = checked_quality(pixels, config)
        if config.format == "keep" and height == size and (suffix := _plain_suffix(item.data)):
            data = item.data
        else:
            suffix = "jpg" if config.format == "jpeg" else "png"
            data = encode(pixels, "jpeg" if suffix == "jpg" else "png", config.quality)
        return [
            {
                "image": {"bytes": data, "path": f"{row['key']}.{suffix}"},
                "image_sha256": hashlib.sha256(data).hexdigest(),
                "network": IMPORTED,
                "weights_sha256": self._weights,
                "brightness": brightness,
                "contrast": contrast,
                "saturated_share": saturated,
            }
        ]


def _resized(pixels: Pixels, size: int) -> Pixels:
    side = pixels.shape[0]
    if side == size:
        return pixels
    way = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
    return cv2.resize(pixels, (size, size), interpolation=way).astype(pixels.dtype)


def _plain_suffix(data: bytes) -> str:
    """Return ``jpg`` or ``png`` if every reader shows a file's pixels alike; else ""."""
    try:  # it was decoded before, in another process
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
            plain = image.mode in ("RGB", "L") and _NOT_PLAIN.isdisjoint(image.info)
            return {"JPEG": "jpg", "PNG": "png"}.get(image.format or "", "") if plain else ""
    except OSError:  # another format
        return ""


def variant_dataset(variant: str) -> str:
    """Return the dataset of a variant. Raises InputError for a name that cannot be one."""
    if not _VARIANT.fullmatch(variant):
        raise InputError(
            f"--variant '{variant}': give a name of letters, digits, . _ - without leading . or _"
        )
    return f"normalized/{variant}"


def plan_variant(
    config: ImportConfig, root: Path, folder: Path, flow: Sequence[Mapping[str, Any]], again: bool
) -> ImportPlan:
    """Decide everything that an import's settings leave open.

    What an import of the same name decided before is kept, so that it goes on with more originals.

    Args:
        config: as given.
        root, folder: as ``plan_import``.
        flow: the job's saved flow.
        again: redo what was made from other pictures.

    Raises:
        InputError: as ``plan_import``; a name that is taken; a folder that cannot be meant; other
            pictures than those of before, unless ``again``; pictures that are not square.
    """
    name = variant_dataset(config.variant)
    if is_within(folder.resolve(), root) or is_within(root, folder.resolve()):
        raise InputError(f"{folder} and {root} hold each other: give the pictures' own folder")
    made = ShardFolder(root / name)
    before = made.description() if made.records() else None
    owner = next((one["stage"] for one in flow if one["writes"] == name), None)
    if before is not None and before["stage"] != ImportVariant.name:
        owner = before["stage"]
    if owner is not None:
        raise InputError(f"{name} belongs to the job's {owner}: choose another --variant")
    if before is not None and not again:
        config = _as_before(config, before["settings"])
    plan = plan_import(config, root, folder)
    digest = plan.pictures.digest()
    if before is not None and not again and before["digests"]["pictures"] != digest:
        raise InputError(
            f"{folder} holds other pictures than those that {name} was made from (names, sizes or "
            "times differ): restore them, choose another --variant, or import them anew with "
            "--overwrite"
        )
    if plan.config.size_px is not None:
        return plan
    decided = plan.config.model_copy(update={"size_px": _size_of_most(plan)})
    return replace(plan, config=decided)


def _as_before(config: ImportConfig, settings: dict[str, Any]) -> ImportConfig:
    """Return settings with what an earlier import decided where nothing else is asked for."""
    before = ImportConfig.model_validate(settings)
    asked = [config.original, config.picture, config.suffixes]
    same = asked == [before.original, before.picture, before.suffixes]
    kept: list[str] = []
    if not (config.pairs or config.spelling or config.depth) and (same or not any(asked)):
        kept += ["spelling", "depth", "original", "picture", "suffixes"]
    if config.shift is None:
        kept.append("shift")
    if config.size_px is None:
        kept += ["size_px", "resize"]
    return config.model_copy(update={name: getattr(before, name) for name in kept})


def _size_of_most(plan: ImportPlan) -> int:
    """Return the side of most of the pictures that are looked at, evenly spaced."""
    paths = plan.usable
    if not paths:
        raise InputError("no original with an aligned face has a picture: see 'normpipe status'")
    paths = paths[:: -(-len(paths) // _LOOKED_AT)]
    limits = Limits()
    reader = SourceReader(plan.pictures.root, limits.max_bytes, 0.0, allow_urls=False)
    decoders = DecoderPool(limits, ProcessLimits())
    found: Counter[tuple[int, int]] = Counter()
    why = ""
    try:
        reader.open()
        for path in paths:
            try:
                one = decoders.decode(reader.read({"path": path}))
                found[one.width_px, one.height_px] += 1
            except SampleError as error:
                why = f"{sample_id(path)}: {error.reason}"
    finally:
        reader.close()
        decoders.close()
    if not found:
        raise InputError(f"none of the {len(paths)} pictures that were tried can be read ({why})")
    (width, height), _ = found.most_common(1)[0]
    if width != height:
        raise InputError(
            f"the pictures are {width}x{height}, but normalized faces must be square: cut or pad "
            "them first"
        )
    return width
