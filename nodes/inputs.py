"""Inputs and outputs that several nodes have, so that they are the same on each."""

from __future__ import annotations

from comfy_api.latest import io

from . import bridge


def seed(tooltip: str) -> io.Int.Input:
    """Any seed, which the page may change after each run."""
    return io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True, tooltip=tooltip)


def size(tooltip: str) -> io.Int.Input:
    """Short side of what is diffused, px; 0 is the model's own."""
    return io.Int.Input("size", default=0, min=0, max=2048, step=8, tooltip=tooltip)


def saturation(tooltip: str) -> io.Float.Input:
    return io.Float.Input("saturation", default=1.0, min=0.0, max=5.0, step=0.05, tooltip=tooltip)


def strength(tooltip: str, top: float, step: float = 0.05) -> io.Float.Input:
    """0 to `top`, 1 by default."""
    return io.Float.Input("strength", default=1.0, min=0.0, max=top, step=step, tooltip=tooltip)


def start_and_end() -> list[io.Float.Input]:
    """The part of sampling in which something works."""
    tooltips = {
        "start": (0.0, "Share of sampling after which it begins."),
        "end": (1.0, "Share of sampling after which it stops."),
    }
    return [
        io.Float.Input(name, default=default, min=0.0, max=1.0, step=0.001, tooltip=tooltip)
        for name, (default, tooltip) in tooltips.items()
    ]


def photo_of_latents() -> io.Image.Input:
    return io.Image.Input("image", tooltip="The photo; only its luminance is used. One, or one for each latent.")


def earlier_hints() -> io.Custom.Input:
    """Hints that a node adds its own to."""
    return bridge.SeadaHints.Input("hints", optional=True, tooltip="Hints to add these to.")


def hints_output(tooltip: str = "The hints, joined.") -> io.Custom.Output:
    return bridge.SeadaHints.Output(id="seada_hints", display_name="SEADA_HINTS", tooltip=tooltip)


def preview_output() -> io.Image.Output:
    return io.Image.Output(id="preview", display_name="preview", tooltip="The hints as a picture.")
