"""normalize: runs aligned faces through a network that shows their expression on one face.

Reads ``aligned``, writes ``normalized/<variant>``. Decoding and encoding run in the engine's pool,
the network in its own thread: torch's, or ONNX Runtime's for an exported one.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self

import numpy as np
from pydantic import Field, field_validator, model_validator

from ..manifests.arrays import Pixels
from ..manifests.schema import NORMALIZED
from ..manifests.vocabularies import SampleError
from ..pipeline.errors import InputError, nearest
from ..pipeline.stage import (
    DIGEST,
    GPU,
    MEMORY,
    MapStage,
    Row,
    StageConfig,
    added,
    check_digest,
    free,
    sha256_file,
)
from .faces.pixels import Limits, decode, encode

#: Channel values from here up count as saturated.
SATURATED_FROM = 250


class NormalizeConfig(StageConfig):
    """Settings of the normalize stage."""

    network: str = Field(
        "compact",
        description="name of the network, also of one that another installed package brings; "
        "empty: the one that the weights are for",
    )
    weights: str = free(
        "",
        description="path of a .safetensors file, or of an .onnx file; empty: the weights that "
        "ship with the network",
        path=True,  # their digest does
    )
    input_range: tuple[float, float] | None = added(
        None,
        description="the values of black and of white that an .onnx file of others wants, such as "
        "[-1, 1]; empty: as its metadata says",
    )
    output_range: tuple[float, float] | None = added(
        None, description="the values of black and of white that it gives; empty: likewise"
    )
    colours: Literal["rgb", "bgr"] | None = added(
        None, description="the order of its colours, rgb or bgr; empty: likewise"
    )
    weights_sha256: str = free(  # their digest does
        "",
        pattern=DIGEST,
        description="required sha256 of the weights file; empty: any",
    )
    variant: str = free(
        "",
        description="name of the output under normalized/; empty: the network's name",
    )
    device: str = free(  # the device class does
        "auto",
        description="auto (a GPU if there is one), cpu, cuda or cuda:N; a missing one is an error",
    )
    memory_gb: float = free(
        2.0,
        gt=0,
        description="memory of this stage, requested if cluster workers declare MEMORY",
    )
    precision: Literal["fp32", "bf16"] = Field("fp32", description="fp32 or bf16")
    batch_size: int = Field(32, ge=1, description="faces per batch; the last one is padded")
    format: Literal["jpeg", "png"] = Field("jpeg", description="jpeg or png")
    quality: int = Field(95, ge=1, le=100, description="JPEG quality")
    min_brightness: float = Field(
        0.02, ge=0, le=1, description="below this mean (0-1) an output is rejected as black"
    )
    min_contrast: float = Field(
        0.02, ge=0, le=1, description="below this standard deviation (0-1) it is rejected as flat"
    )
    max_saturated: float = Field(
        0.5,
        ge=0,
        le=1,
        description="above this share of clipped pixels it is rejected as saturated",
    )

    @field_validator("variant")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        if "/" in value or value.startswith((".", "_")):
            raise ValueError("a variant is a plain folder name that does not start with . or _")
        return value

    @model_validator(mode="after")
    def _some_network(self) -> Self:
        if not self.network and not self.weights:
            raise ValueError("give network, weights or both")
        self._plain_name(self.variant_name)  # also a name taken from the network or the weights
        if self.is_onnx and self.precision != "fp32":
            raise ValueError("an .onnx file computes in fp32: set precision=fp32")
        said = next((name for name, value in self.contract.items() if value is not None), "")
        if said and not self.is_onnx:
            raise ValueError(f"{said} is for .onnx files: leave it out")
        return self

    @property
    def contract(self) -> dict[str, Any]:
        """Return what the settings say of an .onnx file of others; see ``onnx_file.CONTRACT``."""
        return {
            "input_range": self.input_range,
            "output_range": self.output_range,
            "colours": self.colours,
        }

    @property
    def variant_name(self) -> str:
        """Return the folder's name under ``normalized/``."""
        return self.variant or self.network or Path(self.weights).stem

    @property
    def is_onnx(self) -> bool:
        """Return whether ONNX Runtime runs it."""
        return Path(self.weights).suffix == ".onnx"


