"""Simulated old prints: a photo keeps its chroma, and its luminance is degraded as by old film, lens and age."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..color.merging import merge_chroma
from ..color.spaces import luminance, rgb_to_ycbcr
from .draws import send

ORTHOCHROMATIC = (0.05, 0.5, 0.45)  # blind to red, as plates and films were until the 1920s
REFERENCE = 128  # px of the shorter side that blur and grain are given for


PLATE = 1024  # px by which a plate of grain is larger than the photos that take windows of it


def expose(rgb: Tensor, rng: np.random.Generator) -> Tensor:
    """A photo (3, H, W) in [0, 1] with its own chroma and the luminance of an old print of it, (3, H, W) in [0, 1].

    Each of these at random: a film that is hardly sensitive to red, an unsharp lens, another contrast, faded or clipped
    blacks and whites, grain. The result is one picture, so that its latent, the grey condition and the decoder's grey
    input agree; degrading the grey condition alone would train for colours over another luminance.
    """
    values, strength = _film(rng), 0.0
    grain = torch.zeros(1, *rgb.shape[-2:])
    if rng.random() < 0.6:
        grain = torch.from_numpy(rng.standard_normal(grain.shape, np.float32))
        strength = rng.uniform(0.005, 0.035)
    return _print(rgb[None], [(*values, strength)], grain[None])[0]


def expose_all(rgb: Tensor, rngs: Sequence[np.random.Generator]) -> Tensor:
    """`expose` for photos (B, 3, H, W) on any device, with a generator for each: a photo's print is the same in any
    batch. Its grain is a window of one plate, since that is quicker than to draw it."""
    height, width = rgb.shape[-2:]
    values, tops, lefts = [], [], []
    for rng in rngs:
        values.append((*_film(rng), rng.uniform(0.005, 0.035) if rng.random() < 0.6 else 0.0))
        top, left = rng.integers(0, PLATE + 1, 2)
        tops.append(top)
        lefts.append(left)
    rows = send(torch.tensor(np.array(tops)), rgb.device)[:, None] + torch.arange(height, device=rgb.device)
    columns = send(torch.tensor(np.array(lefts)), rgb.device)[:, None] + torch.arange(width, device=rgb.device)
    grain = _plate(height + PLATE, width + PLATE, rgb.device)[rows[:, :, None], columns[:, None]]
    return _print(rgb, values, grain[:, None])


def _film(rng: np.random.Generator) -> tuple[float, ...]:
    """The share of an orthochromatic film, the blur's sigma for `REFERENCE`, the exponent, black and white."""
    share = rng.random() if rng.random() < 0.5 else 0.0
    sigma = rng.uniform(0.3, 1.3) if rng.random() < 0.5 else 0.0
    return share, sigma, np.exp(rng.uniform(-0.45, 0.45)), rng.uniform(-0.12, 0.15), rng.uniform(0.85, 1.12)


def _print(rgb: Tensor, values: Sequence[tuple[float, ...]], grain: Tensor) -> Tensor:
    """Photos (B, 3, H, W) as prints; values: B times what `_film` returns, and the strength of the grain, whose noise
    is (B, 1, H, W)."""
    numbers = torch.tensor(np.array(values))  # (B, 6), float64
    scale = min(rgb.shape[-2:]) / REFERENCE
    share, _, exponent, black, white, strength = send(numbers.float(), rgb.device)[..., None, None, None].unbind(1)
    red_blind = (rgb * rgb.new_tensor(ORTHOCHROMATIC)[:, None, None]).sum(1, keepdim=True)
    gray = (1 - share) * luminance(rgb) + share * red_blind
    gray = gaussian_blur(gray[:, 0], numbers[:, 1] * scale)[:, None]
    gray = gray.clamp(0, 1) ** exponent
    gray = (black + (white - black) * gray).clamp(0, 1)
    gray = gray + strength * gaussian_blur(grain[:, 0], 0.4 * scale)[:, None]
    return merge_chroma(rgb_to_ycbcr(rgb)[:, 1:], gray.clamp(0, 1))


@lru_cache(maxsize=4)
def _plate(height: int, width: int, device: torch.device) -> Tensor:
    """Standard normal noise (height, width), the same on every device."""
    return torch.randn(height, width, generator=torch.Generator().manual_seed(0)).to(device)


def gaussian_blur(x: Tensor, sigma: float | Tensor) -> Tensor:
    """Gaussian blur of (C, H, W); sigma in px: one for all, or (C,), on the CPU. 0 leaves a channel as it is."""
    sigma = torch.as_tensor(sigma, dtype=torch.float64).expand(len(x))[:, None]
    reach = (3 * sigma).round().clamp(min=1)
    most = int(reach.max())
    taps = torch.arange(-most, most + 1)
    kernel = torch.exp(-0.5 * (taps / sigma.clamp(min=1e-3)) ** 2) * (taps.abs() <= reach)
    kernel = send((kernel / kernel.sum(1, keepdim=True)).float(), x.device)[:, None, None]
    x = F.pad(x[None], (most,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(x, kernel, groups=x.shape[1]), kernel.mT, groups=x.shape[1])[0]
