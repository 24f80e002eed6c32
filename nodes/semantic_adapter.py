"""The semantic adapter: text to CONDITIONING, refined for colour."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io

from . import bridge, inputs

if TYPE_CHECKING:
    from torch import Tensor


class SeAdaSemanticAdapter(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SeAdaSemanticAdapter",
            display_name="SeAda Semantic Adapter",
            category="SeAda",
            description="Encodes a grey photo's caption and adds likely colours to it (SeAda, Eq. 2 and 3).",
            inputs=[
                bridge.Seada.Input("seada", tooltip="The model whose semantic encoder and adapter are used."),
                io.String.Input(
                    "text",
                    default="",
                    multiline=True,
                    tooltip="What the photo shows and, if you like, in which colours.",
                ),
                inputs.strength("How much the adapter changes the encoded text. 1 is normal, 0 turns it off.", 2.0),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="Only for SD1.5-sized models: a checkpoint's CLIP, whose LoRAs and prompt weights are "
                    "kept. Leave it unconnected with the embedded model.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(id="conditioning", display_name="CONDITIONING", tooltip="The text for KSampler.")
            ],
        )

    @classmethod
    def execute(cls, seada: bridge.Bundle, text: str, strength: float, clip=None) -> io.NodeOutput:
        if clip is None:
            seada.load("semantic_encoder", "semantic_adapter")
            with torch.no_grad():
                e_g = seada.part("semantic_encoder")([text])[0].to(seada.dtype)
            conditioning = [[e_g, {}]]
        else:
            if seada.has("semantic_encoder"):
                clip = bridge.clip_with(clip, seada.part("semantic_encoder"))
            conditioning = clip.encode_from_tokens_scheduled(clip.tokenize(text))
            seada.load("semantic_adapter")
        return io.NodeOutput([[refine(seada, e_g, strength), dict(extra)] for e_g, extra in conditioning])


def refine(seada: bridge.Bundle, e_g: Tensor, strength: float) -> Tensor:
    """e_g (B, L, d) moved by `strength` of the way to e_r."""
    if strength == 0 or not seada.has("semantic_adapter"):
        return e_g
    adapter: Any = seada.part("semantic_adapter")
    width = adapter.query.shape[1] if adapter.query is not None else e_g.shape[-1]
    if e_g.shape[-1] != width:
        raise ValueError(
            f"this text is {e_g.shape[-1]} wide and the adapter {width}; disconnect CLIP with the embedded model, and "
            "use Stable Diffusion 1.5's CLIP with an SD1.5-sized one"
        )
    with torch.no_grad():
        e_r = adapter(e_g.to(seada.device, seada.dtype)).to(e_g)
    return torch.lerp(e_g, e_r, strength) if strength != 1 else e_r
