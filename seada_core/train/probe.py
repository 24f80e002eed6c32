"""A small differentiable answer to "which colour does this latent show?", for weighing the diffusion loss by colour."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..color import luminance, rgb_to_ycbcr
from .data import Batches, Cache

WIDTH = 64


class ChromaProbe(nn.Sequential):
    """Scaled latent (B, 4, h, w) and grey photo (B, 1, 8h, 8w) to the mean (Cb, Cr) of each 8x8 pixels, in units of
    their standard deviation over the training photos.

    Chroma is not linear in the latent (a linear map explains less than 40 % of it), but given the luminance a few local
    convolutions read it off.
    """

    def __init__(self):
        super().__init__(
            nn.Conv2d(4 + 64, WIDTH, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(WIDTH, WIDTH, 1),
            nn.SiLU(),
            nn.Conv2d(WIDTH, 2, 1),
        )
        self.register_buffer("deviation", torch.ones(2, 1, 1))

    def forward(self, z: Tensor, gray: Tensor) -> Tensor:
        return super().forward(torch.cat([z, F.pixel_unshuffle(gray * 2 - 1, 8)], dim=1))

    def wanted(self, rgb: Tensor) -> Tensor:
        """What the probe should say of a photo (B, 3, 8h, 8w)."""
        return F.avg_pool2d(rgb_to_ycbcr(rgb)[:, 1:], 8) / self.deviation


def load_probe(cache: Cache, steps: int = 600, batch: int = 32, log=print) -> ChromaProbe:
    """The probe of a cache's latents, fitted once and kept beside them; frozen."""
    from safetensors.torch import load_file, save_file

    path = Path(cache.folder) / "chroma_probe.safetensors"
    probe = ChromaProbe()
    if path.is_file():
        probe.load_state_dict(load_file(path))
        return probe.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for layer in probe:
            if isinstance(layer, nn.Conv2d):
                layer.reset_parameters()
        batches = Batches(cache, min(batch, len(cache)), cache.meta["resolution"], seed=0)
        chroma = torch.cat([F.avg_pool2d(rgb_to_ycbcr(batches[k]["rgb"])[:, 1:], 8) for k in range(8)])
        probe.deviation.copy_(chroma.std((0, 2, 3)).clamp(min=1e-3)[:, None, None])
        optimizer = torch.optim.Adam(probe.parameters(), 2e-3)
        errors = []
        for step in range(steps):
            example = batches[step]
            loss = (probe(example["latent"], luminance(example["rgb"])) - probe.wanted(example["rgb"])).pow(2).mean()
            for group in optimizer.param_groups:
                group["lr"] = 2e-3 * (1 - step / steps)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            errors.append(loss.item())
    log(f"chroma probe: explains {1 - sum(errors[-50:]) / len(errors[-50:]):.2f} of the latents' chroma")
    save_file(probe.state_dict(), path)
    return probe.requires_grad_(False)