class Normalize(MapStage):
    """The normalize stage."""

    name: ClassVar[str] = "normalize"
    version: ClassVar[int] = 1
    keeps_positions: ClassVar[bool] = True
    libraries: tuple[str, ...] = ("pyarrow", "pillow", "torch", "numpy")
    reads = ("aligned",)
    schema = NORMALIZED

    def __init__(self, config: NormalizeConfig, threads: int | None = None) -> None:
        """``threads``: of an ONNX file on a CPU; torch gets one thread, or its default if None."""
        self.config: NormalizeConfig = config
        self.writes = f"normalized/{config.variant_name}"
        self.description = (
            "Faces mapped to one identity, pose and background with their expression kept, by the "
            f"network `{config.network or config.variant_name}`. Normalized is not anonymous: see "
            "normpipe's README."
        )
        if config.is_onnx:
            self.libraries = ("pyarrow", "pillow", "numpy", "onnxruntime", "onnxruntime-gpu")
        self._threads = threads
        self._network: Any = None
        self._name = config.network
        self._device: Any = None
        self._device_class = "cpu"
        self._digest = ""

    @property
    def batch_size(self) -> int:
        """Return the rows of a batch."""
        return self.config.batch_size

    @property
    def device_class(self) -> str:
        """Return ``cpu`` or ``cuda``."""
        return self._device_class

    def resources(self) -> dict[str, float]:
        """Return the memory, and a GPU if the settings request one."""
        gpu = {GPU: 1.0} if self.config.device == "cuda" else {}
        return {MEMORY: self.config.memory_gb * 1e9, **gpu}

    def digests(self) -> dict[str, str]:
        """Return the sha256 of the weights."""
        return {"weights": self._digest}

    def settings_for(self, digests: dict[str, str]) -> str:
        """Return the name of shipped weights with another digest, such as those of a release."""
        from .networks.files.checkpoint import shipped_weights

        wanted = digests.get("weights")
        names = [name for name, digest in shipped_weights().items() if digest == wanted]
        return f"normalize.weights={names[0]}" if names and wanted != self._digest else ""

    def open(self) -> None:
        """Build the network and load its weights.

        Raises InputError for an unknown network, a missing device, and weights that are missing,
        of another network or of other shapes.
        """
        if self._network is not None:
            return
        network = self._open_onnx() if self.config.is_onnx else self._open_torch()
        if self.config.network not in ("", self._name):
            raise InputError(
                f"{self.config.weights} are weights of the network '{self._name}', not "
                f"'{self.config.network}': set normalize.network={self._name}"
            )
        self._network = network

    def _check_pin(self, path: Path) -> None:
        """Refuse a file other than the one the job pins, before loading it."""
        pin = self.config.weights_sha256
        if pin and path.is_file():
            check_digest(str(path), sha256_file(path), "normalize.weights_sha256", pin)

    def _open_torch(self) -> Any:
        import torch

        from .networks import NETWORKS
        from .networks.devices import resolve_device
        from .networks.files.checkpoint import find_weights
        from .networks.files.installed import installed_names, open_installed
        from .networks.files.normalizer_file import open_normalizer

        name = self.config.network
        others = installed_names() if name and name not in NETWORKS else []
        if name and name not in (*NETWORKS, *others):
            raise InputError(f"unknown network '{name}'{nearest(name, [*NETWORKS, *others])}")
        self._device = resolve_device(self.config.device, "normalize.device")
        self._device_class = str(self._device.type)
        if self._threads is not None and self._device.type == "cpu":
            # With more, sums depend on the number of threads: a resumed run could give other
            # bytes. The detectors' threads set the same, for the whole process.
            torch.set_num_threads(1)
        # fp32 means fp32, and the same bytes every time: no TF32, no kernel autotuning.
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        if name in others:
            file = Path(self.config.weights) if self.config.weights else None
            if file is not None:
                self._check_pin(file)
            installed = open_installed(name, file)
            self._digest, self._name = installed.digest, name
            return installed.module.requires_grad_(False).to(self._device)
        path = find_weights(self.config.weights or name)
        self._check_pin(path)
        loaded = open_normalizer(path)
        self._digest, self._name = loaded.digest, loaded.network
        return loaded.module.for_inference().requires_grad_(False).to(self._device)

    def _open_onnx(self) -> Any:
        import torch

        from .networks.files.onnx_file import open_onnx

        path = Path(self.config.weights)
        self._check_pin(path)
        exported = open_onnx(path, self.config.device, self._threads, said=self.config.contract)
        self._device, self._device_class = torch.device("cpu"), exported.device_class
        self._digest, self._name = exported.digest, exported.network
        return lambda images: torch.from_numpy(exported(images.contiguous().numpy()))

    def prepare(self, row: Row) -> Pixels:
        """Return the aligned face, (H, W, 3) uint8 RGB."""
        return decode(row["image"]["bytes"], Limits())

    def compute(self, items: list[Any]) -> Sequence[Pixels | None]:
        """Return a normalized face for each, (S, S, 3) uint8 RGB; None if it is not finite.

        An item may be None: its input is black, and its result meaningless.
        """
        import torch

        shape = next(item.shape for item in items if item is not None)
        # Padded: kernels are chosen by shape, so every batch must have the same one.
        batch = np.zeros((self.config.batch_size, *shape), np.uint8)
        for place, item in enumerate(items):
            if item is not None:
                batch[place] = item
        bf16 = self.config.precision == "bf16"
        with torch.inference_mode(), torch.autocast(self._device.type, torch.bfloat16, bf16):
            images = torch.from_numpy(batch).to(self._device)
            images = images.permute(0, 3, 1, 2).float().div_(255)  # (B, 3, H, W)
            faces = self._network(images)
            _check_faces(faces, images)
            faces = faces[: len(items)].float()  # (b, 3, S, S)
            finite = torch.isfinite(faces).flatten(1).all(1)  # (b,)
            pixels = (faces.nan_to_num().clamp(0, 1) * 255).round_().byte()
            pixels = pixels.permute(0, 2, 3, 1).cpu().numpy()
        return [face if good else None for face, good in zip(pixels, finite.tolist(), strict=True)]

    def finish(self, row: Row, item: Any, result: Any) -> list[Row]:
        """Return the output row; raise SampleError if its quality is too low."""
        if result is None:
            raise SampleError("not_finite_output")
        brightness, contrast, saturated = checked_quality(result, self.config)
        data = encode(result, self.config.format, self.config.quality)
        suffix = "jpg" if self.config.format == "jpeg" else "png"
        return [
            {
                "image": {"bytes": data, "path": f"{row['key']}.{suffix}"},
                "image_sha256": hashlib.sha256(data).hexdigest(),
                "network": self._name,
                "weights_sha256": self._digest,
                "brightness": brightness,
                "contrast": contrast,
                "saturated_share": saturated,
            }
        ]


