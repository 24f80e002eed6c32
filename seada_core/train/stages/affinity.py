"""Stage affinity: how far a hint's colour reaches, learned from which places of a photo share their colour."""

from __future__ import annotations

import math

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
from .stage import Stage, frozen_classifier

MOST_HINTS = 48  # of a picture, few being common
RECOLORED = 0.65  # share of the pictures in which segments are given other colours
COARSE = 0.6  # share of these in which the segments are coarse
SEGMENTS = {"fine": (0.6, 40), "coarse": (2.5, 120)}  # Felzenszwalb's scale, and the least pixels of a segment
SHIFT = 0.13  # deviation of a segment's new chroma
THING = 0.02, 0.77  # shares of a picture between which a marked thing is used
THING_SHIFT = 0.07, 0.27  # how far a marked thing's chroma is moved
AROUND = 0.25  # share of the pictures with a marked thing in which segments around it are given other colours too
ALONE = 0.5  # share of these in which the thing gets one hint and nothing else does
BY_CHANNEL = ((0.0, 1.402), (1.772, 0.0), (-0.344136, -0.714136))  # of R, B and G for (Cb, Cr)


class AffinityStage(Stage):
    """Random places of a photo are hints of its colours; the difference to the model's own colours is spread.

    In two photos of three, segments (Felzenszwalb and Huttenlocher 2004, of the true colours) are given random other
    colours first: so the part learns where a colour that cannot be guessed ends. The loss is the error of R, G and B,
    its square root weighing most. Everything but the part is frozen.

    Where the photos' labels mark things (any value but 0 and 255), one of them is given another colour as a whole, and
    the first hint lies in it: a click is to take the whole thing, whatever its parts look like. The rest of such a
    photo has its true colours from the start.

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
        self.classifier = frozen_classifier(setup)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        gray, draws = luminance(batch.rgb), Draws(batch.seeds)
        with torch.no_grad():
            own = self.first.codec.chroma(self.first.first_step(batch), gray).float()
            own, truth = (F.avg_pool2d(chroma, CELL) for chroma in (own, rgb_to_ycbcr(batch.rgb)[:, 1:]))
            things = self.things(batch.labels, truth, draws)
            own = torch.where(things.flatten(1).any(1)[:, None, None, None], truth, own)
            target = truth + self.recoloring(batch.rgb, things, draws)
            places, valid = self.places(things, draws)
        shares = self.affinity.shares(self.affinity.embed(gray, self.classifier), places, valid)
        index = (places[..., 0] * truth.shape[-1] + places[..., 1])[:, None].expand(-1, 2, -1)
        missing = (target - own).flatten(2).gather(2, index) * valid[:, None]
        found = own + torch.einsum("bcn,bnhw->bchw", missing, shares)
        error, before = (_squared_error(chroma - target) for chroma in (found, own))
        return {
            "loss": (error + 1e-5).sqrt().mean() + 6 * error.mean(),
            "predicted": error.detach().mean() / before.mean().clamp_min(1e-9),  # share of the error without hints
        }

    def things(self, labels: Tensor | None, like: Tensor, draws: Draws) -> Tensor:
        """The cells (B, h, w), bool, of one thing that a picture's labels (B, H, W) mark; none where they mark none of
        a fitting size. like: (B, C, h, w)."""
        found = like.new_zeros(len(like), *size_of(like), dtype=torch.bool)
        if labels is None:
            return found
        for row, cells, generator in zip(found, labels[:, CELL // 2 :: CELL, CELL // 2 :: CELL], draws.generators):
            values, counts = cells[(cells > 0) & (cells < 255)].unique(return_counts=True)
            shares = counts / cells.numel()
            values = values[(shares > THING[0]) & (shares < THING[1])]
            chosen = float(torch.rand((), generator=generator))  # always drawn, so that no picture depends on another
            if len(values):
                row.copy_(cells == values[int(chosen * len(values))])
        return found

    def places(self, things: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Random cells (B, N, 2) as hints, and which of them count (B, N). The first lies in a picture's thing (B, h,
        w), if there is one, and of the others more than chance would have it."""
        drawn = []
        for thing, generator in zip(things.cpu(), draws.generators):
            number, alone = torch.rand(2, generator=generator).tolist()
            cells = (torch.rand(MOST_HINTS, 2, generator=generator) * torch.tensor(size_of(thing))).long()
            inside = thing.nonzero()
            count = 1 + int(MOST_HINTS * number**2.5)
            if len(inside):
                count = 1 if alone < ALONE else 1 + int(10 * number**2)
                chosen = torch.rand(2, MOST_HINTS, generator=generator)
                moved = inside[(chosen[0] * len(inside)).long()]
                here = chosen[1] < 0.5
                here[0] = True
                cells = torch.where(here[:, None], moved, cells)
            drawn.append((cells, torch.arange(MOST_HINTS) < count))
        places, valid = (torch.stack(rows).to(self.device) for rows in zip(*drawn))
        return places, valid

    def recoloring(self, rgb: Tensor, things: Tensor, draws: Draws) -> Tensor:
        """What is added to the chroma of each cell (B, 2, h, w): the same within a segment or a thing (B, h, w)."""
        lab = rgb_to_lab(F.avg_pool2d(rgb, 2).cpu()).movedim(1, -1).numpy() / 100
        added = rgb.new_zeros(len(rgb), 2, *size_of(things))
        for row, picture, thing, generator in zip(added, lab, things, draws.generators):
            change, coarse, angle, far = torch.rand(4, generator=generator).tolist()
            marked = bool(thing.any())
            if change <= (AROUND if marked else RECOLORED):
                row.copy_(self._moved_segments(picture, "coarse" if coarse < COARSE else "fine", generator, row))
            if marked:
                length = THING_SHIFT[0] + far * (THING_SHIFT[1] - THING_SHIFT[0])
                shift = row.new_tensor([math.cos(math.tau * angle), math.sin(math.tau * angle)]) * length
                row[:, thing] = shift[:, None]
        return added

    def _moved_segments(self, lab: np.ndarray, kind: str, generator: torch.Generator, like: Tensor) -> Tensor:
        """(2, h, w), the size of `like`: half of the segments of a picture (H, W, 3) have other colours."""
        scale, least = SEGMENTS[kind]
        weighted = lab * np.array([0.35, 1.3, 1.3])
        labels = torch.from_numpy(self.segment(weighted, scale=scale, sigma=0.8, min_size=least, channel_axis=-1))
        count = int(labels.max()) + 1
        shift = SHIFT * torch.randn(2, count, generator=generator)
        shift *= torch.rand(count, generator=generator) < 0.5
        return F.interpolate(shift[:, labels][None], size_of(like), mode="nearest")[0]

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
