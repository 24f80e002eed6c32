"""Everything in one node."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io

from ..seada_core.options import ColorizeOptions
from . import bridge, inputs

if TYPE_CHECKING:
    from torch import Tensor

    from .hints import Hints


class SeAdaColorize(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SeAdaColorize",
            display_name="SeAda Colorize",
            category="SeAda",
            description="Colours photos. Their luminance and size stay as they are; the embedded model decides colour "
            "unless you wire another.",
            inputs=[
                io.Image.Input("image", tooltip="The photos, of any size; only their luminance is used."),
                io.String.Input(
                    "prompt",
                    default="",
                    multiline=True,
                    tooltip="What the photo shows and in which colours. Empty: the model describes it by itself.",
                ),
                inputs.seed(
                    "Another seed, another colouring; seeds hardly differ in one step, which is what the embedded "
                    "model takes, and do in 3 or more."
                ),
                io.Int.Input(
                    "steps", default=0, min=0, max=1000, tooltip="Denoising steps; 0: as many as the model is made for."
                ),
                io.Float.Input(
                    "guidance",
                    default=0.0,
                    min=0.0,
                    max=30.0,
                    step=0.1,
                    tooltip="How closely colours follow the prompt; 0: what the model is made for, 1: no guidance.",
                ),
                inputs.size(
                    "Short side, in pixels, of the picture that is diffused; 0: what the model is made for. "
                    "The result always has the photo's own size."
                ),
                inputs.strength("How much the photo counts while colours are chosen; 0 leaves it out.", 10.0, 0.01),
                inputs.saturation("Factor on the model's colours; 1: as it is made, 0: grey. Hints are left alone."),
                bridge.SeadaHints.Input("hints", optional=True, tooltip="Colours at places, and palettes."),
                bridge.Seada.Input(
                    "seada", optional=True, tooltip="A model from SeAda Load Model; the embedded one if not wired."
                ),
            ],
            outputs=[io.Image.Output(id="colored", display_name="IMAGE", tooltip="The photos in colour.")],
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        prompt: str,
        seed: int,
        steps: int,
        guidance: float,
        size: int,
        strength: float,
        saturation: float,
        hints: Hints | None = None,
        seada: bridge.Bundle | None = None,
    ) -> io.NodeOutput:
        bundle = seada or bridge.bundle()
        if not bundle.has("unet"):
            raise ValueError(f"{bundle.folder} has no unet.safetensors; SeAda Colorize needs a whole model")
        # outside inference mode: hints guide by gradients
        with torch.inference_mode(False):
            photos = bridge.gray(image)
            bundle.load("unet", "semantic_encoder", "semantic_adapter", "controlnet_rca", "hint_encoder", "vq_decoder")
            if not prompt.strip():
                bundle.load("captioner")
            options = ColorizeOptions(
                prompt=prompt if prompt.strip() else None,
                palette=None if hints is None else hints.palette,
                palette_strength=None if hints is None else hints.palette_strength,
                steps=steps or None,
                guidance=guidance or None,
                strength=strength,
                seed=seed,
                size=size or None,
                saturation=saturation * bundle.preset.sampling.saturation,
            ).resolved(bundle.preset)
            maps = None if hints is None else hints.at(len(photos))
            soft = None if hints is None or hints.soft is None else bridge.rows(hints.soft, len(photos), "the hints")
            results = []
            for i, photo in enumerate(photos.split(1)):  # one by one: a film's worth must fit in memory
                colored = bundle(
                    photo,
                    options,
                    hints=() if maps is None else maps[i : i + 1],
                    soft_hints=None if soft is None else soft[i : i + 1],
                    callback=bridge.progress(options.steps * len(photos), options.steps * i),
                )
                results.append(bridge.image(colored))
        return io.NodeOutput(torch.cat(results))
