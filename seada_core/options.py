"""The options of a colouring. The command, the nodes, the evaluation and Ray all build a `ColorizeOptions`."""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from .choices import HINT_METHODS, SCHEDULERS
from .files.hint_format import Hint, Stroke, parse_color

if TYPE_CHECKING:
    from torch import Tensor

    from .presets import Preset

LEFT_TO_THE_MODEL = ("steps", "guidance", "size", "saturation", "purple")  # where None means `preset.sampling`'s value


@dataclass(frozen=True)
class Limits:
    """The allowed numbers of a field: their type, `low` to `high`, and multiples of `multiple`."""

    kind: type[int] | type[float]
    low: float = -math.inf
    high: float = math.inf
    multiple: int = 1
    text: str = ""  # replaces the range in messages

    def __str__(self) -> str:
        if self.text:
            return self.text
        if self.multiple > 1:
            return f"a multiple of {self.multiple} from {self.low} to {self.high}"
        return f"at least {self.low}" if self.high == math.inf else f"{self.low} to {self.high}"

    def check(self, name: str, value: Any) -> None:
        """Raises ValueError with the field, the range and the value."""
        if self.kind is int and not isinstance(value, Integral):
            raise ValueError(f"{name} must be a whole number, not {value!r}")
        inside = isinstance(value, Real) and self.low <= value <= self.high  # type: ignore[operator]
        if not inside or (self.multiple > 1 and value % self.multiple):
            raise ValueError(f"{name} must be {self}, not {value!r}")


def _limited(default: Any, *limits: Any, **more: Any) -> Any:
    return field(default=default, metadata={"limits": Limits(*limits, **more)})


@dataclass(frozen=True, kw_only=True)
class ColorizeOptions:
    """How to colour a photo, or a batch of photos. Sequences become tuples.

    Args:
        prompt: what the photo shows and in which colours, one text or one for each picture; None uses the captioner.
        negative_prompt: what guidance moves away from.
        hints: colours at places, in pixels of the photo; or a hint map (B or 1, 3, any h, any w) of the photo.
        soft_hints: colours of regions, (B or 1, 3, any h, any w); the mask is each pixel's weight in the result.
        hint_methods: how colours follow hints: the hint encoder's learned "modulation", "guidance" of each step's
            estimate (CCD), and "propagation" over the things that they are on (over similar pixels, where the model
            has no part "affinity"), which is applied last. None: propagation alone with that part, else all three.
        palette: colours to stay close to, see `parse_color`.
        palette_strength: None pulls chroma gently to the palette's nearest colour or grey. A number treats the palette
            as a colour scheme, whose colours go where the photo has a similar lightness; 1 is soft.
        steps: denoising steps; None for the model's own number, as with guidance, size, saturation and purple.
        guidance: classifier-free guidance weight; 1 turns it off.
        strength: of the controller, 0 to 1 and beyond; 0 skips it.
        seed: the noise of every picture.
        size: short side of the picture that is diffused, px.
        saturation: factor on the model's chroma, not on hints. 0 leaves the photo grey.
        purple: factor on the chroma of purples that the model comes up with, 0 to 1; not with a palette, hints that act
            in the diffusion, or a prompt that names a purple.
        skin: how far the colours of people's skin are brought to one tone, 0 to 1, where the model has the part
            "people"; not with a palette, and not with hints that act in the diffusion.
        token_steps: steps of token diffusion on the codebook; 0 decodes the latent itself (Eq. 5).
        temperature: of token diffusion.
        scheduler: "ddim", or "unipc" or "dpm++", which need half the steps; see `sampling.solver`.
        shared_control: with guidance, run the conditional encoder once per step, with the prompt only: quicker, but
            then guidance acts only through the UNet.
        noise: factor on the noise that several steps start from, 0 to 1: with less, seeds differ less and surfaces are
            evener.
    Raises:
        ValueError: a field is out of range; the message says what is allowed.
    """

    prompt: str | Sequence[str] | None = None
    negative_prompt: str | None = None
    hints: Sequence[Hint | Stroke] | Tensor = ()
    soft_hints: Tensor | None = None
    hint_methods: Collection[str] | None = None
    palette: Sequence[str] | None = None
    palette_strength: float | None = _limited(None, float, 0, 10)
    steps: int | None = _limited(None, int, 1)  # and at most the schedule's, see `resolved`
    guidance: float | None = _limited(None, float, 0, 100)
    strength: float = _limited(1.0, float, 0, 10)
    seed: int = _limited(0, int, -(2**63), 2**64 - 1)  # what torch's generators take
    size: int | None = _limited(None, int, 8, 8192, multiple=8)
    saturation: float | None = _limited(None, float, 0, 10)
    purple: float | None = _limited(None, float, 0, 1)
    skin: float = _limited(1.0, float, 0, 1)
    token_steps: int = _limited(0, int, 0)
    temperature: float = _limited(1.0, float, sys.float_info.min, sys.float_info.max, text="a number above 0")
    scheduler: str = "ddim"
    shared_control: bool = False
    noise: float = _limited(1.0, float, 0, 1)

    def __post_init__(self):
        for option in fields(ColorizeOptions):
            value, limits = getattr(self, option.name), option.metadata.get("limits")
            if limits is not None and not (value is None and option.default is None):
                limits.check(option.name, value)
        unknown = set(self.hint_methods or ()) - set(HINT_METHODS)
        if unknown:
            raise ValueError(f"unknown hint method {sorted(unknown)[0]!r}; choose among {', '.join(HINT_METHODS)}")
        if self.scheduler not in SCHEDULERS:
            raise ValueError(f"unknown scheduler {self.scheduler!r}; choose among {', '.join(SCHEDULERS)}")
        for color in self.palette or ():
            parse_color(color)
        if self.hint_methods is not None:
            object.__setattr__(self, "hint_methods", tuple(self.hint_methods))
        for name in ("prompt", "hints", "palette"):
            value = getattr(self, name)
            if isinstance(value, Sequence) and not isinstance(value, str):  # tensors are none
                object.__setattr__(self, name, tuple(value))

    @classmethod
    def limits(cls, name: str) -> Limits:
        """The limits of a numeric field."""
        return next(option.metadata["limits"] for option in fields(cls) if option.name == name)

    def resolved(self, preset: Preset) -> ResolvedOptions:
        """These options with a model's own values where they are None.

        Raises:
            ValueError: more steps than the model's noise schedule has.
        """
        values = {option.name: getattr(self, option.name) for option in fields(ColorizeOptions)}
        own = {name: getattr(preset.sampling, name) for name in LEFT_TO_THE_MODEL if values[name] is None}
        options, most = ResolvedOptions(**values | own), preset.diffusion.train_steps
        if options.steps > most:
            raise ValueError(f"steps must be 1 to {most}, not {options.steps}")
        return options


@dataclass(frozen=True, kw_only=True)
class ResolvedOptions(ColorizeOptions):
    """Options without None for the model's defaults, see `ColorizeOptions.resolved`."""

    steps: int
    guidance: float
    size: int
    saturation: float
    purple: float
