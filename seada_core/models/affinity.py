"""How far a hint's colour reaches: affinities between the places of a photo, learned from which of them share colours.

Two places that have the same colour in a colour photo belong together, and so do the places of a segment that is given
another colour; every photo has thousands of such pairs. A hint acts on a place as attention does (Vaswani et al. 2017):
by the distance of their embeddings and by their distance in the photo, against a share that stays as it is.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..color.sizes import size_of
from ..presets import AffinityConfig
from .efficientnet import EfficientNetLite

CELL = 4  # px of the photo at the affinity's own size
LEVELS = (2, 4, 6)  # of the classifier's maps: at 1/4, 1/8 and 1/16 of the photo, which it sees twice as large
CHANNELS = (40, 112, 320)
DEVIATIONS = (4.0, 5.8, 2.7)  # bring these maps to unit scale
FARTHEST = 1e4  # a distance that no embedding reaches


# embeddings (B, heads, dims, h, w), and the logits (B, heads, h, w) of no hint and of the heads
Embedded = tuple[Tensor, Tensor, Tensor]


@torch.no_grad()
def classifier_maps(gray: Tensor, classifier: EfficientNetLite) -> list[Tensor]:
    """A classifier's maps of grey photos (B, 1, H, W) in [0, 1], H and W multiples of 16, of about unit deviation:
    (B, 40, H / 4, W / 4), (B, 112, H / 8, W / 8), (B, 320, H / 16, W / 16)."""
    maps = classifier.levels(F.interpolate(gray.expand(-1, 3, -1, -1), scale_factor=2, mode="bilinear"))
    return [maps[level] / scale for level, scale in zip(LEVELS, DEVIATIONS)]


class Residual(nn.Module):
    """Two convolutions on (B, C, h, w); at the start they change nothing."""

    def __init__(self, channels: int):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.get_parameter("bias"))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(F.silu(x))))


class Affinity(nn.Module):
    """Embeddings of a photo's cells, and how much of each hint arrives at each cell."""

    def __init__(self, config: AffinityConfig):
        super().__init__()
        self.config = config
        width, heads = config.width, config.heads
        self.stem = nn.Sequential(nn.Conv2d(1, config.stem, 3, 2, 1), nn.SiLU(), nn.Conv2d(config.stem, width, 3, 2, 1))
        self.maps = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in CHANNELS)
        self.coarse, self.middle = Residual(width), Residual(width)
        self.fine = nn.Sequential(Residual(width), Residual(width))
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        nn.init.zeros_(self.attention.out_proj.weight)
        self.out = nn.Conv2d(width, heads * (config.dims + 2), 3, padding=1)
        self.log_distance_weight = nn.Parameter(torch.linspace(-2, 2.5, heads))

    def embed(self, gray: Tensor, classifier: EfficientNetLite) -> Embedded:
        """Of grey photos (B, 1, H, W) in [0, 1], H and W multiples of 16, for cells of `CELL` px.

        The classifier is the controller's.
        """
        return self(gray, classifier_maps(gray, classifier))

    def forward(self, gray: Tensor, maps: list[Tensor]) -> Embedded:
        """See `embed`; maps: the classifier's, (B, 40, H / 4, W / 4), (B, 112, H / 8, W / 8), (B, 320, H / 16, W / 16),
        over `DEVIATIONS`."""

        def enlarged(x: Tensor, like: Tensor) -> Tensor:
            return F.interpolate(x, size=size_of(like), mode="bilinear")

        x = self.coarse(self.maps[2](maps[2]))
        tokens = self.norm(x.flatten(2).mT)
        tokens, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        x = x + tokens.mT.reshape(x.shape)
        x = self.middle(enlarged(x, maps[1]) + self.maps[1](maps[1]))
        stem = self.stem(gray * 2 - 1)
        x = self.fine(enlarged(x, stem) + self.maps[0](maps[0]) + stem)
        heads, dims = self.config.heads, self.config.dims
        embeddings, none, mixed = self.out(F.silu(x)).float().split([heads * dims, heads, heads], dim=1)
        return embeddings.unflatten(1, (heads, dims)), none, mixed

    def shares(self, embedded: Embedded, places: Tensor, valid: Tensor, bias: Tensor | None = None) -> Tensor:
        """How much of each hint arrives at each cell, (B, N, h, w) in [0, 1]; over all hints at most 1.

        Args:
            embedded: what `embed` returns.
            places: (B, N, 2) rows and columns of the hints' cells.
            valid: (B, N), False for what only fills up the batch.
            bias: (B, N), added to the hints' logits: hints of a higher one reach further.
        """
        _, none, mixed = embedded
        logits = self.logits(embedded[0], places, valid, bias)
        attention = torch.cat([logits, none.flatten(2)[:, :, None]], dim=2).softmax(2)[:, :, :-1]
        return (attention * mixed.flatten(2).softmax(1)[:, :, None]).sum(1).unflatten(2, size_of(none))

    def logits(self, embeddings: Tensor, places: Tensor, valid: Tensor, bias: Tensor | None = None) -> Tensor:
        """Of hints at cells, (B, heads, N, h w); embeddings: the first that `embed` returns; see `shares`."""
        height, width = size_of(embeddings)
        cells = embeddings.flatten(3)  # (B, heads, dims, cells)
        index = (places[..., 0] * width + places[..., 1])[:, None, None]
        hints = cells.gather(3, index.expand(-1, *cells.shape[1:3], -1))
        apart = cells.square().sum(2)[:, :, None] + hints.square().sum(2)[..., None] - 2 * hints.mT @ cells
        apart = apart.clamp_min(0) / self.config.dims**0.5
        rows, columns = (torch.arange(n, device=cells.device, dtype=cells.dtype) for n in (height, width))
        down, across = places[..., 0, None, None] - rows[:, None], places[..., 1, None, None] - columns
        distance = (down.square() + across.square()).flatten(2).add(1e-6).sqrt() / min(height, width)
        logits = -apart - self.log_distance_weight.exp()[:, None, None] * distance[:, None]
        if bias is not None:
            logits = logits + bias[:, None, :, None]
        return logits.masked_fill(~valid[:, None, :, None], -FARTHEST)
