"""The options of an evaluation. Does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..options import ColorizeOptions
from .protocols import PROTOCOLS, Protocol

# the fields of ColorizeOptions that an evaluation may set, and that a resumed one may not change
STEERING = (
    *("steps", "guidance", "saturation", "skin", "strength", "size", "token_steps", "temperature", "prompt", "seed"),
)


@dataclass(frozen=True)
class Networks:
    """The networks that measure: names in `features.FEATURES` and `features.PERCEPTUAL`, and the device."""

    features: tuple[str, ...] = ("efficientnet-lite0",)
    perceptual: tuple[str, ...] = ()
    device: str = "cpu"

    @property
    def classifier(self) -> str | None:
        """The features from which classes are read, if any."""
        return "efficientnet-lite0" if "efficientnet-lite0" in self.features else None


@dataclass(frozen=True)
class EvaluateOptions:
    """What to evaluate and how; see the command line for each.

    `colorize` says how pictures are coloured. With `model` None, only `compare` is evaluated.
    """

    images: str  # or empty, where there are `clips`
    out: Path
    clips: Path | None = None  # films: a folder of folders of frames
    model: str | None = "mini"
    compare: Mapping[str, Path] = field(default_factory=dict)
    protocol: Protocol = PROTOCOLS["own"]
    names: tuple[str, ...] | None = None
    labels: Path | None = None
    limit: int | None = None
    networks: Networks = field(default_factory=Networks)
    truth: bool = True
    exclude_gray: bool = False
    common: bool = False
    hint_counts: tuple[int, ...] = ()
    colorize: ColorizeOptions = field(default_factory=ColorizeOptions)
    batch: int = 16
    resume: bool = False
    made: str = ""  # the command line
    json: bool = False
