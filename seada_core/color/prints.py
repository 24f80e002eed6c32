"""What a model sees of old prints: without grain and screens, and with the full range of tones.

Only the picture that is diffused and decoded is changed, never the luminance of the result. A clean photo stays
exactly as it is.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

NOISY = 0.0185  # deviation of the noise, of 1, from which it is removed
FADED = 0.55  # range of tones, from the 1st to the 99th percentile, below which they are stretched
DARKEST, LIGHTEST = 0.04, 0.93  # what faded tones are stretched to
BLUR = 1.0  # deviation of the Gaussian that removes noise, px: fine detail of such photos misleads more than it tells
_BLOCK, _SMOOTH = 8, 0.3  # side of blocks in which noise is measured, px; the share of them that is smoothest


def restored(gray: Tensor) -> Tensor:
    """Photos (B, 1, h, w) in [0, 1] at the size that is diffused, each as it would be without grain and fading."""
    return torch.cat([_restored(one) for one in gray.split(1)]) if len(gray) > 1 else _restored(gray)


def _restored(gray: Tensor) -> Tensor:
    if min(gray.shape[-2:]) < 2 * _BLOCK:
        return gray
    if noise(gray) >= NOISY:
        gray = _blurred(gray)
    low, high = (float(torch.quantile(gray.flatten()[:: max(1, gray.numel() // 2**20)], q)) for q in (0.01, 0.99))
    if 0.02 < high - low < FADED:
        gray = (DARKEST + (gray - low) * ((LIGHTEST - DARKEST) / (high - low))).clamp(0, 1)
    return gray


def noise(gray: Tensor) -> float:
    """The deviation of white noise in a photo (1, 1, h, w): of what a second difference in both directions leaves
    (Immerkaer 1996), in the smoothest blocks."""
    kernel = gray.new_tensor([[1, -2, 1], [-2, 4, -2], [1, -2, 1]])[None, None]
    left = F.conv2d(gray.float(), kernel.float()).abs()
    blocks = F.avg_pool2d(left, _BLOCK).flatten().sort().values
    smooth = blocks[: max(1, round(_SMOOTH * len(blocks)))]
    return float(smooth.mean()) * math.sqrt(math.pi / 2) / 6


def _blurred(gray: Tensor) -> Tensor:
    reach = math.ceil(3 * BLUR)
    kernel = torch.exp(-(torch.arange(-reach, reach + 1, device=gray.device) ** 2) / (2 * BLUR**2)).to(gray)
    kernel = kernel / kernel.sum()
    padded = F.pad(gray, (reach,) * 4, mode="reflect")
    return F.conv2d(F.conv2d(padded, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))
