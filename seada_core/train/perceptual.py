"""The perceptual term of the diffusion loss: the distance of two colourings in a classifier's features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..color.spaces import ycbcr_to_rgb
from ..models.efficientnet import EfficientNetLite

LEVELS = (1, 2, 4, 6)  # of the classifier's groups: at 1/4, 1/8, 1/16 and 1/32


class PerceptualLoss(nn.Module):
    """LPIPS' distance without its learned weights (Zhang et al. 2018, Eq. 1) between two colourings of one grey photo.

    Both chroma maps are as coarse as a latent and are laid over the photo's own luminance, so that only colour is
    compared. The classifier is EfficientNet-Lite1, frozen and not part of the model: the mapper uses Lite0, and
    Lite2 is reserved for evaluation, so that no loss uses it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.classifier = EfficientNetLite(1)

    @classmethod
    def with_package_weights(cls) -> PerceptualLoss:
        """The loss with the classifier's released weights; see `EfficientNetLite.load_package_weights`."""
        loss = cls()
        loss.classifier.load_package_weights()
        return loss

    def forward(self, chroma: Tensor, truth: Tensor, gray: Tensor) -> Tensor:
        """Chroma (B, 2, h, w) and its truth in [-0.5, 0.5], luminance (B, 1, H, W) in [0, 1], to distances (B,)."""
        return self.distance(*self.look(chroma, truth, gray))

    def look(self, chroma: Tensor, truth: Tensor, gray: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The classifier's levels of both colourings, each (B, C, h, w) and of unit length at every place."""
        with torch.autocast(gray.device.type, enabled=False):  # near colourings differ by little
            ours = self._see(chroma.float(), gray.float())
            with torch.no_grad():
                return ours, self._see(truth.float(), gray.float())

    @staticmethod
    def distance(ours: list[Tensor], theirs: list[Tensor]) -> Tensor:
        """Distances (B,) of two colourings by their levels."""
        return torch.stack([(a - b).pow(2).sum(1).mean((1, 2)) for a, b in zip(ours, theirs)]).mean(0)

    def _see(self, chroma: Tensor, gray: Tensor) -> list[Tensor]:
        shown = self._lay(chroma, gray).contiguous(memory_format=torch.channels_last)
        levels = self.classifier.levels(shown)
        return [F.normalize(levels[level], dim=1, eps=1e-3) for level in LEVELS]

    @staticmethod
    def _lay(chroma: Tensor, gray: Tensor) -> Tensor:
        chroma = F.interpolate(chroma, size=gray.shape[-2:], mode="bilinear")
        return ycbcr_to_rgb(torch.cat([gray, chroma], 1)).clamp(0, 1)
