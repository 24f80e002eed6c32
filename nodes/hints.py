"""Hints: colours for places, from points, masks and pictures; palettes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io

from ..seada_core.color.merging import merge_chroma
from ..seada_core.color.sizes import DECODE_SIZE, decode_size, resize, size_of
from ..seada_core.files.hint_format import hex_color, parse_color, parse_hints_text, parse_palette
from ..seada_core.hints import maps as hint_maps
from ..seada_core.hints.superpixels import quantize
from . import bridge, inputs

if TYPE_CHECKING:
    from torch import Tensor

STRIPE, STRIPED = 4, 0.5  # width in px and weight of the stripes that mark kept places in a preview
SWATCH = 64  # side of a palette's preview tiles, px
SAME_SHAPE = 0.03  # logarithm of two aspect ratios' quotient up to which pictures count as of one shape


@dataclass(frozen=True)
class Hints:
    """SEADA_HINTS. Hint maps are (B or 1, 3, H, W): Cb, Cr, mask, of the whole picture at any size; `map` may have more
    channels, see `seada_core.hints.maps`."""

    map: Tensor | None = None  # colours at places, as given
    spread: Tensor | None = None  # `map` propagated over the picture; SeAda CCD propagates again at its own size
    soft: Tensor | None = None  # colours of regions, weighted by the mask
    palette: tuple[str, ...] = ()  # "#rrggbb"
    palette_strength: float | None = None  # of a colour scheme; None for a palette by chroma alone

    def at(self, batch: int) -> Tensor | None:
        """The map for a batch of pictures."""
        return None if self.map is None or not self.map.any() else bridge.rows(self.map, batch, "the hints")

    def misfit(self, photos: Tensor) -> list[str]:
        """A warning where the hints were made for pictures of another shape than photos (B, C, H, W)."""
        height, width = size_of(photos)
        for given in (self.map, self.soft):
            if given is not None and given.any():
                other, wide = size_of(given)
                if abs(math.log(other * width / (wide * height))) > SAME_SHAPE:
                    return [
                        f"the hints are for a picture of the shape {wide} x {other}, this one has {width} x {height}; "
                        "connect the same photo to the hint node, or the colours land elsewhere"
                    ]
        return []

    def sized(self, i: int, batch: int, size: tuple[int, int]) -> tuple[Tensor | None, Tensor | None]:
        """Picture i's map and soft map of a batch, (1, 3, H, W)."""
        given, soft = self.at(batch), None if self.soft is None else bridge.rows(self.soft, batch, "the hints")
        return (
            None if given is None else hint_maps.resize_hint_map(given[i : i + 1], size),
            None if soft is None else hint_maps.resize_hint_map(soft[i : i + 1], size, dense=True),
        )

    def plus(self, hint_map: Tensor) -> Hints:
        """These hints and those of `hint_map` (B, 3, H, W), which win where they overlap."""
        if self.map is None:
            return replace(self, map=hint_map, spread=None)
        old, batch = self.map, max(len(self.map), len(hint_map))
        if old.shape[-2:] != hint_map.shape[-2:]:
            sizes = [f"{width} x {height}" for height, width in (old.shape[-2:], hint_map.shape[-2:])]
            raise ValueError(
                f"cannot join hints for a picture of {sizes[0]} with hints for one of {sizes[1]}; use the same picture"
            )
        old, new = (bridge.rows(m, batch, "the hints") for m in (old, hint_map))
        return replace(self, map=hint_maps.joined(new, old), spread=None)

    def shown(self) -> Tensor | None:
        """All hints as one map: the spread hints, or else the hints as given, composited over the soft ones."""
        upper = self.spread if self.spread is not None else self.map
        if upper is None or self.soft is None:
            return self.soft if upper is None else upper
        upper = upper[:, :3]
        batch, size = max(len(upper), len(self.soft)), size_of(upper)
        soft = hint_maps.resize_hint_map(self.soft, size, dense=True)
        return hint_maps.over(*(bridge.rows(m, batch, "the hints") for m in (upper, soft)))

    def softly(self, hint_map: Tensor) -> Hints:
        """These hints with the soft hints `hint_map` (B, 3, H, W) composited over their own."""
        if self.soft is None:
            return replace(self, soft=hint_map)
        batch = max(len(self.soft), len(hint_map))
        below = hint_maps.resize_hint_map(self.soft, size_of(hint_map), dense=True)
        return replace(self, soft=hint_maps.over(*(bridge.rows(m, batch, "the hints") for m in (hint_map, below))))


