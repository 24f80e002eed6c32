"""Whether colours are right, not how fine: a Fréchet distance that is 0 for coarse but true colours.

The usual distance on a few hundred pictures measures how *fine* chroma is: blurring the truth's chroma costs half as
much as greying it. Here the reference is the truth with chroma as coarse as a latent's, pictures are small, and
features are few enough for the number of pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..color.spaces import luminance, rgb_to_ycbcr, ycbcr_to_rgb
from ..models.efficientnet import EfficientNetLite
from .metrics import GaussianStatistics, frechet_distance

SIDE = 112  # short side of the networks' input, px
CELLS = 18  # chroma samples along the short side of the reference
NETWORKS = (1, 2)  # EfficientNet-Lite sizes; the model itself uses Lite0
GROUPS = (2, 4, 6)  # of each network: features after the third, fifth and seventh group, averaged over the picture
DIRECTIONS = 48  # principal directions kept of each


def small(rgb: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) at the size of the networks' input."""
    height, width = rgb.shape[-2:]
    scale = SIDE / min(height, width)
    size = (max(SIDE, round(height * scale)), max(SIDE, round(width * scale)))
    return F.interpolate(rgb, size=size, mode="bilinear", antialias=True).clamp(0, 1)


def coarse(rgb: Tensor, cells: int = CELLS) -> Tensor:
    """Pictures (B, 3, H, W) with the chroma of `cells` samples along the short side: box down, bicubic up."""
    chroma = rgb_to_ycbcr(rgb)[:, 1:]
    height, width = rgb.shape[-2:]
    scale = cells / min(height, width)
    chroma = F.adaptive_avg_pool2d(chroma, (max(1, round(height * scale)), max(1, round(width * scale))))
    chroma = F.interpolate(chroma, size=(height, width), mode="bicubic")
    return ycbcr_to_rgb(torch.cat([luminance(rgb), chroma], 1)).clamp(0, 1)


class Networks:
    """The frozen classifiers, with the weights of their packages.

    Raises:
        ImportError: a package is missing; the message names it.
    """

    def __init__(self, device: torch.device | str = "cpu"):
        self.classifiers = []
        for size in NETWORKS:
            classifier = EfficientNetLite(size)
            classifier.load_package_weights()
            self.classifiers.append(classifier.to(device).to(memory_format=torch.channels_last).eval())
        self.device = torch.device(device)

    @torch.no_grad()
    def features(self, rgb: Tensor) -> list[Tensor]:
        """Pictures (B, 3, H, W) in [0, 1] to features (B, C) of each network and group, on the CPU."""
        seen = small(rgb).to(self.device).contiguous(memory_format=torch.channels_last)
        levels = [classifier.levels(seen) for classifier in self.classifiers]
        return [maps[group].mean((2, 3)).float().cpu() for maps in levels for group in GROUPS]


@dataclass(frozen=True)
class Distance:
    """The share of grey's distance: 0 for the coarse truth, 1 for grey; with a 95 % interval over the pictures."""

    value: float
    low: float
    high: float
    by_network: tuple[float, ...]  # of each of `NETWORKS`


def distance(
    ours: Sequence[Tensor], reference: Sequence[Tensor], gray: Sequence[Tensor], resamples: int = 100, seed: int = 0
) -> Distance:
    """How far pictures are from the truth's coarse colours, as a share of how far grey is.

    Features are projected on the principal directions of truth and grey together, centred at the truth's mean; the
    result is the mean over networks and groups of the Fréchet distances' shares.

    Args:
        ours, reference, gray: `Networks.features` of all pictures, in the same order: colourings, `coarse` truths, and
            the grey photos.
        resamples: bootstrap resamples of the pictures; 0 for no interval (the value itself).
    """
    projected = [_project(*maps) for maps in zip(ours, reference, gray)]
    count = len(ours[0])
    shares = torch.tensor([_share(*maps) for maps in projected])
    value = shares.mean().item()
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for _ in range(resamples):
        rows = torch.randint(count, (count,), generator=generator)
        drawn.append(torch.tensor([_share(*(m[rows] for m in maps)) for maps in projected]).mean())
    # resamples are biased, so only their spread is used, around the value
    low, high = (
        (torch.stack(drawn) - torch.stack(drawn).mean()).quantile(torch.tensor([0.025, 0.975])) if drawn else (0, 0)
    )
    return Distance(
        value, value + float(low), value + float(high), tuple(shares.view(len(NETWORKS), -1).mean(1).tolist())
    )


def _project(ours: Tensor, reference: Tensor, gray: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    mean = reference.double().mean(0)
    maps = [m.double() - mean for m in (ours, reference, gray)]
    _, _, directions = torch.linalg.svd(torch.cat(maps[1:]), full_matrices=False)
    ours, reference, gray = (m @ directions[:DIRECTIONS].T for m in maps)
    return ours, reference, gray


def _share(ours: Tensor, reference: Tensor, gray: Tensor) -> float:
    truth = _statistics(reference)
    return frechet_distance(_statistics(ours), truth) / frechet_distance(_statistics(gray), truth)


def _statistics(features: Tensor) -> GaussianStatistics:
    statistics = GaussianStatistics(features.shape[1])
    statistics.update(features)
    return statistics
