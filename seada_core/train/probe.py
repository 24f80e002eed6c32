"""A differentiable answer to "which colour does this latent show?", for weighing the diffusion loss by colour."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..color.spaces import luminance, rgb_to_ycbcr
from ..models.vq_decoder import VQDecoder
from .batches import Batches
from .data import Pictures

LEVEL = 2  # a quarter of the picture's size: the decoder's finer levels take most of its time and draw edges only


class ChromaProbe(nn.Module):
    """Scaled latent (B, 4, h, w) and grey photo (B, 1, 8h, 8w) to the mean (Cb, Cr) of each 8x8 pixels, in units of
    their standard deviation over the training photos: the decoder's two coarse levels, and a linear map of their
    features. Frozen.

    Chroma is not linear in the latent (a linear map explains less than 40 % of it), and a separate small network
    finds other colours in a latent than the decoder does.
    """

    deviation: Tensor

    def __init__(self, codec: VQDecoder):
        super().__init__()
        self.codec = codec
        self.linear = nn.Conv2d(codec.config.channels[LEVEL] * 4, 2, 1)
        self.register_buffer("deviation", torch.ones(2, 1, 1))
        self.requires_grad_(False)

    def forward(self, z: Tensor, gray: Tensor) -> Tensor:
        return self.linear(self._hidden(z, gray))

    def wanted(self, rgb: Tensor) -> Tensor:
        """The true chroma of a photo (B, 3, 8h, 8w), in the probe's units."""
        return F.avg_pool2d(rgb_to_ycbcr(rgb)[:, 1:], 8) / self.deviation

    def _hidden(self, z: Tensor, gray: Tensor) -> Tensor:
        with torch.no_grad():
            features = self.codec.gray_features(gray)
        hidden = self.codec.decoder.hidden(z.to(features[-1].dtype), features, LEVEL)
        return F.pixel_unshuffle(hidden, 2)

    @torch.no_grad()
    def fit(self, cache: Pictures, steps: int = 8, batch: int = 32) -> float:
        """Deviation and linear map of photos, by ridge regression: the same in every process and run.

        Returns the share of the chroma's variance that the probe explains on those photos.
        """
        batches = Batches(cache, min(batch, len(cache)), cache.meta["resolution"], seed=0)
        hidden, wanted, device = [], [], self.deviation.device
        for step in range(steps):
            example = batches[step]
            rgb = example.rgb.to(device)
            hidden.append(self._hidden(example.latent.to(device), luminance(rgb)).movedim(1, -1).flatten(0, 2))
            wanted.append(F.avg_pool2d(rgb_to_ycbcr(rgb)[:, 1:], 8).movedim(1, -1).flatten(0, 2))
        x, y = torch.cat(hidden).double(), torch.cat(wanted).double()
        deviation = y.std(0).clamp(min=1e-3)
        x_mean, y_mean = x.mean(0), y.mean(0)
        x, y = x - x_mean, (y - y_mean) / deviation
        products = x.mT @ x
        ridge = 1e-6 * products.diagonal().mean() * torch.eye(len(products), dtype=x.dtype, device=device)
        weights = torch.linalg.solve(products + ridge, x.mT @ y)
        self.deviation.copy_(deviation[:, None, None])
        self.linear.load_state_dict(
            {"weight": weights.mT[..., None, None], "bias": y_mean / deviation - x_mean @ weights}
        )
        return float(1 - (x @ weights - y).square().sum() / y.square().sum())
