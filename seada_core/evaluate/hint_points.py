"""The hints of iColoriT's protocol (Yun et al. 2023): k places with the mean colour of the 2×2 px there, PSNR@k."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..color.spaces import rgb_to_ycbcr
from .protocols import HINT_COUNTS

PATCH = 2
SEED = 1234


def draw(pictures: int, counts: Sequence[int], size: int) -> dict[int, Tensor]:
    """The places of iColoriT's own files for `pictures` pictures in the order of their names: count to (pictures,
    count, 2), the row and column of each patch of a `size`×`size` picture.

    Theirs come from one stream of Python's `random` with seed 1234: count by count in the order of `HINT_COUNTS`, for
    each picture after picture, for each a row and a column. So they depend on how many pictures there are; places may
    coincide, and those of one count are not among the next's. Raises ValueError for other counts.
    """
    unknown = sorted(set(counts) - set(HINT_COUNTS))
    if unknown:
        raise ValueError(f"the protocol has the counts {', '.join(map(str, HINT_COUNTS))}, not {unknown[0]}")
    stream = random.Random(SEED)
    cells = size // PATCH
    places = {}
    for count in HINT_COUNTS[: 1 + max((HINT_COUNTS.index(count) for count in counts), default=-1)]:
        values = [stream.randint(0, cells - 1) for _ in range(2 * count * pictures)]
        if count in counts:
            places[count] = torch.tensor(values, dtype=torch.int16).view(pictures, count, 2)
    return places


def reveal(rgb: Tensor, places: Tensor) -> Tensor:
    """Hint map (3, H, W) of a picture (3, H, W): (Cb, Cr) averaged over each patch of `places` (k, 2), and a mask.

    iColoriT averages (a*, b*); over 2×2 px the two hardly differ. Rows and columns past the last whole patch get none.
    """
    height, width = rgb.shape[-2:]
    mean = F.avg_pool2d(rgb_to_ycbcr(rgb)[None], PATCH)
    mask = torch.zeros_like(mean[:, :1])
    rows, columns = places.long().unbind(-1)
    mask[0, 0, rows, columns] = 1
    hints = torch.cat([mean[:, 1:] * mask, mask], 1).repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3)
    return F.pad(hints, (0, width - hints.shape[-1], 0, height - hints.shape[-2]))[0]