def preview(gray: Tensor, hint_map: Tensor) -> Tensor:
    """IMAGE of hints on the grey picture; places that keep the model's colour are striped."""
    shown = merge_chroma(hint_map[:, :2] * hint_map[:, 2:3], gray)
    if hint_map.shape[1] > 3:
        rows, columns = (torch.arange(side) for side in size_of(gray))
        stripes = (rows[:, None] + columns) // STRIPE % 2
        shown = torch.lerp(shown, stripes.to(shown).expand_as(shown), STRIPED * hint_map[:, 4:])
    return bridge.image(shown)


def preview_all(gray: Tensor, hints: Hints) -> Tensor:
    """IMAGE of all hints, soft ones included, on grey pictures (B, 1, H, W)."""
    shown = hints.shown()
    if shown is None:
        return bridge.image(gray.expand(-1, 3, -1, -1))
    shown = hint_maps.resize_hint_map(shown, size_of(gray), dense=True)
    return preview(gray, bridge.rows(shown, len(gray), "the hints"))


class SeAdaHints(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return bridge.schema(
            node_id="SeAdaHints",
            display_name="SeAda Hints",
            category="SeAda/hints",
            search_aliases=["click colors", "color hints", "paint colors", "scribble"],
            description="Gives places in the photo a colour: paint on it, or connect a mask.",
            inputs=[
                io.Image.Input("image", tooltip="The photo to paint on."),
                io.String.Input(
                    "points",
                    default="[]",
                    multiline=True,
                    tooltip="The painted colours as JSON, in pixels of the photo. The painter writes it; the help page "
                    "explains the format.",
                ),
                io.String.Input(
                    "mask_color",
                    default="#d0a070",
                    tooltip="The colour of the masked area: a name such as teal, #rrggbb or rgb(208, 160, 112).",
                ),
                io.Mask.Input(
                    "mask", optional=True, tooltip="The area that gets mask_color, as a mask of the photo's size."
                ),
                inputs.earlier_hints(),
            ],
            outputs=[inputs.hints_output(), inputs.preview_output()],
        )

    @classmethod
    def execute(
        cls, image: Tensor, points: str, mask_color: str, mask: Tensor | None = None, hints: Hints | None = None
    ) -> io.NodeOutput:
        with torch.inference_mode(False):
            gray = bridge.gray(image)
            size = size_of(gray)
            result = hints or Hints()
            if mask is not None and mask.any():  # for a picture without alpha LoadImage gives a small, empty mask
                if tuple(mask.shape[-2:]) != size:
                    raise ValueError(
                        f"the mask is {mask.shape[-1]} x {mask.shape[-2]} and the picture {size[1]} x {size[0]}; "
                        "give a mask of the picture's size"
                    )
                chosen = mask.reshape(-1, 1, *size).float().clamp(0, 1).clone()
                result = result.plus(hint_maps.hint_map_from_mask(chosen, hex_color(mask_color.strip())))
            parsed = parse_hints_text(points.strip() or "[]", "points")
            if parsed:
                result = result.plus(hint_maps.hint_map(parsed, size, size))
            shown = result.at(len(gray))
            shown = torch.zeros(1, 3, *size) if shown is None else shown
            if shown.shape[-2:] != size:
                shown = hint_maps.resize_hint_map(shown, size)
            picture = preview(gray, shown.expand(len(gray), -1, -1, -1))
            dark = hint_maps.hidden_hints(parsed, gray[:1], size)
            shown_photo = {"seada_photo": [bridge.shown_photo(gray)]}
            return io.NodeOutput(result, picture, ui=shown_photo | (bridge.warned([dark] if dark else []) or {}))


class SeAdaHintsFromImage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SeAdaHintsFromImage",
            display_name="SeAda Hints from Image",
            category="SeAda/hints",
            description="Takes hints from a colour picture of the same view: a share of its superpixels (SLIC).",
            inputs=[
                io.Image.Input("reference", tooltip="A colour picture of exactly the same view, of any size."),
                io.Int.Input(
                    "segments",
                    default=100,
                    min=1,
                    max=2000,
                    tooltip="Number of superpixels; more follow finer details.",
                ),
                io.Float.Input(
                    "share",
                    default=0.4,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Fraction of the superpixels that become hints. 1 uses all of the picture's colours.",
                ),
                inputs.seed("Change it to pick other superpixels."),
                inputs.earlier_hints(),
            ],
            outputs=[inputs.hints_output(), inputs.preview_output()],
        )

    @classmethod
    def execute(
        cls, reference: Tensor, segments: int, share: float, seed: int, hints: Hints | None = None
    ) -> io.NodeOutput:
        with torch.inference_mode(False):
            rgb = bridge.picture(reference, "reference")
            maps = [
                hint_maps.sample_superpixel_hints(one, torch.Generator().manual_seed(seed), (share, share), segments)
                for one in rgb.split(1)
            ]
            result = (hints or Hints()).plus(torch.cat(maps))
            assert result.map is not None
            return io.NodeOutput(result, preview(bridge.gray(reference), bridge.rows(result.map, len(rgb), "hints")))


