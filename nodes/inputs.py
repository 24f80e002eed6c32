"""Inputs and outputs that several nodes share."""

from __future__ import annotations

from inspect import signature

from comfy_api.latest import io

from . import bridge

# what marks an input that is shown on demand, in those versions of ComfyUI that know it
ADVANCED = {"advanced": True} if "advanced" in signature(io.Int.Input).parameters else {}


def with_word(field: io.Int.Input | io.Float.Input, zero: str) -> io.Int.Input | io.Float.Input:
    """An input of which 0 is special; the page shows a word in its place (web/js/automatic.js)."""
    field.extra_dict = {"seada_zero": zero}  # its constructor takes it only in newer versions of ComfyUI
    return field


def seed(tooltip: str) -> io.Int.Input:
    """A seed, which the page can change after each run."""
    return io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True, tooltip=tooltip)


def size(tooltip: str) -> io.Int.Input:
    """Short side of the diffused picture, px; 0 is automatic, the model's own."""
    field = io.Int.Input("size", default=0, min=0, max=2048, step=8, tooltip=tooltip, **ADVANCED)
    return with_word(field, zero="auto")


def saturation() -> io.Float.Input:
    """Factor on the model's chroma."""
    tooltip = (
        "How strong the model's colours are. 1: as the model makes them, 0: grey; try 1.3 for stronger colours. "
        "Colours from hints are not changed."
    )
    return io.Float.Input("saturation", default=1.0, min=0.0, max=5.0, step=0.05, tooltip=tooltip)


def skin() -> io.Float.Input:
    """How far people's skin is brought to one tone."""
    tooltip = (
        "How far the skin of people in the photo is brought to one tone. 1: faces, arms and hands match; try 0 for "
        "masks, painted faces and statues."
    )
    return io.Float.Input("skin", default=1.0, min=0.0, max=1.0, step=0.05, optional=True, tooltip=tooltip, **ADVANCED)


def strength(tooltip: str, top: float, step: float = 0.05) -> io.Float.Input:
    """0 to `top`, 1 by default."""
    return io.Float.Input("strength", default=1.0, min=0.0, max=top, step=step, tooltip=tooltip)


def start_and_end() -> list[io.Float.Input]:
    """The part of the sampling in which a patch is active."""
    tooltips = {
        "start": (0.0, "When to start, as a fraction of the sampling. 0: at the first step."),
        "end": (1.0, "When to stop, as a fraction of the sampling. 1: after the last step."),
    }
    return [
        io.Float.Input(name, default=default, min=0.0, max=1.0, step=0.001, tooltip=tooltip, **ADVANCED)
        for name, (default, tooltip) in tooltips.items()
    ]


def photos() -> io.Image.Input:
    """Photos to colour."""
    return io.Image.Input("image", tooltip="The photos to colour. Only their luminance is used.")


def photo_of_latents() -> io.Image.Input:
    """The photo behind the latents that are sampled."""
    return io.Image.Input("image", tooltip="The photo, or one photo per latent. Only its luminance is used.")


def earlier_hints() -> io.Custom.Input:
    """Hints of another node, to which a node adds its own."""
    tooltip = "Hints from another node; this node adds its own to them."
    return bridge.SeadaHints.Input("hints", optional=True, tooltip=tooltip)


def hints_output(tooltip: str = "All hints together.") -> io.Custom.Output:
    return bridge.SeadaHints.Output(id="seada_hints", display_name="SEADA_HINTS", tooltip=tooltip)


def preview_output(tooltip: str = "The hints, shown on the grey photo.") -> io.Image.Output:
    return io.Image.Output(id="preview", display_name="preview", tooltip=tooltip)
