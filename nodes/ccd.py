"""EDN's controllable creative diffusion on a MODEL."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io

from ..seada_core.hints.maps import palette_chroma, resize_hint_map, scheme_colors, spread_hints
from ..seada_core.models import ccd
from . import bridge, inputs, unet

if TYPE_CHECKING:
    from torch import Tensor

    from .hints import Hints


def _weight(name: str, default: float, tooltip: str, advanced: bool = False) -> io.Float.Input:
    extra = inputs.ADVANCED if advanced else {}
    return io.Float.Input(name, default=default, min=0.0, max=10.0, step=0.01, tooltip=tooltip, **extra)


class SeAdaCCD(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SeAdaCCD",
            display_name="SeAda CCD",
            category="SeAda",
            description="Controllable creative diffusion: moves the picture towards your hints, your palette and "
            "natural colour at every step (EDN, Eq. 3 and 4).",
            inputs=[
                io.Model.Input(
                    "model", tooltip="The MODEL of SeAda Load Model or of a Stable Diffusion 1.5 checkpoint."
                ),
                inputs.photo_of_latents(),
                bridge.Seada.Input(
                    "seada",
                    tooltip="The model whose VQ decoder reads the latents, and whose hint encoder, if it has one, "
                    "follows the hints.",
                ),
                _weight(
                    "scale",
                    ccd.HINT_SCALE,
                    "How far the guidance moves the picture at each step. 0 turns the guidance off.",
                ),
                _weight("hint", 1.0, "How strongly hinted places are pulled to the hints' colours."),
                _weight("palette", ccd.WEIGHTS["palette"], "How strongly colours are pulled to the palette."),
                _weight("exposure", 0.0, "How strongly each patch is pulled to the photo's brightness.", True),
                _weight(
                    "constancy",
                    0.0,
                    "How strongly the average colour is pulled to grey. It takes colour away: 0.01 is a lot.",
                    True,
                ),
                _weight("smoothness", 0.0, "How strongly neighbouring pixels are pulled to the same colour.", True),
                _weight("modulation", 1.0, "How strongly the hint encoder acts, if the model has one. 0 turns it off."),
                *inputs.start_and_end(),
                bridge.SeadaHints.Input(
                    "hints",
                    optional=True,
                    tooltip="Colours for places in the photo, and palettes. Use SeAda Propagate Hints to spread them "
                    "beyond their own pixels.",
                ),
            ],
            outputs=[io.Model.Output(id="patched", display_name="MODEL", tooltip="The MODEL, guided by the hints.")],
        )

    @classmethod
    def execute(
        cls,
        model,
        image: Tensor,
        seada: bridge.Bundle,
        scale: float,
        hint: float,
        palette: float,
        exposure: float,
        constancy: float,
        smoothness: float,
        modulation: float,
        start: float,
        end: float,
        hints: Hints | None = None,
    ) -> io.NodeOutput:
        unet.check_latent_space(model, "SeAda CCD")
        gray = bridge.gray(image)
        hint_map = None if hints is None or hints.map is None else hints.map[:, :3]
        hint_map = hint_map if hint_map is not None and hint_map.any() else None
        if modulation and hint_map is not None and seada.has("hint_encoder"):
            unet.check_unet(model, seada.preset.unet, "this model's hint encoder")
            model = modulate(model, gray, hint_map, seada, modulation, start, end)
        weights = {"exposure": exposure, "constancy": constancy, "smoothness": smoothness, "luminance": 0.0}
        target = colors = None
        if hint and hint_map is not None:
            target, weights["hint"] = hint_map, hint
        if palette and hints is not None and hints.palette and hints.palette_strength != 0:
            colors, weights["palette"] = palette_chroma(hints.palette), palette
            if hints.palette_strength is not None:
                colors = scheme_colors(hints.palette)
                weights["palette"] *= hints.palette_strength * ccd.SCHEME_WEIGHT / ccd.WEIGHTS["palette"]
        if scale and any(weights.values()):
            spread = hints is not None and hints.spread is not None
            model = guide(model, gray, target, spread, colors, seada, weights, scale, start, end)
        return io.NodeOutput(model)


def guide(model, gray, hint_map, spread, colors, seada, weights, scale, start, end):
    """MODEL whose x0 moves down the gradient of the weighted terms, towards a palette's `colors` and a hint map.

    `spread`: propagate the hints first, as the pipeline does, over the photo at the sampled size.
    """
    decoder = seada.patcher("vq_decoder")
    at_size = unet.sized(gray)

    @lru_cache(maxsize=1)
    @torch.no_grad()
    def guidance(latent: tuple[int, int], device: torch.device) -> ccd.Guidance:
        """For a latent of (h, w), the same at every step of a run."""
        photo, target = at_size(latent).to(device), None
        if hint_map is not None and spread:
            batch = max(len(photo), len(hint_map))
            here = bridge.rows(resize_hint_map(hint_map, photo.shape[-2:]), batch, "the hints").to(device)
            here = spread_hints(bridge.rows(photo, batch, "SeAda CCD's picture"), here)
            target = resize_hint_map(here, latent, dense=True)
        elif hint_map is not None:
            target = resize_hint_map(hint_map, latent).to(device)
        palette = None if colors is None else colors.to(device)
        saturation = seada.preset.sampling.saturation
        return ccd.Guidance(decoder.model.module, photo, target, palette, weights, saturation, scale)

    def correct(x0: Tensor) -> Tensor:
        bridge.normal_weights(decoder.model)
        with torch.inference_mode(False):
            move = guidance(tuple(x0.shape[-2:]), x0.device)
            bridge.rows(move.gray, len(x0), "SeAda CCD's picture")
            if move.target is not None:
                bridge.rows(move.target, len(x0), "the hints")
            return move(x0.clone().float()).to(x0.dtype)

    return unet.guide(model, correct, [decoder], start, end)


def modulate(model, gray, hint_map, seada, strength, start, end):
    """MODEL whose decoder features are scaled and shifted by the learned hint encoder, if SEADA has one."""
    encoder = seada.patcher("hint_encoder")
    photos, maps = unet.sized(gray), unet.sized_hints(hint_map)

    def enter(x, timesteps, context, options):
        features = encoder.model.module.encode(unet.condition(photos, x, options), unet.condition(maps, x, options))
        return None, lambda i, h: torch.lerp(h, encoder.model.module.modulate(i, h, features), strength)

    return unet.wrap_unet(model, enter, [encoder], start, end)
