"""Latents for photos, latents to photos, and luminance for anybody's colours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io

from ..seada_core.color.merging import merge, merge_chroma
from ..seada_core.color.sizes import DECODE_SIZE, decode_size, diffusion_size, resize
from ..seada_core.options import ColorizeOptions
from . import bridge, inputs

if TYPE_CHECKING:
    from torch import Tensor

    from .hints import Hints

TILE = 256  # side of the tiles where memory is short, px


class SeAdaEmptyLatent(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SeAdaEmptyLatent",
            display_name="SeAda Empty Latent",
            category="SeAda",
            description="An empty latent of a photo's shape, at the size that a model is made for.",
            inputs=[
                bridge.Seada.Input("seada", tooltip="The model."),
                io.Image.Input("image", tooltip="The photos; one latent each."),
                inputs.size("Short side in pixels, a multiple of 8; 0: what the model is made for."),
            ],
            outputs=[io.Latent.Output(id="latent", display_name="LATENT", tooltip="For KSampler, at denoise 1.")],
        )

    @classmethod
    def execute(cls, seada: bridge.Bundle, image: Tensor, size: int) -> io.NodeOutput:
        height, width = diffusion_size(
            tuple(bridge.gray(image).shape[-2:]), size // 8 * 8 or seada.preset.sampling.size
        )
        return io.NodeOutput({"samples": bridge.empty_latent(len(image), height // 8, width // 8)})


class SeAdaVQDecode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SeAdaVQDecode",
            display_name="SeAda VQ Decode",
            category="SeAda",
            description="A latent's colours on the photo's own luminance, at the photo's own size (EDN, Eq. 5 and 6). "
            "Works for Stable Diffusion 1.5's latents too.",
            inputs=[
                bridge.Seada.Input("seada", tooltip="The model whose VQ decoder is used."),
                io.Latent.Input("latent", tooltip="From KSampler; Stable Diffusion 1.5's kind."),
                io.Image.Input("image", tooltip="The photo; its luminance and size are the result's."),
                inputs.saturation("Factor on the colours; 1: as the model is made, 0: grey. Hints are left alone."),
                io.Int.Input(
                    "token_steps",
                    default=0,
                    min=0,
                    max=100,
                    tooltip="Steps of token diffusion on the codebook, for models that have it; 0: the latent itself.",
                ),
                io.Float.Input(
                    "temperature", default=1.0, min=0.05, max=5.0, step=0.05, tooltip="Of token diffusion; low is tame."
                ),
                inputs.seed("Of token diffusion."),
                io.Boolean.Input(
                    "tiled", default=False, tooltip="Decode in tiles from the start; else only when memory is short."
                ),
                io.Conditioning.Input("conditioning", optional=True, tooltip="The text, for token diffusion."),
                bridge.SeadaHints.Input(
                    "hints", optional=True, tooltip="Where these are certain, they are the colour, whatever the latent."
                ),
            ],
            outputs=[io.Image.Output(id="colored", display_name="IMAGE", tooltip="The photo in colour.")],
        )

    @classmethod
    def execute(
        cls,
        seada: bridge.Bundle,
        latent: dict,
        image: Tensor,
        saturation: float,
        token_steps: int,
        temperature: float,
        seed: int,
        tiled: bool,
        conditioning: list | None = None,
        hints: Hints | None = None,
    ) -> io.NodeOutput:
        with torch.inference_mode(False), torch.no_grad():
            z = bridge.scaled_latent(latent)
            photos = bridge.rows(bridge.gray(image), len(z), "the latents' photos")
            photo_size = tuple(photos.shape[-2:])
            bridge.check_shape(tuple(z.shape[-2:]), photo_size)
            size = decode_size(photo_size, max(DECODE_SIZE, 8 * min(z.shape[-2:])))
            context = None if not conditioning else bridge.rows(conditioning[0][0].clone(), len(z), "the texts")
            seada.load("vq_decoder", *(["token_diffusion"] if token_steps else []))
            options = ColorizeOptions(
                saturation=saturation * seada.preset.sampling.saturation,
                token_steps=token_steps,
                temperature=temperature,
                seed=seed,
            )
            show = bridge.progress(len(z))
            results = []
            for i, (latent_i, photo) in enumerate(zip(z.split(1), photos.split(1))):
                small = resize(photo, size)
                maps = (None, None) if hints is None else hints.sized(i, len(z), size)

                def chroma(tile, z=latent_i, small=small, maps=maps, i=i):
                    return seada.finish(
                        z.to(seada.device),
                        small.to(seada.device),
                        None if context is None else context[i : i + 1].to(seada.device),
                        options,
                        *(None if m is None else m.to(seada.device) for m in maps),
                        tile,
                    )

                try:
                    cbcr = chroma(TILE if tiled else None)
                except Exception as error:
                    if tiled or not bridge.is_out_of_memory(error):
                        raise
                    cbcr = None
                if cbcr is None:  # outside the except clause: the error held what it had made
                    bridge.free_memory()
                    cbcr = chroma(TILE)
                results.append(bridge.image(merge_chroma(cbcr.to(photo.device), photo)))
                show(i + 1, len(z))
        return io.NodeOutput(torch.cat(results))


class SeAdaMergeLuminance(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SeAdaMergeLuminance",
            display_name="SeAda Merge Luminance",
            category="SeAda",
            description="The colours of one picture on the luminance of another, at the latter's size: any model's "
            "result with every detail of the photo.",
            inputs=[
                io.Image.Input("color", tooltip="The picture that gives the colours, of any size; the same view."),
                io.Image.Input("image", tooltip="The photo that gives luminance and size."),
            ],
            outputs=[io.Image.Output(id="merged", display_name="IMAGE", tooltip="The photo in those colours.")],
        )

    @classmethod
    def execute(cls, color: Tensor, image: Tensor) -> io.NodeOutput:
        colors, photos = bridge.picture(color, "color"), bridge.gray(image)
        count = max(len(colors), len(photos))
        colors, photos = bridge.rows(colors, count, "color"), bridge.rows(photos, count, "image")
        return io.NodeOutput(bridge.image(torch.cat([merge(c, p) for c, p in zip(colors.split(1), photos.split(1))])))
