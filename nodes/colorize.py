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
        return bridge.schema(
            node_id="SeAdaColorize",
            display_name="SeAda Colorize",
            category="SeAda",
            search_aliases=[
                "seada",
                "colorize",
                "colourise",
                "colorization",
                "recolor",
                "deoldify",
                "ddcolor",
                "black and white",
                "b&w",
                "bw photo",
                "old photo",
                "restore color",
            ],
            description="Colours black-and-white photos. Their own luminance and size are kept; only colour is added.",
            inputs=[
                io.Image.Input("image", tooltip="The photos to colour, of any size. Only their luminance is used."),
                io.String.Input(
                    "prompt",
                    default="",
                    multiline=True,
                    placeholder="auto: the model writes its own caption",
                    tooltip='What the photo shows, and in which colours: try "a church under a blue sky". Empty: the '
                    "model writes its own caption.",
                ),
                inputs.seed(
                    "Change it for a different colouring. The embedded model takes one step, in which seeds hardly "
                    "differ; set steps to 3 or more to see a difference."
                ),
                inputs.with_word(
                    io.Int.Input(
                        "steps",
                        default=0,
                        min=0,
                        max=1000,
                        tooltip="Denoising steps; more take longer. 0 is auto: the model's own. Try 3 or more to "
                        "compare seeds.",
                    ),
                    zero="auto",
                ),
                inputs.with_word(
                    io.Float.Input(
                        "guidance",
                        default=0.0,
                        min=0.0,
                        max=30.0,
                        step=0.1,
                        tooltip="How closely the colours follow the prompt; higher is closer. 0 is auto: the model's "
                        "own; 1 turns guidance off.",
                    ),
                    zero="auto",
                ),
                inputs.size(
                    "Short side, in pixels, at which colours are computed. 0 is auto: the model's own. The result "
                    "always has the photo's own size."
                ),
                inputs.strength(
                    "How much the photo's content steers the colours. 1 is normal, 0 ignores it.", 10.0, 0.01
                ),
                inputs.saturation(),
                bridge.SeadaHints.Input(
                    "hints", optional=True, tooltip="Colours for places in the photo, and palettes, from hint nodes."
                ),
                bridge.Seada.Input(
                    "seada", optional=True, tooltip="A model from SeAda Load Model. Not connected: the embedded model."
                ),
                inputs.skin(),
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
        skin: float = 1.0,
    ) -> io.NodeOutput:
        bundle = seada or bridge.bundle()
        if not bundle.has("unet"):
            raise ValueError(f"{bundle.folder} has no unet.safetensors; SeAda Colorize needs a whole model")
        # outside inference mode: hints guide by gradients
        with torch.inference_mode(False):
            photos = bridge.gray(image)
            bundle.load("unet", "semantic_encoder", "semantic_adapter", "controlnet_rca", "hint_encoder", "vq_decoder")
            bundle.load("affinity", "people")
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
                skin=skin,
            ).resolved(bundle.preset)
            maps = None if hints is None else hints.at(len(photos))
            soft = None if hints is None or hints.soft is None else bridge.rows(hints.soft, len(photos), "the hints")
            results = []
            for i, photo in enumerate(photos.split(1)):  # one by one, to save memory in large batches
                colored = bundle(
                    photo,
                    options,
                    hints=() if maps is None else maps[i : i + 1],
                    soft_hints=None if soft is None else soft[i : i + 1],
                    callback=bridge.progress(options.steps * len(photos), options.steps * i),
                )
                results.append(bridge.image(colored))
                bridge.show_result(colored, options.steps * (i + 1), options.steps * len(photos))
            warnings = bridge.dropped_alpha(image) + ([] if hints is None else hints.misfit(photos))
        return io.NodeOutput(torch.cat(results), ui=bridge.warned(warnings))
