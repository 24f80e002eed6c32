"""Hints: colours at places, from points, masks and pictures; palettes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io

from ..seada_core import hints as core
from ..seada_core.color import merge_chroma
from ..seada_core.pipeline import DECODE_SIZE, decode_size, resize
from . import bridge

if TYPE_CHECKING:
    from torch import Tensor

SWATCH = 64  # side of a palette's preview tiles, px


@dataclass(frozen=True)
class Hints:
    """SEADA_HINTS. Hint maps are (B or 1, 3, H, W): Cb, Cr, mask, of the whole picture at any size."""

    map: Tensor | None = None  # colours at places, as given
    spread: Tensor | None = None  # the same, propagated over the picture
    palette: tuple[str, ...] = ()  # "#rrggbb"

    def at(self, batch: int) -> Tensor | None:
        """The map for a batch of pictures."""
        return None if self.map is None or not self.map.any() else bridge.rows(self.map, batch, "the hints")

    def one(self, i: int, batch: int) -> Hints:
        """The hints of picture i of a batch."""
        maps = (None if m is None else bridge.rows(m, batch, "the hints")[i : i + 1] for m in (self.map, self.spread))
        return Hints(*maps, self.palette)

    def plus(self, hint_map: Tensor) -> Hints:
        """These and those of `hint_map` (B, 3, H, W), which win where both are."""
        if self.map is None:
            return Hints(hint_map, None, self.palette)
        old, batch = self.map, max(len(self.map), len(hint_map))
        if old.shape[-2:] != hint_map.shape[-2:]:
            sizes = [f"{width} x {height}" for height, width in (old.shape[-2:], hint_map.shape[-2:])]
            raise ValueError(f"hints for a picture of {sizes[0]} do not join those for {sizes[1]}; give both the same")
        old, new = (bridge.rows(m, batch, "the hints") for m in (old, hint_map))
        return Hints(torch.where(new[:, 2:] > 0, new, old), None, self.palette)

    def spread_over(self, gray: Tensor) -> Tensor | None:
        """The propagated map for grey pictures (B, 1, H, W) at their size; None without hints."""
        hint_map = self.at(len(gray))
        if hint_map is None:
            return None
        size = gray.shape[-2:]
        if self.spread is not None:
            return core.resize_hint_map(bridge.rows(self.spread, len(gray), "the hints"), size).to(gray.device)
        return core.spread_hints(gray, core.resize_hint_map(hint_map, size).to(gray.device))


def preview(gray: Tensor, hint_map: Tensor) -> Tensor:
    """IMAGE of hints on the grey picture."""
    return bridge.image(merge_chroma(hint_map[:, :2] * hint_map[:, 2:], gray))


_EARLIER = bridge.SeadaHints.Input("hints", optional=True, tooltip="Hints to add these to.")
_OUTPUT = bridge.SeadaHints.Output(id="seada_hints", display_name="SEADA_HINTS", tooltip="The hints, joined.")


def _preview_output() -> io.Image.Output:
    return io.Image.Output(id="preview", display_name="preview", tooltip="The hints as a picture.")


class SeAdaHints(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SeAdaHints",
            display_name="SeAda Hints",
            category="SeAda/hints",
            description="Colours at places: painted on the photo, and one colour wherever a mask is.",
            inputs=[
                io.Image.Input("image", tooltip="The photo that the places belong to."),
                io.String.Input(
                    "points",
                    default="[]",
                    multiline=True,
                    tooltip="What is painted, as JSON; the painter writes it, and the help page says what it may hold. "
                    "Pixels of the photo.",
                ),
                io.String.Input("mask_color", default="#d0a070", tooltip="The colour of the masked places, #rrggbb."),
                io.Mask.Input("mask", optional=True, tooltip="Places that get mask_color; of the photo's size."),
                _EARLIER,
            ],
            outputs=[_OUTPUT, _preview_output()],
        )

    @classmethod
    def execute(
        cls, image: Tensor, points: str, mask_color: str, mask: Tensor | None = None, hints: Hints | None = None
    ) -> io.NodeOutput:
        with torch.inference_mode(False):
            gray = bridge.gray(image)
            size = tuple(gray.shape[-2:])
            result = hints or Hints()
            if mask is not None and mask.any():  # LoadImage's mask of a picture without alpha is empty, and small
                if tuple(mask.shape[-2:]) != size:
                    raise ValueError(
                        f"the mask is {mask.shape[-1]} x {mask.shape[-2]} and the picture {size[1]} x {size[0]}; "
                        "give a mask of the picture's size"
                    )
                chosen = mask.reshape(-1, 1, *size).float().clamp(0, 1).clone()
                result = result.plus(core.hint_map_from_mask(chosen, mask_color))
            parsed = core.parse_hints_text(points.strip() or "[]", "points")
            if parsed:
                result = result.plus(core.hint_map(parsed, size, size))
            shown = result.at(len(gray))
            shown = torch.zeros(1, 3, *size) if shown is None else shown
            if shown.shape[-2:] != size:
                shown = core.resize_hint_map(shown, size)
            picture = preview(gray, shown.expand(len(gray), -1, -1, -1))
            return io.NodeOutput(result, picture, ui={"seada_photo": [bridge.shown_photo(gray)]})


class SeAdaHintsFromImage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SeAdaHintsFromImage",
            display_name="SeAda Hints from Image",
            category="SeAda/hints",
            description="Hints from a colour picture of the same scene: superpixels (SLIC), of which a share is taken.",
            inputs=[
                io.Image.Input("reference", tooltip="A colour picture that shows the same things at the same places."),
                io.Int.Input(
                    "segments", default=100, min=1, max=2000, tooltip="Number of superpixels; more are finer."
                ),
                io.Float.Input(
                    "share", default=0.4, min=0.0, max=1.0, step=0.05, tooltip="Share of them that become hints."
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Which of them are taken.",
                ),
                _EARLIER,
            ],
            outputs=[_OUTPUT, _preview_output()],
        )

    @classmethod
    def execute(
        cls, reference: Tensor, segments: int, share: float, seed: int, hints: Hints | None = None
    ) -> io.NodeOutput:
        with torch.inference_mode(False):
            rgb = bridge.picture(reference, "reference")
            maps = [
                core.sample_superpixel_hints(one, torch.Generator().manual_seed(seed), (share, share), segments)
                for one in rgb.split(1)
            ]
            result = (hints or Hints()).plus(torch.cat(maps))
            return io.NodeOutput(result, preview(bridge.gray(reference), bridge.rows(result.map, len(rgb), "hints")))


class SeAdaPalette(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SeAdaPalette",
            display_name="SeAda Palette",
            category="SeAda/hints",
            description="Colours to stay close to, written down or taken from a picture.",
            inputs=[
                io.String.Input("colors", default="#8a5a3c,#6f9fd8,#5f8f4f", tooltip="#rrggbb, separated by commas."),
                io.Int.Input(
                    "count", default=6, min=1, max=64, tooltip="How many colours are taken from the picture, if wired."
                ),
                io.Image.Input("image", optional=True, tooltip="A picture whose main colours join the palette."),
                _EARLIER,
            ],
            outputs=[_OUTPUT, _preview_output()],
        )

    @classmethod
    def execute(cls, colors: str, count: int, image: Tensor | None = None, hints: Hints | None = None) -> io.NodeOutput:
        with torch.inference_mode(False):
            palette = core.parse_palette(colors) if colors.strip() or image is None else []
            if image is not None:
                for one in resize_to(bridge.picture(image), 256):
                    found = (core.quantize(one, count)[1] * 255).round().int().tolist()
                    palette += ["#{:02x}{:02x}{:02x}".format(*color) for color in found]
            hints = hints or Hints()
            palette = tuple(dict.fromkeys([*hints.palette, *palette]))
            tiles = [torch.tensor(core.parse_color(color)).view(1, 3, 1, 1) for color in palette]
            strip = torch.cat(tiles, dim=3).repeat_interleave(SWATCH, 2).repeat_interleave(SWATCH, 3)
            return io.NodeOutput(replace(hints, palette=palette), bridge.image(strip))


def resize_to(rgb: Tensor, side: int) -> Tensor:
    """Pictures with their long side at most `side`."""
    scale = min(1.0, side / max(rgb.shape[-2:]))
    return resize(rgb, tuple(max(1, round(n * scale)) for n in rgb.shape[-2:]))


class SeAdaPropagateHints(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SeAdaPropagateHints",
            display_name="SeAda Propagate Hints",
            category="SeAda/hints",
            description="Spreads hints over regions of similar luminance, less certain the further they go.",
            inputs=[
                io.Image.Input("image", tooltip="The photo; hints spread where its luminance is alike."),
                bridge.SeadaHints.Input("hints", tooltip="Hints for this photo."),
            ],
            outputs=[
                bridge.SeadaHints.Output(id="seada_hints", display_name="SEADA_HINTS", tooltip="The hints, spread."),
                _preview_output(),
            ],
        )

    @classmethod
    def execute(cls, image: Tensor, hints: Hints) -> io.NodeOutput:
        with torch.inference_mode(False):
            gray = bridge.gray(image)
            small = resize(gray, decode_size(tuple(gray.shape[-2:]), DECODE_SIZE))
            spread = replace(hints, spread=None).spread_over(small)
            shown = torch.zeros(len(small), 3, *small.shape[-2:]) if spread is None else spread
            return io.NodeOutput(replace(hints, spread=spread), preview(gray, shown))
