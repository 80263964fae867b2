"""Renders batches of shots on a CPU or a GPU: the same shot gives the same pixels on a device.

On a CPU every shot is a batch of its own, and threads share the shots: a picture's data stays in
the cache, and neither other shots nor the number of threads can change a bit of it. On a GPU all
shots are rendered together; every operation treats the pictures separately.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ....manifests.arrays import Pixels
from ..surface.detail import simplify
from ..surface.gaze import offset_from_gaze
from ..surface.head import EYE, GUMS, SKIN, TEETH, Head
from ..surface.wrinkles import furrow_window, left_share, relief_slopes, wrinkle_relief
from .loops import loops_for
from .mesh import Mesh, Sheets, pad_sheets, project, put_sheet, unit
from .rasterize import CoveredSamples, SmoothAreas, mean_of_pixels
from .renderer import NUMBERS, SUPERSAMPLE, PreparedPerson, Shot
from .shading import Surface, develop, eye_albedo, occlusion, shade
from .texture import halved, with_half

ShotNumbers = dict[str, Tensor]

_GUM_COLOUR = (0.30, 0.07, 0.07)
_RELIEF_LEAN = 2.5
_PEOPLE_KEPT = 64
_FINE_FROM_PX = 160
_STEEP = 1.0  # depth over width


@dataclass(frozen=True, eq=False)
class _Person:
    """A person on the device: standing (3, V), skin (N, 8) texels, furrows (K, h, w), sheet."""

    standing: Tensor
    skin: Tensor
    furrows: Tensor
    sheet: Sheets


@dataclass(frozen=True)
class _Body:
    """Posed heads with their sheets: camera coordinates (B, 3, V), and their triangles."""

    camera: Tensor
    corners: Tensor
    parts: Tensor
    smooth: Tensor
    attributes: Tensor


class BatchRenderer:
    """Renders shots of ``size_px`` x ``size_px`` pixels with one head."""

    def __init__(
        self, head: Head, size_px: int, device: torch.device | str = "cpu", threads: int = 1
    ) -> None:
        """``threads``: CPU threads that render; a GPU needs none."""
        self.size_px = size_px
        self.device = torch.device(device)
        fine = size_px >= _FINE_FROM_PX
        self.mesh = Mesh(head if fine else simplify(head, size_px), self.device)
        self._size = size_px * SUPERSAMPLE
        self._loops = loops_for(self.device)
        self._person = lru_cache(_PEOPLE_KEPT)(self._put_person)
        self._pool = None
        if self.device.type == "cpu":
            # A picture is too small for several threads; each thread renders whole pictures.
            self._pool = ThreadPoolExecutor(threads, "render", torch.set_num_threads, (1,))
        self._atlas = head.atlas
        rows, columns = furrow_window(head.atlas)
        self._corner = (columns.start, rows.start)
        # Small pictures need no fine furrows.
        self._shrink = 1 if fine else 2
        left = torch.from_numpy(left_share(head.atlas)).to(self.device)
        self._left = functional.avg_pool1d(left[None], self._shrink)[0]

    def render(self, shots: Sequence[Shot]) -> Pixels:
        """Render B ≥ 1 shots: (B, S, S, 3) uint8 RGB; pixels do not depend on other shots."""
        if self._pool is None:
            return self.render_together(shots)
        return np.concatenate(
            list(self._pool.map(lambda shot: self.render_together([shot]), shots))
        )

    def vertices(self, shots: Sequence[Shot]) -> Tensor:
        """Return (B, 3, V) x, y in samples and depth of every vertex, those of sheets last."""
        people = [self._person(shot.prepared) for shot in shots]
        numbers = self._numbers(shots)
        return _projected(self._pose(shots, people, numbers), numbers)

    @torch.inference_mode()
    def render_together(self, shots: Sequence[Shot]) -> Pixels:
        """Render B shots in one pass, which suits a GPU: (B, S, S, 3) uint8 RGB."""
        people = [self._person(shot.prepared) for shot in shots]
        numbers = self._numbers(shots)
        body = self._pose(shots, people, numbers)
        points = _projected(body, numbers).transpose(0, 1).reshape(3, -1)
        # Depth varies less than this within a pixel, unless the surface is seen edge-on.
        smooth = SmoothAreas(body.smooth, _STEEP / numbers["unit"])
        cover = self._loops.rasterize(points, body.corners, smooth, self._size)
        surface, skin = self._surface(shots, people, numbers, body, cover)
        openness = occlusion(cover, numbers["unit"], self.size_px)
        lit = torch.ones_like(cover.depth)
        if bool((numbers["shadow"] > 0).any()):
            frame = numbers["shadow_frame"].view(-1, 3, 3)
            lit = self._loops.cast_shadow(body.camera, surface.position, frame)
        radiance = shade(surface, openness, lit, numbers)
        gain = numbers["exposure"] / _metered(radiance, skin * cover.first)
        display = develop(radiance, gain, numbers["contrast"])
        return self._compose(shots, display, cover)

    def _numbers(self, shots: Sequence[Shot]) -> ShotNumbers:
        table = self._put(np.stack([shot.numbers for shot in shots]))
        parts = table.split(list(NUMBERS.values()), 1)
        return dict(zip(NUMBERS, parts, strict=True))

    def _put(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def _put_person(self, prepared: PreparedPerson) -> _Person:
        standing = prepared.standing[self.mesh.used].T
        furrows = prepared.furrows
        if self._shrink > 1:
            furrows = np.stack([halved(layer) for layer in furrows])
        return _Person(
            standing=self._put(np.ascontiguousarray(standing)),
            skin=self._put(with_half(prepared.skin)),
            furrows=self._put(furrows),
            sheet=put_sheet(prepared.sheet, self.mesh),
        )

    def _pose(self, shots: Sequence[Shot], people: list[_Person], numbers: ShotNumbers) -> _Body:
        mesh = self.mesh
        amounts = self._put(np.stack([shot.amounts for shot in shots]))
        standing = torch.stack([person.standing for person in people])
        points = self._loops.move_heads(standing, amounts, mesh.shapes)
        rotation = numbers["rotation"].view(-1, 3, 3)
        camera = mesh.turn(points, rotation)
        is_open = [shot.mouth_open for shot in shots]
        faces = mesh.open if any(is_open) else mesh.closed
        normals = self._loops.normals(camera, faces)
        sheets = pad_sheets([person.sheet for person in people])
        behind = torch.bmm(rotation, sheets.normals)
        # Both sides of a sheet may show: flip normals towards the camera.
        behind = behind * torch.where(behind[:, 2:] < 0, -1.0, 1.0)
        camera = torch.cat([camera, mesh.turn(sheets.points, rotation)], 2)
        normals = torch.cat([normals, behind], 2)
        static = mesh.static.expand(len(shots), -1, -1)
        attributes = torch.cat([static, sheets.attributes], 2)
        corners = torch.cat([mesh.corners_of(faces, is_open), sheets.corners], 2)
        smooth = faces.smooth.expand(len(shots), -1)
        parts = torch.cat([faces.parts.expand(len(shots), -1), sheets.parts], 1)
        first = torch.arange(len(shots), device=self.device)[:, None, None] * camera.shape[2]
        return _Body(
            camera,
            (corners + first).transpose(0, 1).reshape(3, -1),
            parts.reshape(-1),
            torch.cat([smooth, (sheets.parts > 0) * 2.0], 1).view(-1),
            torch.cat([camera, normals, attributes], 1),
        )

    def _surface(
        self,
        shots: Sequence[Shot],
        people: list[_Person],
        numbers: ShotNumbers,
        body: _Body,
        cover: CoveredSamples,
    ) -> tuple[Surface, Tensor]:
        """Return the samples' surface for shading, and where skin is (B, N)."""
        count = len(shots)
        values = self._loops.blend(body.attributes, body.corners, cover)
        position, normal, texel = values[:, :3], values[:, 3:6], values[:, 6:8]
        part = body.parts.index_select(0, cover.triangle).view(count, -1)
        skin = (part == SKIN).float()

        sampled, lean = self._skin(shots, people, texel, cover.share > 1)
        lash = numbers["lash"] * (0.9 * values[:, 10] + 0.35 * values[:, 11])
        albedo = sampled[:, :3] * (skin * (1 - lash.clamp(0, 0.95)))[:, None]
        eye = part == EYE
        self._colour_parts(albedo, part, values[:, 8:10], texel[:, 0], numbers)
        gloss = 0.3 + skin * (sampled[:, 3] - 0.3)
        wet = (eye | (part == TEETH)).float()
        # Tilt the normal against the relief's slope, along the skin's own right and up.
        rotation = numbers["rotation"].view(-1, 3, 3)
        lean = lean * (_RELIEF_LEAN * skin)[:, None]
        right, up = rotation[:, :, 0, None], rotation[:, :, 1, None]
        normal = normal - (lean[:, :1] * right + lean[:, 1:] * up)
        return Surface(position, unit(normal), albedo, gloss, wet), skin

    def _colour_parts(
        self, albedo: Tensor, part: Tensor, eye_offset: Tensor, strand: Tensor, numbers: ShotNumbers
    ) -> None:
        """Colour all samples that are not skin, in place; they are few, so they are selected."""
        count = part.shape[1]
        where = (part > SKIN).view(-1).nonzero().squeeze(1)
        kind, picture = part.view(-1)[where], where // count
        inside = where - picture * count
        own = {name: numbers[name][picture] for name in _PART_NUMBERS}
        gums = albedo.new_tensor(_GUM_COLOUR)
        column = strand.reshape(-1)[where][:, None]  # for hair: the brightness of the strands
        colour = own["strands"] * column.clamp(0.3, 1.8)
        colour = torch.where((kind == GUMS)[:, None], gums, colour)
        colour = torch.where((kind == TEETH)[:, None], own["teeth"], colour)
        left = column > self._atlas.width / 2
        gaze = torch.where(left, own["gaze"][:, 2:], own["gaze"][:, :2])
        eye = (
            eye_albedo(offset_from_gaze(eye_offset[picture, :, inside], gaze), own)
            * own["eye_shade"]
        )
        colour = torch.where((kind == EYE)[:, None], eye, colour)
        albedo[picture, :, inside] = colour

    def _skin(
        self, shots: Sequence[Shot], people: list[_Person], texel: Tensor, coarse: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return painted maps (B, 6, N) and slopes with furrows (B, 2, N) at texels (B, 2, N).

        ``coarse`` (B, N) bool: points that represent a whole pixel use the maps of half the size.
        """
        atlas = self._atlas
        unique = list(dict.fromkeys(people))
        which = self._put(np.array([unique.index(person) for person in people]))
        # A single table is used directly: a copy costs more than all the sampling.
        tables = unique[0].skin
        if len(unique) > 1:
            tables = torch.cat([person.skin for person in unique])
        full = atlas.height * atlas.width
        level = 1 - 0.5 * coarse.float()
        begin = which[:, None] * len(unique[0].skin) + coarse * full
        size = ((atlas.height * level).floor(), (atlas.width * level).floor())
        # Texel centres are at integers; those of the half-size maps are between two of them.
        sampled = self._loops.sample(tables, (texel + 0.5) * level[:, None] - 0.5, size, begin, 6)
        strengths = np.stack([shot.strengths for shot in shots])
        relief = wrinkle_relief([person.furrows for person in people], strengths, self._left)
        across, up = atlas.slope_scale
        slopes = relief_slopes(relief, (across / self._shrink, up / self._shrink))
        high, wide = slopes.shape[1:3]
        corner = torch.tensor(self._corner, device=self.device)[:, None] - 0.5
        begin = torch.arange(len(shots), device=self.device)[:, None] * (high * wide)
        begin = begin.expand_as(level)
        place = (texel - corner) / self._shrink - 0.5
        size = (torch.full_like(level, high), torch.full_like(level, wide))
        furrows = self._loops.sample(slopes.view(-1, 4), place, size, begin, 2)
        return sampled, sampled[:, 4:6] + furrows

    def _compose(self, shots: Sequence[Shot], display: Tensor, cover: CoveredSamples) -> Pixels:
        """Average each pixel's samples and composite with background and overlay."""
        count = len(shots)
        shown = torch.cat([display, torch.ones_like(display[:, :1])], 1) * cover.share[:, None]
        samples = torch.zeros(count, 4, self._size**2, device=self.device)
        # Padding adds zeros; every other sample is written once.
        samples.scatter_add_(2, cover.place[:, None].expand(-1, 4, -1), shown)
        picture = mean_of_pixels(samples.view(count, 4, self._size, -1))
        behind = self._put(np.stack([shot.background for shot in shots])).permute(0, 3, 1, 2)
        picture = picture[:, :3] * 255 + behind * (1 - picture[:, 3:])
        if any(shot.overlay is not None for shot in shots):
            blank = np.zeros((self.size_px, self.size_px, 4), np.uint8)
            front = [blank if shot.overlay is None else shot.overlay for shot in shots]
            over = self._put(np.stack(front)).permute(0, 3, 1, 2).float()
            picture = picture * (1 - over[:, 3:] / 255) + over[:, :3]
        picture = (picture + 0.5).clamp_(0, 255).byte()
        return picture.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def _projected(body: _Body, numbers: ShotNumbers) -> Tensor:
    return project(body.camera, *(numbers[name] for name in ("distance", "scale", "shift")))


def _metered(radiance: Tensor, some: Tensor) -> Tensor:
    """Return (B, 1) the median radiance (B, 3, N) of some points (B, N), using every third."""
    radiance, some = radiance[..., ::3], some[:, ::3]
    values = radiance.masked_fill(some[:, None] == 0, torch.nan).flatten(1)
    return values.nanmedian(1, keepdim=True).values.nan_to_num(0.2).clamp(min=1e-3)


_PART_NUMBERS = (
    "strands", "teeth", "white", "iris", "iris_radius", "pupil_radius", "eye_shade", "gaze",
)  # fmt: skip
