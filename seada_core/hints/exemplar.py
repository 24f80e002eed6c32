"""Exemplar colourisation: the colours of a reference picture on what looks alike in a grey photo.

The same things are found by what the embedded classifier sees in both, after Deep Exemplar-based Colorization (He et
al. 2018): every cell of the photo takes the colours of the reference's cells that are most like it, as soft hints.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..color.sizes import size_of
from ..color.spaces import luminance, rgb_to_ycbcr
from ..models.efficientnet import CHANNELS, EfficientNetLite0
from .grounding import refined_size
from .propagation import propagate

SIDE = 384  # short side of what the classifier looks at, px
LONGEST = 2  # long side over short side beyond which pictures are squeezed
CELL = 8  # pixels a cell's side, of pictures of SIDE
TEMPERATURE = 0.03  # of the softmax over cosine similarities
UNLIKE, ALIKE = 0.1, 0.45  # similarity of the best match that counts for nothing, and for all
LIGHTNESS = 0.5  # what a whole step from black to white costs, in similarity
SMOOTH = 0.02  # weight of a cell's colour against the photo's edges, see `propagate`


def _look(classifier: EfficientNetLite0, gray: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Features and luminance (n, c) of each cell of a photo (1, 1, H, W), and the cells' grid."""
    scale = SIDE / min(gray.shape[-2:])
    rows, columns = (min(max(1, round(side * scale / CELL)), SIDE // CELL * LONGEST) for side in gray.shape[-2:])
    grid, size = (rows, columns), (rows * CELL, columns * CELL)
    photo = F.interpolate(gray, size, mode="bilinear", antialias=True)
    buffer = next(classifier.buffers())
    maps = classifier(photo.expand(-1, 3, -1, -1).to(buffer.device, buffer.dtype))
    seen = [F.interpolate(m.float().cpu(), grid, mode="bilinear")[0].flatten(1).T for m in maps]
    return torch.cat([*seen, F.interpolate(gray, grid, mode="bilinear", antialias=True).flatten()[:, None]], 1), grid


@torch.no_grad()
def reference_hints(classifier: EfficientNetLite0, gray: Tensor, reference: Tensor) -> Tensor:
    """Soft hints (B, 3, h, w) for grey photos (B, 1, H, W) from a colour picture (1 or B, 3, any H, any W), in [0, 1].

    The mask says how much like its match a cell is: where the reference shows nothing of the kind it is 0.
    Raises ValueError for another number of reference pictures.
    """
    if len(reference) not in (1, len(gray)):
        raise ValueError(f"{len(reference)} reference pictures for {len(gray)} photos: give one, or one each")
    maps = []
    for photo, picture in zip(gray.cpu().split(1), reference.cpu().expand(len(gray), -1, -1, -1).split(1)):
        seen, grid = _look(classifier, photo)
        shown, reference_grid = _look(classifier, luminance(picture))
        chroma = F.interpolate(rgb_to_ycbcr(picture)[:, 1:], reference_grid, mode="bilinear", antialias=True)
        similarity = -LIGHTNESS * (seen[:, -1:] - shown[:, -1]).abs()
        mean = torch.cat([seen, shown]).mean(0)  # what all cells have in common tells none from another
        maps_of_both = ((x - mean).split((*CHANNELS, 1), dim=1)[: len(CHANNELS)] for x in (seen, shown))
        for a, b in zip(*maps_of_both):
            similarity += F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / len(CHANNELS)
        best = similarity.amax(1)
        weights = (similarity / TEMPERATURE).softmax(1)
        found = (weights @ chroma[0].flatten(1).T).T.view(1, 2, *grid)
        mask = ((best - UNLIKE) / (ALIKE - UNLIKE)).clamp(0, 1).view(1, 1, *grid)
        maps.append(_fit(photo, torch.cat([found, mask], 1)))
    return torch.cat(maps)


def _fit(gray: Tensor, hint_map: Tensor) -> Tensor:
    """A coarse hint map (1, 3, h, w) fitted to the edges of a photo (1, 1, H, W), at its `refined_size`."""
    size = refined_size(size_of(gray))
    photo = F.interpolate(gray, size, mode="bilinear", antialias=True)
    chroma, mask = F.interpolate(hint_map, size, mode="bilinear").split((2, 1), dim=1)
    chroma = propagate(photo, torch.cat([chroma, SMOOTH * mask.clamp_min(1e-3)], 1))[0]
    return torch.cat([chroma, mask.clamp(0, 1)], 1)
