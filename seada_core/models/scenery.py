"""Sky, water, grass and leaves in grey photos: learned from colour photos, where their colours tell them apart."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..presets import SceneryConfig
from .people import CellLogits

SCENERY = ("sky", "water", "grass", "leaves")


class Scenery(nn.Module):
    """What a photo's cells of 4 px show of `SCENERY`, from the maps of the controller's classifier."""

    def __init__(self, config: SceneryConfig):
        super().__init__()
        self.config = config
        self.kinds = CellLogits(config.width, 1 + len(SCENERY))

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Logits (B, 5, h, w) in float32 of something else and of each of `SCENERY`.

        Args:
            maps: see `classifier_maps`: (B, 40, h, w), (B, 112, h / 2, w / 2), (B, 320, h / 4, w / 4).
        """
        return self.kinds(maps)


def scenery_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy over the cells whose label is known.

    Args:
        logits: (B, 5, h, w), what `Scenery` returns.
        labels: (B, h, w): 0 something else, 1 + k for `SCENERY[k]`, 255 not known.
    """
    each = F.cross_entropy(logits, labels.long(), ignore_index=255, reduction="sum")
    return each / (labels < 255).sum().clamp_min(1)