def _check_faces(faces: Any, images: Any) -> None:
    """Raise InputError unless a network gave (B, 3, S, S) for (B, 3, H, W)."""
    shape = tuple(getattr(faces, "shape", ()))
    if len(shape) != 4 or shape[:2] != (len(images), 3) or shape[2] != shape[3]:
        raise InputError(
            f"the network turns {tuple(images.shape)} into {shape or type(faces).__name__}: a "
            "normalizer gives (B, 3, S, S)"
        )


class QualityLimits(Protocol):
    """Limits of a usable normalized face, as ``NormalizeConfig`` has them."""

    @property
    def min_brightness(self) -> float:
        """Return the least mean, 0-1."""
        ...

    @property
    def min_contrast(self) -> float:
        """Return the least standard deviation, 0-1."""
        ...

    @property
    def max_saturated(self) -> float:
        """Return the largest share of clipped values."""
        ...


def checked_quality(pixels_rgb_u8: Pixels, limits: QualityLimits) -> tuple[float, float, float]:
    """Return what ``output_quality`` measures of (S, S, 3) uint8.

    Raises SampleError: ``black_output``, ``saturated_output``, ``flat_output``.
    """
    brightness, contrast, saturated = output_quality(pixels_rgb_u8)
    if brightness < limits.min_brightness:
        raise SampleError("black_output", f"mean {brightness:.3f}")
    if saturated > limits.max_saturated:
        raise SampleError("saturated_output", f"share {saturated:.3f}")
    if contrast < limits.min_contrast:
        raise SampleError("flat_output", f"deviation {contrast:.3f}")
    return brightness, contrast, saturated


def output_quality(pixels_rgb_u8: Pixels) -> tuple[float, float, float]:
    """Return mean, standard deviation (both 0-1) and share of clipped values of (S, S, 3) uint8."""
    return (
        float(pixels_rgb_u8.mean()) / 255,
        float(pixels_rgb_u8.std()) / 255,
        float((pixels_rgb_u8 >= SATURATED_FROM).mean()),
    )
