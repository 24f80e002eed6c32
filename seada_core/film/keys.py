"""Colours of a film's key frames: the model's, or those of a still, with hints where they are given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..color.sizes import resize
from ..color.spaces import rgb_to_ycbcr
from ..files.hint_format import Hint, Stroke
from ..options import ColorizeOptions
from ..pipeline import Colorizer
from .motion import Array

GIVEN = 1000.0  # weight of a colour that was given, in keys of the model
CHANGED = 0.02  # change of chroma by a hint from which a pixel's colour counts as given
SHAPE = 0.02  # share by which a still's aspect ratio may differ from the film's

Prepare = Callable[[Tensor, ColorizeOptions], ColorizeOptions]


@dataclass(frozen=True)
class Steering:
    """What is given for single frames, by the frames' times in seconds.

    Args:
        stills: coloured frames, sRGB (3, any h, any w) in [0, 1], of the film's shape.
        hints: fields of `ColorizeOptions` of that frame: hints, in pixels of the film or as maps, and soft hints.
    """

    stills: Mapping[float, Tensor] = field(default_factory=dict)
    hints: Mapping[float, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def times(self) -> list[float]:
        """The times for which something is given."""
        return sorted({*self.stills, *self.hints})


class KeyPainter:
    """Colours key frames with a Colorizer: one prompt and one seed a shot, see `steady.Painter`.

    Args:
        options: of every key frame. Its hints are not used, since things move: `steering` has hints at times.
        size: height and width of the film, px.
        prepare: changes the options of a key frame (1, 1, h, w), for palettes and soft hints that depend on it.
    Raises:
        ValueError: a still has another shape than the film.
    """

    def __init__(
        self,
        colorizer: Colorizer,
        options: ColorizeOptions,
        size: tuple[int, int],
        steering: Steering | None = None,
        prepare: Prepare | None = None,
    ):
        self.colorizer, self.options, self.size, self.prepare = colorizer, options, size, prepare
        self.steering = steering or Steering()
        for time, still in self.steering.stills.items():
            check_shape(still, size, time)

    @torch.no_grad()
    def begin(self, luma: Array, time: float) -> str:
        """The prompt of a shot: the one that was given, or the first frame's caption."""
        prompt = self.options.prompt
        return prompt if isinstance(prompt, str) else self.colorizer.caption(_tensor(luma).to(self.colorizer.device))[0]

    def paint(self, luma: Array, time: float, shot: str) -> Array:
        """See `steady.Painter`."""
        still = self.steering.stills.get(time)
        if still is not None:
            chroma = rgb_to_ycbcr(resize(still[None].float(), luma.shape))[:, 1:]
            return weighted(chroma, torch.full((1, 1, *luma.shape), GIVEN))
        gray = _tensor(luma)
        options = replace(self.options, prompt=shot)
        if self.prepare is not None:
            options = self.prepare(gray, options)
        chroma = self._ask(gray, options)
        given = self.steering.hints.get(time)
        if given is None:
            return weighted(chroma, torch.zeros(1, 1, *luma.shape))
        hints = given.get("hints", ())
        if not isinstance(hints, Tensor):
            scale = luma.shape[1] / self.size[1], luma.shape[0] / self.size[0]
            hints = [_scaled(hint, scale) for hint in hints]
        hinted = self._ask(gray, replace(options, **{**given, "hints": hints}))
        change = torch.linalg.vector_norm(hinted - chroma, dim=1, keepdim=True)
        return weighted(hinted, GIVEN * (change / CHANGED).clamp(0, 1))

    def _ask(self, gray: Tensor, options: ColorizeOptions) -> Tensor:
        """The model's chroma at the size of `gray`."""
        chroma = self.colorizer.chroma(gray, options).float().cpu()
        return resize_chroma(chroma, (gray.shape[-2], gray.shape[-1]))


def check_shape(still: Tensor, size: tuple[int, int], time: float) -> None:
    """Raises ValueError where a still does not have the film's shape (height, width)."""
    height, width = still.shape[-2:]
    if abs(width / height * size[0] / size[1] - 1) > SHAPE:
        raise ValueError(
            f"the key frame at {time:.2f} s is {width}×{height}, the film {size[1]}×{size[0]}: "
            "save it in the film's size, or another size of the same shape"
        )


def resize_chroma(chroma: Tensor, size: tuple[int, int]) -> Tensor:
    """Chroma (B, 2, h, w) at another size, antialiased."""
    if tuple(chroma.shape[-2:]) == size:
        return chroma
    return torch.nn.functional.interpolate(chroma, size, mode="bilinear", antialias=True, align_corners=False)


def _scaled(hint: Hint | Stroke, scale: tuple[float, float]) -> Hint | Stroke:
    def at(x: float, y: float) -> tuple[float, float]:
        return (x + 0.5) * scale[0] - 0.5, (y + 0.5) * scale[1] - 0.5

    radius = hint.radius * min(scale)
    if isinstance(hint, Stroke):
        return replace(hint, points=tuple(at(x, y) for x, y in hint.points), radius=radius)
    x, y = at(hint.x, hint.y)
    return replace(hint, x=x, y=y, radius=radius)


def _tensor(luma: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(luma))[None, None]


def weighted(chroma: Tensor, given: Tensor) -> Array:
    """Chroma (1, 2, h, w) and the weight of given colours (1, 1, h, w), 0 for a model's, as `steady.Painter` wants."""
    return torch.cat([chroma, (given == 0).float(), given], 1)[0].permute(1, 2, 0).contiguous().numpy()