class SeAdaPalette(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return bridge.schema(
            node_id="SeAdaPalette",
            display_name="SeAda Palette",
            category="SeAda/hints",
            search_aliases=["palette", "color scheme"],
            description="Keeps the result close to a few colours, which you list or take from a picture.",
            inputs=[
                io.String.Input(
                    "colors",
                    default="#8a5a3c,#6f9fd8,#5f8f4f",
                    tooltip="The colours, separated by commas: names such as teal, #rrggbb or rgb(208, 160, 112).",
                ),
                io.Int.Input(
                    "count", default=6, min=1, max=64, tooltip="How many colours to take from the connected picture."
                ),
                io.Image.Input(
                    "image", optional=True, tooltip="A picture whose main colours are added to the palette."
                ),
                inputs.earlier_hints(),
            ],
            outputs=[inputs.hints_output(), inputs.preview_output("The colours of the palette.")],
        )

    @classmethod
    def execute(cls, colors: str, count: int, image: Tensor | None = None, hints: Hints | None = None) -> io.NodeOutput:
        with torch.inference_mode(False):
            found = parse_palette(colors) if colors.strip() or image is None else []
            if image is not None:
                for one in resize_to(bridge.picture(image), 256):
                    main = (quantize(one, count)[1] * 255).round().int().tolist()
                    found += ["#{:02x}{:02x}{:02x}".format(*color) for color in main]
            hints = hints or Hints()
            palette = tuple(dict.fromkeys([*hints.palette, *found]))
            tiles = [torch.tensor(parse_color(color)).view(1, 3, 1, 1) for color in palette]
            strip = torch.cat(tiles, dim=3).repeat_interleave(SWATCH, 2).repeat_interleave(SWATCH, 3)
            return io.NodeOutput(replace(hints, palette=palette), bridge.image(strip))


def resize_to(rgb: Tensor, side: int) -> Tensor:
    """Pictures with their long side at most `side`."""
    scale = min(1.0, side / max(rgb.shape[-2:]))
    height, width = (max(1, round(n * scale)) for n in rgb.shape[-2:])
    return resize(rgb, (height, width))


class SeAdaPropagateHints(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SeAdaPropagateHints",
            display_name="SeAda Propagate Hints",
            category="SeAda/hints",
            description="Spreads hints to nearby areas of similar luminance. The further they spread, the less they "
            "count.",
            inputs=[
                io.Image.Input("image", tooltip="The photo that the hints are for."),
                bridge.SeadaHints.Input("hints", tooltip="The hints to spread."),
            ],
            outputs=[
                inputs.hints_output("The hints, spread over the photo."),
                inputs.preview_output(),
            ],
        )

    @classmethod
    def execute(cls, image: Tensor, hints: Hints) -> io.NodeOutput:
        with torch.inference_mode(False):
            gray = bridge.gray(image)
            small = resize(gray, decode_size(size_of(gray), DECODE_SIZE))
            hint_map, size = hints.at(len(small)), size_of(small)
            if hint_map is not None:
                hints = replace(
                    hints, spread=hint_maps.spread_hints(small, hint_maps.resize_hint_map(hint_map[:, :3], size))
                )
            return io.NodeOutput(hints, preview_all(gray, hints))
