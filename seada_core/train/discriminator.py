"""A projected discriminator: small heads on the levels of a frozen classifier tell colourings from true colours."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

WIDTH = 96  # channels of each head


class ProjectedDiscriminator(nn.Module):
    """One small network per level, with spectral normalisation (Sauer et al. 2021, without their random projections).

    The classifier is frozen and not part of this module.

    Args:
        channels: of each level.
    """

    def __init__(self, channels: Sequence[int]):
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(
                spectral_norm(nn.Conv2d(count, WIDTH, 1)),
                nn.LeakyReLU(0.2),
                spectral_norm(nn.Conv2d(WIDTH, WIDTH, 3, padding=1)),
                nn.LeakyReLU(0.2),
                spectral_norm(nn.Conv2d(WIDTH, WIDTH, 3, padding=1)),
                nn.LeakyReLU(0.2),
                nn.Conv2d(WIDTH, 1, 1),
            )
            for count in channels
        )

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Levels (B, C, h, w), each of unit length at every place, to logits (B, 1, h, w): above 0 means true."""
        return [head(level * level.shape[1] ** 0.5) for head, level in zip(self.heads, levels)]


def generator_loss(logits: Sequence[Tensor]) -> Tensor:
    """The non-saturating loss (B,) of colourings that should pass for true (Goodfellow et al. 2014)."""
    return torch.stack([F.softplus(-x).mean((1, 2, 3)) for x in logits]).mean(0)


def discriminator_loss(ours: Sequence[Tensor], true: Sequence[Tensor]) -> Tensor:
    """The mean cross-entropy of telling colourings from the truth."""
    losses = [F.softplus(a).mean() + F.softplus(-b).mean() for a, b in zip(ours, true)]
    return torch.stack(losses).mean()
