"""People in grey photos, and what they wear: learned from photos whose people and clothes were marked."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..color.sizes import size_of
from ..presets import PeopleConfig
from .affinity import CHANNELS, Residual, classifier_maps
from .efficientnet import EfficientNetLite

# what the cells of a person are; "other" is all that has no name here
WORN = (
    *("other", "hair", "skin", "hat", "top", "jacket", "dress", "skirt", "trousers", "shorts", "shoes", "bag"),
    *("scarf", "stockings"),
)


class People(nn.Module):
    """Whether a photo's cells of 4 px show people, and what of them, from the maps of the controller's classifier."""

    def __init__(self, config: PeopleConfig):
        super().__init__()
        self.config = config
        width = config.width
        self.maps = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in CHANNELS)
        self.coarse, self.middle = Residual(width), Residual(width)
        self.fine = nn.Sequential(Residual(width), Residual(width))
        self.out = nn.Conv2d(width, 1 + len(WORN), 1)

    def look(self, gray: Tensor, classifier: EfficientNetLite) -> tuple[Tensor, Tensor]:
        """See `forward`, for grey photos (B, 1, H, W) in [0, 1], H and W multiples of 16."""
        return self(classifier_maps(gray, classifier))

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits (B, 1, h, w) of people, and (B, 14, h, w) of `WORN`, of a person's cells.

        Args:
            maps: the classifier's, (B, 40, h, w), (B, 112, h / 2, w / 2), (B, 320, h / 4, w / 4), over `DEVIATIONS`.
        """

        def enlarged(x: Tensor, like: Tensor) -> Tensor:
            return F.interpolate(x, size=size_of(like), mode="bilinear")

        x = self.coarse(self.maps[2](maps[2]))
        x = self.middle(enlarged(x, maps[1]) + self.maps[1](maps[1]))
        x = self.fine(enlarged(x, maps[0]) + self.maps[0](maps[0]))
        person, worn = self.out(F.silu(x)).float().split([1, len(WORN)], dim=1)
        return person, worn


def people_loss(person: Tensor, worn: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of people, and half of that of what they wear.

    Args:
        person, worn: what `People` returns.
        labels: (B, h, w): 0 no person, 1 a person, 2 + k a person's `WORN[k]`, 255 not known.
    """
    labels = labels.long()
    known, dressed = labels < 255, (labels >= 2) & (labels < 255)
    is_person = F.binary_cross_entropy_with_logits(person[:, 0], (labels > 0).float(), reduction="none")
    is_worn = F.cross_entropy(worn, torch.where(dressed, labels - 2, 255), ignore_index=255, reduction="none")
    return (is_person * known).sum() / known.sum().clamp_min(1) + 0.5 * is_worn.sum() / dressed.sum().clamp_min(1)
