"""Nodes that make and decode latents, and merge a photo's luminance with another model's colours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io

from ..seada_core.color.alignment import align as put_in_line
from ..seada_core.color.merging import merge, merge_chroma
from ..seada_core.color.sizes import DECODE_SIZE, decode_size, diffusion_size, resize, size_of
from ..seada_core.options import ColorizeOptions
from . import bridge, inputs

if TYPE_CHECKING:
    from torch import Tensor

    from .hints import Hints

TILE = 256  # side of the tiles when memory is short, px


class SeAdaEmptyLatent(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SeAdaEmptyLatent",
            display_name="SeAda Empty Latent",
            category="SeAda",
            description="Makes an empty latent of the photo's shape, at the size that the model works at.",
            inputs=[
                bridge.Seada.Input("seada", tooltip="The model that the latent is for."),
                io.Image.Input("image", tooltip="The photos; each gets a latent."),
                inputs.size("Short side in pixels, a multiple of 8. 0 is auto: the model's own."),
            ],
            outputs=[
                io.Latent.Output(id="latent", display_name="LATENT", tooltip="The latent for KSampler, at denoise 1.")
            ],
        )

    @classmethod
    def execute(cls, seada: bridge.Bundle, image: Tensor, size: int) -> io.NodeOutput:
        height, width = diffusion_size(size_of(bridge.gray(image)), size // 8 * 8 or seada.preset.sampling.size)
        return io.NodeOutput({"samples": bridge.empty_latent(len(image), height // 8, width // 8)})


class SeAdaVQDecode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SeAdaVQDecode",
            display_name="SeAda VQ Decode",
            category="SeAda",
            description="Decodes a latent to colours on the photo's own luminance, at the photo's own size (EDN, Eq. 5 "
            "and 6). Works with Stable Diffusion 1.5's latents too.",
            inputs=[
                bridge.Seada.Input("seada", tooltip="The model whose VQ decoder is used."),
                io.Latent.Input("latent", tooltip="The latent from KSampler, of Stable Diffusion 1.5's kind."),
                io.Image.Input("image", tooltip="The photo that gives the result its luminance and size."),
                inputs.saturation(),
                io.Int.Input(
                    "token_steps",
                    default=0,
                    min=0,
                    max=100,
                    tooltip="Steps of token diffusion, which redraws the colours, if the model has it: try 8. 0 turns "
                    "it off.",
                ),
                io.Float.Input(
                    "temperature",
                    default=1.0,
                    min=0.05,
                    max=5.0,
                    step=0.05,
                    tooltip="How varied token diffusion's colours are; lower is safer.",
                    **inputs.ADVANCED,
                ),
                inputs.seed("Seed of token diffusion."),
                io.Boolean.Input(
                    "tiled",
                    default=False,
                    tooltip="Decode in tiles to save memory. Off: only if memory runs out.",
                    **inputs.ADVANCED,
                ),
                io.Conditioning.Input("conditioning", optional=True, tooltip="The text for token diffusion."),
                bridge.SeadaHints.Input(
                    "hints",
                    optional=True,
                    tooltip="Hints to apply. Where they are certain, they replace the latent's colour.",
                ),
                inputs.skin(),
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
        skin: float = 1.0,
    ) -> io.NodeOutput:
        with torch.inference_mode(False), torch.no_grad():
            z = bridge.scaled_latent(latent)
            photos = bridge.rows(bridge.gray(image), len(z), "the latents' photos")
            photo_size = size_of(photos)
            bridge.check_shape(size_of(z), photo_size)
            size = decode_size(photo_size, max(DECODE_SIZE, 8 * min(z.shape[-2:])))
            context = None if not conditioning else bridge.rows(conditioning[0][0].clone(), len(z), "the texts")
            purple = None
            if hints is not None and hints.palette:
                skin, purple = 0.0, 1.0  # its colours are kept
            looks = (skin and seada.has("people")) or (hints is not None and seada.has("affinity"))
            seen = ["controlnet_rca", "affinity", "people"] if looks else []
            seada.load("vq_decoder", *seen, *(["token_diffusion"] if token_steps else []))
            options = ColorizeOptions(
                saturation=saturation * seada.preset.sampling.saturation,
                purple=purple,
                skin=skin,
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
                if cbcr is None:  # outside the except clause: the error's traceback keeps tensors alive
                    bridge.free_memory()
                    cbcr = chroma(TILE)
                results.append(bridge.image(merge_chroma(cbcr.to(photo.device), photo)))
                show(i + 1, len(z))
        return io.NodeOutput(torch.cat(results), ui=bridge.warned(bridge.dropped_alpha(image)))


class SeAdaMergeLuminance(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return bridge.schema(
            node_id="SeAdaMergeLuminance",
            display_name="SeAda Merge Luminance",
            category="SeAda",
            search_aliases=["keep detail", "luminosity", "luminance", "color transfer", "blend color", "align"],
            description="Puts the colours of one picture on the luminance of your photo, so that any model's result "
            "keeps every detail of the photo.",
            inputs=[
                io.Image.Input("color", tooltip="The picture that gives the colours: the same view, of any size."),
                io.Image.Input("image", tooltip="The photo that gives luminance and size."),
                io.Boolean.Input(
                    "align",
                    default=False,
                    optional=True,
                    tooltip="Moves and stretches the colours onto the photo first: for results of edit models, which "
                    "shift and crop by some pixels. Pictures that moved too far are refused.",
                ),
            ],
            outputs=[io.Image.Output(id="merged", display_name="IMAGE", tooltip="The photo in those colours.")],
        )

    @classmethod
    def execute(cls, color: Tensor, image: Tensor, align: bool = False) -> io.NodeOutput:
        colors, photos = bridge.picture(color, "color"), bridge.gray(image)
        count = max(len(colors), len(photos))
        colors, photos = bridge.rows(colors, count, "color"), bridge.rows(photos, count, "image")
        show, merged = bridge.progress(count), []
        for i, (picture, photo) in enumerate(zip(colors.split(1), photos.split(1))):
            with torch.inference_mode(False):
                merged.append(merge(put_in_line(picture, photo)[0] if align else picture, photo))
            show(i + 1, count)
        return io.NodeOutput(bridge.image(torch.cat(merged)), ui=bridge.warned(bridge.dropped_alpha(image)))
