"""Stage affinity: how far a hint's colour reaches, learned from which places of a photo share their colour."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...color.sizes import size_of
from ...color.spaces import luminance, rgb_to_lab, rgb_to_ycbcr
from ...models.affinity import CELL
from ..batches import Batch
from ..draws import Draws
from ..sources import DataError
from .decoder import DecoderStage
from .registry import StageSetup
from .stage import Stage

MOST_HINTS = 48  # of a picture, few being common
RECOLORED = 0.65  # share of the pictures in which segments are given other colours
COARSE = 0.6  # share of these in which the segments are coarse
SEGMENTS = {"fine": (0.6, 40), "coarse": (2.5, 120)}  # Felzenszwalb's scale, and the least pixels of a segment
SHIFT = 0.13  # deviation of a segment's new chroma
BY_CHANNEL = ((0.0, 1.402), (1.772, 0.0), (-0.344136, -0.714136))  # of R, B and G for (Cb, Cr)


class AffinityStage(Stage):
    """Random places of a photo are hints of its colours; the difference to the model's own colours is spread.

    In two photos of three, segments (Felzenszwalb and Huttenlocher 2004, of the true colours) are given random other
    colours first: so the part learns where a colour that cannot be guessed ends. The loss is the error of R, G and B,
    its square root weighing most. Everything but the part is frozen.

    Parts: unet, semantic_encoder, semantic_adapter, controlnet_rca, vq_decoder, affinity.

    Raises:
        DataError: scikit-image is missing, or the controller has no classifier.
    """

    def __init__(self, setup: StageSetup):
        super().__init__()
        try:
            from skimage.segmentation import felzenszwalb
        except ImportError:
            raise DataError("stage affinity needs scikit-image: pip install scikit-image") from None
        self.segment = felzenszwalb
        self.first = DecoderStage(setup).requires_grad_(False)
        self.affinity = setup.parts["affinity"].requires_grad_(True)
        self.classifier: Any = getattr(getattr(self.first.diffusion.controlnet_rca, "mapper", None), "classifier", None)
        if self.classifier is None:
            raise DataError("stage affinity needs a controller whose mapper has a classifier (--control.recognition)")

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        gray, draws = luminance(batch.rgb), Draws(batch.seeds)
        with torch.no_grad():
            own = self.first.codec.chroma(self.first.first_step(batch), gray).float()
            own, truth = (F.avg_pool2d(chroma, CELL) for chroma in (own, rgb_to_ycbcr(batch.rgb)[:, 1:]))
            target = truth + self.recoloring(batch.rgb, size_of(truth), draws)
            places, valid = self.places(size_of(truth), draws)
        shares = self.affinity.shares(self.affinity.embed(gray, self.classifier), places, valid)
        index = (places[..., 0] * truth.shape[-1] + places[..., 1])[:, None].expand(-1, 2, -1)
        missing = (target - own).flatten(2).gather(2, index) * valid[:, None]
        found = own + torch.einsum("bcn,bnhw->bchw", missing, shares)
        error, before = (_squared_error(chroma - target) for chroma in (found, own))
        return {
            "loss": (error + 1e-5).sqrt().mean() + 6 * error.mean(),
            "predicted": (error.detach().mean() / before.mean()),  # share of the error without hints
        }

    def places(self, size: tuple[int, int], draws: Draws) -> tuple[Tensor, Tensor]:
        """Random cells (B, N, 2) as hints, and which of them count (B, N)."""
        drawn = []
        for generator in draws.generators:
            count = 1 + int(MOST_HINTS * float(torch.rand((), generator=generator)) ** 2.5)
            cells = torch.rand(MOST_HINTS, 2, generator=generator) * torch.tensor(size)
            drawn.append((cells.long(), torch.arange(MOST_HINTS) < count))
        places, valid = (torch.stack(rows).to(self.device) for rows in zip(*drawn))
        return places, valid

    def recoloring(self, rgb: Tensor, size: tuple[int, int], draws: Draws) -> Tensor:
        """What is added to the chroma of each cell (B, 2, h, w), the same within a segment."""
        lab = rgb_to_lab(F.avg_pool2d(rgb, 2).cpu()).movedim(1, -1).numpy() / 100
        added = rgb.new_zeros(len(rgb), 2, *size)
        for row, picture, generator in zip(added, lab, draws.generators):
            change, coarse = torch.rand(2, generator=generator).tolist()
            if change > RECOLORED:
                continue
            scale, least = SEGMENTS["coarse" if coarse < COARSE else "fine"]
            weighted = picture * np.array([0.35, 1.3, 1.3])
            labels = torch.from_numpy(self.segment(weighted, scale=scale, sigma=0.8, min_size=least, channel_axis=-1))
            count = int(labels.max()) + 1
            shift = SHIFT * torch.randn(2, count, generator=generator)
            shift *= torch.rand(count, generator=generator) < 0.5
            moved = F.interpolate(shift[:, labels][None], size, mode="nearest")[0]
            row.copy_(moved)
        return added

    @property
    def device(self) -> torch.device:
        """Where the part is."""
        return self.affinity.out.weight.device

    def parts(self) -> dict[str, nn.Module]:
        return {"affinity": self.affinity}


def _squared_error(chroma: Tensor) -> Tensor:
    """The mean squared error of R, G and B (B, h, w) for differences of chroma (B, 2, h, w)."""
    channels = [cb * chroma[:, 0] + cr * chroma[:, 1] for cb, cr in BY_CHANNEL]
    return torch.stack(channels).square().mean(0)


def build(setup: StageSetup) -> AffinityStage:
    return AffinityStage(setup)
