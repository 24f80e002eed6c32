"""The palette bank: a historical colour scheme for the photo, as a soft hint."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from comfy_api.latest import io

from ..seada_core.hints import palettes as core
from . import bridge, inputs, model_folders
from .hints import Hints

if TYPE_CHECKING:
    from torch import Tensor

AUTOMATIC = "automatic"


class SeAdaPaletteBank(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return bridge.schema(
            node_id="SeAdaPaletteBank",
            display_name="SeAda Palette Bank",
            category="SeAda/hints",
            search_aliases=["historical palette", "color scheme", "vintage colors"],
            description="Moves the colours towards a historical colour scheme, which you choose by name or let the "
            "node find for the photo.",
            inputs=[
                io.Image.Input(
                    "image", tooltip="The photo. Only its luminance is used; several photos get one scheme together."
                ),
                io.Combo.Input(
                    "scheme",
                    options=[AUTOMATIC, *model_folders.schemes()[0]],
                    default=AUTOMATIC,
                    tooltip="The colour scheme, from this pack or from your files in models/seada_palettes. automatic: "
                    "the one that best fits the caption or the photo.",
                ),
                io.Int.Input(
                    "count",
                    default=1,
                    min=1,
                    max=5,
                    tooltip="How many of the best schemes automatic combines; more give the model more freedom.",
                ),
                inputs.strength("How far the colours move towards the scheme. 0: not at all, 1: gently.", 4.0),
                io.String.Input(
                    "caption",
                    default="",
                    optional=True,
                    placeholder="auto",
                    tooltip="What the photo shows, in a few plain English words, for automatic. Empty: the scheme is "
                    "found from the photo itself.",
                ),
                inputs.earlier_hints(),
            ],
            outputs=[
                inputs.hints_output(),
                io.Image.Output(
                    id="swatches", display_name="swatches", tooltip="The scheme's colours and their names."
                ),
                io.String.Output(id="name", display_name="STRING", tooltip="The scheme's name, or the names of all."),
            ],
        )

    @classmethod
    def validate_inputs(cls, scheme: str | None = None) -> bool | str:
        try:
            if scheme not in (None, AUTOMATIC):
                find(str(scheme))  # a damaged workflow may have any value here
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, **_) -> str:
        return model_folders.palette_fingerprint()

    @classmethod
    def execute(
        cls,
        image: Tensor,
        scheme: str,
        count: int,
        strength: float,
        caption: str = "",
        hints: Hints | None = None,
    ) -> io.NodeOutput:
        with torch.inference_mode(False):
            chosen = nearest(bridge.gray(image), caption, count) if scheme == AUTOMATIC else [find(scheme)]
            hints = hints or Hints()
            palette = tuple(dict.fromkeys([*hints.palette, *core.join(chosen)]))
            swatches = torch.tensor(np.asarray(core.swatches(chosen))).movedim(-1, 0)[None] / 255
            return io.NodeOutput(
                replace(hints, palette=palette, palette_strength=strength),
                bridge.image(swatches),
                " + ".join(one.name for one in chosen),
            )


def find(name: str) -> core.Scheme:
    """The scheme of a name. Raises ValueError that lists similar names, and the files that were skipped."""
    schemes, faults = model_folders.schemes()
    try:
        return core.find_scheme(name, schemes)
    except ValueError as error:
        skipped = "; skipped: ".join(["", *faults])
        raise ValueError(f"{error} Choose one of the list{skipped}") from None


def nearest(photos: Tensor, caption: str, count: int) -> list[core.Scheme]:
    """The schemes nearest to a caption or, if none matches, to photos (B, 1, H, W) together."""
    schemes, _ = model_folders.schemes()
    found = [scheme for scheme, _ in core.retrieve(caption, schemes, count=count)]
    if found:
        return found
    bundle = bridge.bundle()
    if not bundle.has("captioner"):
        raise ValueError(
            f"{bundle.folder} has no captioner.safetensors, which finds the scheme for a photo; write a caption, or "
            "choose a scheme by name"
        )
    patcher = bundle.patcher("captioner")
    bridge.load([patcher])
    similarity: defaultdict[str, float] = defaultdict(float)
    for photo in photos.split(1):
        for scheme, value in core.retrieve(photo.to(patcher.load_device), schemes, patcher.model.module):
            similarity[scheme.name] += value
    if not similarity:
        raise ValueError("no scheme fits this photo; write a different caption, or choose a scheme by name")
    return [schemes[name] for name in sorted(similarity, key=similarity.__getitem__, reverse=True)[:count]]
