"""The semantic adapter: text to CONDITIONING that knows of colour."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
            description="Encodes a grey photo's caption so that it tells of colours (SeAda, Eq. 2 and 3).",
            inputs=[
                bridge.Seada.Input("seada", tooltip="The model whose semantic encoder and adapter are used."),
                io.String.Input("text", default="", multiline=True, tooltip="What the photo shows, and its colours."),
                inputs.strength("How much the adapter changes the text; 0 leaves it as the encoder gives it.", 2.0),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="A stock CLIP to use with an SD1.5-sized model: it keeps its tokens, weights and LoRAs, "
                    "and takes over what the semantic encoder has learned. Leave it out with the embedded model.",
                ),
            ],
            outputs=[io.Conditioning.Output(id="conditioning", display_name="CONDITIONING", tooltip="For KSampler.")],
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
    adapter = seada.part("semantic_adapter")
    width = adapter.query.shape[1] if adapter.query is not None else e_g.shape[-1]
    if e_g.shape[-1] != width:
        raise ValueError(
            f"this text is {e_g.shape[-1]} wide and the adapter {width}; leave CLIP out with the embedded model, and "
            "use Stable Diffusion 1.5's CLIP with an SD1.5-sized one"
        )
    with torch.no_grad():
        e_r = adapter(e_g.to(seada.device, seada.dtype)).to(e_g)
    return torch.lerp(e_g, e_r, strength) if strength != 1 else e_r
