"""What a model sees of old prints: without a halftone's screen, and with the full range of tones.

Only the picture that is diffused and decoded is changed, never the luminance of the result. A clean photo stays
exactly as it is. Grain stays too: the model has learned from grainy photos, and nothing that was tried against it
brought their colours reliably nearer to those of the clean photo (python -m benchmarks.quality.old_prints).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .sizes import decode_size, resize, size_of

FADED = 0.55  # range of tones, from the 1st to the 99th percentile, below which they are stretched
DARKEST, LIGHTEST = 0.04, 0.93  # what faded tones are stretched to
FINE = 2  # short side of the picture in which screens are found and removed, of that which is diffused
BLUR = 0.55  # deviation of the Gaussian that removes a screen, of the distance of its dots
SCREENED = 0.045  # share of the spectrum that each direction of a screen has at least
COARSE = 0.005  # deviation of the noise below which a pattern has no sharp dots
_LOWEST, _PEAK = 0.05, 3  # lowest frequency of screens, 1/px; radius of a peak, steps
_BLOCK, _SMOOTH = 8, 0.3  # side of blocks in which noise is measured, px; the share of them that is smoothest


def restored(gray: Tensor, size: tuple[int, int], device: torch.device) -> Tensor:
    """Photos (B, 1, H, W) in [0, 1] at the (height, width) that is diffused, without screens and fading.

    Screens are removed before photos are scaled down, which would turn their dots into moire.
    """
    small = resize(gray, size).to(device)
    fine = resize(gray, decode_size(size_of(gray), FINE * min(size))).to(device)
    photos = [_restored(*photo) for photo in zip(small.split(1), fine.split(1))]
    return torch.cat(photos) if len(photos) > 1 else photos[0]


def _restored(small: Tensor, fine: Tensor) -> Tensor:
    dots = screen(fine)
    if dots is not None:
        small = resize(blurred(fine, BLUR * dots), size_of(small))
    values = small.flatten()[:: max(1, small.numel() // 2**20)]
    low, high = (float(torch.quantile(values, share)) for share in (0.01, 0.99))
    if 0.02 < high - low < FADED:
        small = (DARKEST + (small - low) * ((LIGHTEST - DARKEST) / (high - low))).clamp(0, 1)
    return small


def noise(gray: Tensor) -> float:
    """The deviation of white noise in a photo (1, 1, h, w): of what a second difference in both directions leaves
    (Immerkaer 1996), in the smoothest blocks; 0 of a tiny photo, which has no such blocks."""
    if min(size_of(gray)) < 2 * _BLOCK:
        return 0.0
    kernel = gray.new_tensor([[1, -2, 1], [-2, 4, -2], [1, -2, 1]])[None, None]
    left = F.conv2d(gray.float(), kernel.float()).abs()
    blocks = F.avg_pool2d(left, _BLOCK).flatten().sort().values
    smooth = blocks[: max(1, round(_SMOOTH * len(blocks)))]
    return float(smooth.mean()) * math.sqrt(math.pi / 2) / 6


def screen(gray: Tensor) -> float | None:
    """The distance of the dots of a halftone in a photo (1, 1, h, w), px; None without a screen.

    Its two frequencies, at right angles, stand out from the spectrum, whose power, times the frequency squared, is even
    in photos. Bricks, cloth and fences have no two such peaks.
    """
    height, width = gray.shape[-2:]
    if noise(gray) < COARSE:
        return None
    window = torch.outer(torch.hann_window(height, device=gray.device), torch.hann_window(width, device=gray.device))
    down = torch.fft.fftfreq(height, device=gray.device)[:, None]
    across = torch.fft.fftfreq(width, device=gray.device)[None]
    radius = (down**2 + across**2).sqrt()
    peaks = torch.fft.fft2((gray[0, 0].float() - gray.mean()) * window).abs() ** 2 * radius
    power = peaks * radius
    whole = float(power.sum())
    if whole == 0:
        return None

    def around(y: float, x: float, reach: float) -> Tensor:
        return torch.minimum((down - y) ** 2 + (across - x) ** 2, (down + y) ** 2 + (across + x) ** 2) <= reach**2

    def highest(among: Tensor) -> tuple[float, float]:
        row, column = divmod(int((peaks * among).argmax()), width)
        return float(down[row, 0]), float(across[0, column])

    inside = (radius >= _LOWEST) & (radius <= 0.5)
    y, x = highest(inside)
    found = (y, x), highest(inside & around(-x, y, 0.25 * math.hypot(y, x)))
    shares = [float(power[around(*peak, _PEAK / min(height, width))].sum()) / whole for peak in found]
    return 1 / min(math.hypot(*peak) for peak in found) if min(shares) >= SCREENED else None


def blurred(gray: Tensor, deviation: float) -> Tensor:
    """A picture (1, 1, h, w), continued by its edges, convolved with a Gaussian."""
    reach = math.ceil(3 * deviation)
    kernel = torch.exp(-(torch.arange(-reach, reach + 1, device=gray.device) ** 2) / (2 * deviation**2)).to(gray)
    kernel = kernel / kernel.sum()
    padded = F.pad(gray, (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))
