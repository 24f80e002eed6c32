"""Simulated old prints: a photo keeps its chroma, and its luminance is degraded as by old film, lens and age."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..color.merging import merge_chroma
from ..color.spaces import luminance, rgb_to_ycbcr

ORTHOCHROMATIC = (0.05, 0.5, 0.45)  # blind to red, as plates and films were until the 1920s
REFERENCE = 128  # px of the shorter side that blur and grain are given for


def expose(rgb: Tensor, rng: np.random.Generator) -> Tensor:
    """A photo (3, H, W) in [0, 1] with its own chroma and the luminance of an old print of it, (3, H, W) in [0, 1].

    Each of these at random: a film that is hardly sensitive to red, an unsharp lens, another contrast, faded or clipped
    blacks and whites, grain. The result is one picture, so that its latent, the grey condition and the decoder's grey
    input agree; degrading the grey condition alone would train for colours over another luminance.
    """
    gray = luminance(rgb)
    if rng.random() < 0.5:
        share = rng.random()
        gray = (1 - share) * gray + share * (rgb * torch.tensor(ORTHOCHROMATIC)[:, None, None]).sum(0, keepdim=True)
    scale = min(rgb.shape[-2:]) / REFERENCE
    if rng.random() < 0.5:
        gray = gaussian_blur(gray, rng.uniform(0.3, 1.3) * scale)
    gray = gray.clamp(0, 1) ** np.exp(rng.uniform(-0.45, 0.45))
    black, white = rng.uniform(-0.12, 0.15), rng.uniform(0.85, 1.12)
    gray = (black + (white - black) * gray).clamp(0, 1)
    if rng.random() < 0.6:
        grain = torch.from_numpy(rng.standard_normal(gray.shape, np.float32))
        gray = gray + rng.uniform(0.005, 0.035) * gaussian_blur(grain, 0.4 * scale)
    return merge_chroma(rgb_to_ycbcr(rgb)[1:], gray.clamp(0, 1))


def gaussian_blur(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of (C, H, W)."""
    reach = max(1, round(3 * sigma))
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(len(x), 1, 1, -1)
    x = F.pad(x[None], (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(x, kernel, groups=x.shape[1]), kernel.mT, groups=x.shape[1])[0]
