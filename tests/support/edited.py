"""A stand-in for an edit model: it stretches, crops, shifts, blurs, changes tones and redraws."""

import torch
import torch.nn.functional as F

from seada_core.color.sizes import resize


def edited(picture: torch.Tensor, scale=(1.0, 1.0), shift=(0.0, 0.0), size=(336, 512), redraw=True) -> torch.Tensor:
    """What an edit model makes of a picture (1, 3, H, W): another size, stretched and moved by `shift` px of it,
    softer, and unless `redraw` is off in other tones, noisy, and with some places redrawn."""
    small = resize(picture, size)
    height, width = size
    v, u = ((torch.arange(n) + 0.5) * 2 / n - 1 for n in size)
    v, u = (v - 2 * shift[1] / height) / scale[1], (u - 2 * shift[0] / width) / scale[0]
    grid = torch.stack(torch.meshgrid(v, u, indexing="ij")[::-1], -1)[None]
    moved = F.grid_sample(small, grid, "bicubic", "reflection", align_corners=False)
    moved = F.avg_pool2d(F.pad(moved, [1] * 4, "replicate"), 3, 1)
    if redraw:
        generator = torch.Generator().manual_seed(0)
        moved = 0.1 + 0.8 * moved.clamp(0, 1) ** 0.8 + 0.03 * torch.randn(moved.shape, generator=generator)
        for y, x in ((40, 60), (200, 300), (120, 420)):
            patch = torch.rand(1, 3, 6, 6, generator=generator)
            moved[..., y : y + 60, x : x + 60] = F.interpolate(patch, (60, 60), mode="bicubic")
    return moved.clamp(0, 1)
