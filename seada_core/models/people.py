"""People in grey photos, and what they wear: learned from photos whose people and clothes were marked."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..color.sizes import size_of
from ..presets import PeopleConfig
from .affinity import CHANNELS, Residual

# what the cells of a person are; "other" is all that has no name here
WORN = (
    *("other", "hair", "skin", "hat", "top", "jacket", "dress", "skirt", "trousers", "shorts", "shoes", "bag"),
    *("scarf", "stockings"),
)


class CellLogits(nn.Module):
    """Logits of a photo's cells of 4 px from the maps of the controller's classifier, coarse to fine."""

    def __init__(self, width: int, logits: int):
        super().__init__()
        self.maps = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in CHANNELS)
        self.coarse, self.middle = Residual(width), Residual(width)
        self.fine = nn.Sequential(Residual(width), Residual(width))
        self.out = nn.Conv2d(width, logits, 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Maps as `People` takes them to (B, logits, h, w) in float32."""

        def enlarged(x: Tensor, like: Tensor) -> Tensor:
            return F.interpolate(x, size=size_of(like), mode="bilinear")

        x = self.coarse(self.maps[2](maps[2]))
        x = self.middle(enlarged(x, maps[1]) + self.maps[1](maps[1]))
        x = self.fine(enlarged(x, maps[0]) + self.maps[0](maps[0]))
        return self.out(F.silu(x)).float()


class People(nn.Module):
    """Whether a photo's cells of 4 px show people, what of them, and whether they are skin.

    Skin has a network of its own: it learns from hands and faces in photos of which little else is known.
    """

    def __init__(self, config: PeopleConfig):
        super().__init__()
        self.config = config
        self.kinds = CellLogits(config.width, 1 + len(WORN))
        self.skin = CellLogits(config.width, 1)

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """What `body` returns, and logits (B, 1, h, w) of skin.

        Args:
            maps: see `classifier_maps`: (B, 40, h, w), (B, 112, h / 2, w / 2), (B, 320, h / 4, w / 4).
        """
        return *self.body(maps), self.skin(maps)

    def body(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits (B, 1, h, w) of people, and (B, 14, h, w) of `WORN`, of a person's cells."""
        person, worn = self.kinds(maps).split([1, len(WORN)], dim=1)
        return person, worn


def people_loss(person: Tensor, worn: Tensor, skin: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of people and of skin, and half of that of what people wear.

    Args:
        person, worn, skin: what `People` returns.
        labels: (B, h, w): 0 no person, 1 a person, 2 + k a person's `WORN[k]`, 255 not known.
    """
    labels = labels.long()
    known, dressed = labels < 255, (labels >= 2) & (labels < 255)
    is_person = _mean_cross_entropy(person, labels > 0, known)
    is_skin = _mean_cross_entropy(skin, labels == 2 + WORN.index("skin"), known & (labels != 1))
    is_worn = F.cross_entropy(worn, torch.where(dressed, labels - 2, 255), ignore_index=255, reduction="none")
    return is_person + is_skin + 0.5 * is_worn.sum() / dressed.sum().clamp_min(1)


def _mean_cross_entropy(logits: Tensor, true: Tensor, where: Tensor) -> Tensor:
    """Of logits (B, 1, h, w), over the cells `where` it is known whether they are `true` (B, h, w)."""
    each = F.binary_cross_entropy_with_logits(logits[:, 0], true.float(), reduction="none")
    return (each * where).sum() / where.sum().clamp_min(1)
