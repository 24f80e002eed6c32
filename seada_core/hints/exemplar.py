"""Exemplar colourisation: transfers the colours of a reference picture to similar regions of a grey photo.

Regions are matched by the embedded classifier's features, after Deep Exemplar-based Colorization (He et al. 2018):
every cell of the photo takes the colours of the most similar cells of the reference, as soft hints.
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

SIDE = 384  # short side of the classifier's input, px
LONGEST = 2  # aspect ratio beyond which pictures are squeezed
CELL = 8  # side of a cell, in pixels of the classifier's input
TEMPERATURE = 0.03  # of the softmax over cosine similarities
UNLIKE, ALIKE = 0.1, 0.45  # similarities of the best match at which the mask is 0 and 1
LIGHTNESS = 0.5  # similarity penalty for the difference between black and white
SMOOTH = 0.02  # hint weight of a cell's colour in `propagate`; smaller follows the photo's edges more


def _cell_features(classifier: EfficientNetLite0, gray: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Features and luminance (n, c) of each cell of a photo (1, 1, H, W), and the cells' grid."""
    scale = SIDE / min(gray.shape[-2:])
    rows, columns = (min(max(1, round(side * scale / CELL)), SIDE // CELL * LONGEST) for side in gray.shape[-2:])
    grid, size = (rows, columns), (rows * CELL, columns * CELL)
    photo = F.interpolate(gray, size, mode="bilinear", antialias=True)
    buffer = next(classifier.buffers())
    maps = classifier(photo.expand(-1, 3, -1, -1).to(buffer.device, buffer.dtype))
    cells = [F.interpolate(m.float().cpu(), grid, mode="bilinear")[0].flatten(1).T for m in maps]
    luma = F.interpolate(gray, grid, mode="bilinear", antialias=True).flatten()[:, None]
    return torch.cat([*cells, luma], 1), grid


@torch.no_grad()
def reference_hints(classifier: EfficientNetLite0, gray: Tensor, reference: Tensor) -> Tensor:
    """Soft hints (B, 3, h, w) for grey photos (B, 1, H, W) from a colour picture (1 or B, 3, any H, any W), in [0, 1].

    The mask is a cell's similarity to its match: 0 where the reference has nothing similar.
    Raises ValueError for any other number of reference pictures.
    """
    if len(reference) not in (1, len(gray)):
        raise ValueError(f"{len(reference)} reference pictures for {len(gray)} photos: give one, or one each")
    maps = []
    for photo, picture in zip(gray.cpu().split(1), reference.cpu().expand(len(gray), -1, -1, -1).split(1)):
        features, grid = _cell_features(classifier, photo)
        reference_features, reference_grid = _cell_features(classifier, luminance(picture))
        chroma = F.interpolate(rgb_to_ycbcr(picture)[:, 1:], reference_grid, mode="bilinear", antialias=True)
        similarity = -LIGHTNESS * (features[:, -1:] - reference_features[:, -1]).abs()
        mean = torch.cat([features, reference_features]).mean(0)  # common to all cells, so it does not distinguish them
        levels = ((x - mean).split((*CHANNELS, 1), dim=1)[: len(CHANNELS)] for x in (features, reference_features))
        for a, b in zip(*levels):
            similarity += F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / len(CHANNELS)
        best = similarity.amax(1)
        weights = (similarity / TEMPERATURE).softmax(1)
        transferred = (weights @ chroma[0].flatten(1).T).T.view(1, 2, *grid)
        mask = ((best - UNLIKE) / (ALIKE - UNLIKE)).clamp(0, 1).view(1, 1, *grid)
        maps.append(_fit(photo, torch.cat([transferred, mask], 1)))
    return torch.cat(maps)


def _fit(gray: Tensor, hint_map: Tensor) -> Tensor:
    """A coarse hint map (1, 3, h, w) fitted to the edges of a photo (1, 1, H, W), at its `refined_size`."""
    size = refined_size(size_of(gray))
    photo = F.interpolate(gray, size, mode="bilinear", antialias=True)
    chroma, mask = F.interpolate(hint_map, size, mode="bilinear").split((2, 1), dim=1)
    chroma = propagate(photo, torch.cat([chroma, SMOOTH * mask.clamp_min(1e-3)], 1))[0]
    return torch.cat([chroma, mask.clamp(0, 1)], 1)
