"""What a conversion is asked for. Nothing here needs torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..presets import SD15, ControlConfig, TextConfig, UNetConfig, VAEConfig


@dataclass(frozen=True)
class ConvertOptions:
    """What to convert and how; see the command line for each.

    `unet`, `text` and `vae_sizes` are the sizes of a single file, which does not name them; `controller` those of a
    controller that starts from a ControlNet.
    """

    source: str
    out: Path | None = None
    to: str = "parts"  # or "diffusers"
    base: str | None = None
    control: str | None = None
    vae: str | None = None
    dtype: str = "float32"  # a name of torch's
    ema: bool = False
    strict: bool = True
    download: bool = False
    overwrite: bool = False
    json: bool = False
    unet: UNetConfig = SD15.unet
    text: TextConfig = SD15.text
    vae_sizes: VAEConfig = field(default_factory=VAEConfig)
    controller: ControlConfig = SD15.control
