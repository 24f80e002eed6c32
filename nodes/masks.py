"""Hints from masks: colours for what a segmenter or a mask editor has selected."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io

from ..seada_core.color.sizes import DECODE_SIZE, decode_size, resize, size_of
from ..seada_core.files.hint_format import parse_palette
from ..seada_core.hints.masks import mask_hints
from . import bridge, inputs
from .hints import Hints, preview_all

if TYPE_CHECKING:
    from torch import Tensor


class SeAdaHintsFromMasks(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return bridge.schema(
            node_id="SeAdaHintsFromMasks",
            display_name="SeAda Hints from Masks",
            category="SeAda/hints",
            search_aliases=["color masks", "segment and color", "sam colors"],
            description="Gives each mask a colour: masks from a segmenter such as SAM, from the mask editor, or drawn.",
            inputs=[
                inputs.photos(),
                io.Mask.Input("masks", tooltip="One mask, or a batch. Where masks overlap, the later one wins."),
                io.String.Input(
                    "colors",
                    default="teal",
                    tooltip="A colour for each mask, in their order, separated by commas, or one for all: names, #da7, "
                    "#d0a070 or rgb(208, 160, 112).",
                ),
                io.Boolean.Input(
                    "fit",
                    default=True,
                    tooltip="Moves the masks' borders to edges of the photo that are close. Turn it off for masks that "
                    "are exact.",
                ),
                inputs.strength("How strongly the colours are applied. 0 turns them off.", 1.0),
                inputs.earlier_hints(),
            ],
            outputs=[inputs.hints_output(), inputs.preview_output()],
        )

    @classmethod
    def execute(
        cls, image: Tensor, masks: Tensor, colors: str, fit: bool, strength: float, hints: Hints | None = None
    ) -> io.NodeOutput:
        with torch.inference_mode(False), torch.no_grad():
            photos, hints, warnings = bridge.gray(image), hints or Hints(), []
            masks = masks if masks.ndim == 3 else masks[None]
            if not masks.any():
                warnings.append("the masks are empty, so nothing gets their colours")
            elif strength:
                small = resize(photos, decode_size(size_of(photos), DECODE_SIZE))
                palette = parse_palette(colors)
                found = torch.cat([mask_hints(photo, masks, palette, fit) for photo in small.split(1)])
                found[:, 2] *= strength
                hints = hints.softly(found)
            return io.NodeOutput(hints, preview_all(photos, hints), ui=bridge.warned(warnings))
