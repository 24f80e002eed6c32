"""Hints from a colour picture of the same kinds of things."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io

from ..seada_core import steering
from . import bridge, inputs
from .hints import Hints, preview_all

if TYPE_CHECKING:
    from torch import Tensor


class SeAdaHintsFromReference(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return bridge.schema(
            node_id="SeAdaHintsFromReference",
            display_name="SeAda Hints from Reference",
            category="SeAda/hints",
            search_aliases=["reference colors", "color transfer", "match colors"],
            description="Transfers the colours of another picture to similar things in the photo, as soft hints.",
            inputs=[
                inputs.photos(),
                io.Image.Input(
                    "reference",
                    tooltip="A colour picture with the same kinds of things, of any size; one in all, or one per "
                    "photo.",
                ),
                inputs.strength(
                    "How strongly the colours are applied where the pictures look alike. 0 turns them off.", 1.0
                ),
                bridge.Seada.Input(
                    "seada",
                    optional=True,
                    tooltip="The model whose classifier compares the pictures. Not connected: the embedded model.",
                ),
                inputs.earlier_hints(),
            ],
            outputs=[inputs.hints_output(), inputs.preview_output()],
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        reference: Tensor,
        strength: float,
        seada: bridge.Bundle | None = None,
        hints: Hints | None = None,
    ) -> io.NodeOutput:
        with torch.inference_mode(False), torch.no_grad():
            photos, hints = bridge.gray(image), hints or Hints()
            pictures = bridge.rows(bridge.picture(reference, "reference"), len(photos), "reference")
            if strength:
                bundle = seada or bridge.bundle()
                bundle.load("captioner")
                show, maps = bridge.progress(len(photos)), []
                for i, (photo, picture) in enumerate(zip(photos.split(1), pictures.split(1)), 1):
                    maps.append(steering.reference_hints(bundle, photo, picture))
                    show(i, len(photos))
                found = torch.cat(maps)
                found[:, 2] *= strength
                hints = hints.softly(found)
            return io.NodeOutput(hints, preview_all(photos, hints))
