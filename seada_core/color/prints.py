"""What a model sees of old prints: without grain and screens, and with the full range of tones.

Only the picture that is diffused and decoded is changed, never the luminance of the result. A clean photo stays
exactly as it is.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .sizes import size_of

NOISY = 0.0185  # deviation of the noise, of 1, from which it is removed
FADED = 0.55  # range of tones, from the 1st to the 99th percentile, below which they are stretched
DARKEST, LIGHTEST = 0.04, 0.93  # what faded tones are stretched to
BLUR = 1.0  # deviation of the Gaussian that removes noise, px: fine detail of such photos misleads more than it tells
SCREENED = 0.055  # share of the spectrum that each direction of a screen has at least
COARSE = 0.005  # deviation of the noise below which a pattern has no sharp dots
NOTCH = 0.3  # deviation of what is removed around a screen's frequency, of that frequency
_LOWEST, _HARMONICS, _PEAK = 0.07, 3, 3  # frequencies of screens, 1/px; their multiples; radius of a peak, steps
_MARGIN = 24  # by which a picture is continued, px
_BLOCK, _SMOOTH = 8, 0.3  # side of blocks in which noise is measured, px; the share of them that is smoothest


def restored(gray: Tensor) -> Tensor:
    """Photos (B, 1, h, w) in [0, 1] at the size that is diffused, each as it would be without grain and fading."""
    return torch.cat([_restored(one) for one in gray.split(1)]) if len(gray) > 1 else _restored(gray)


def _restored(gray: Tensor) -> Tensor:
    if min(gray.shape[-2:]) < 2 * _BLOCK:
        return gray
    grain = noise(gray)
    dots = screen(gray) if grain >= COARSE else None
    if dots is not None:
        gray = _without_screen(gray, dots)
    elif grain >= NOISY:
        gray = _blurred(gray)
    low, high = (float(torch.quantile(gray.flatten()[:: max(1, gray.numel() // 2**20)], q)) for q in (0.01, 0.99))
    if 0.02 < high - low < FADED:
        gray = (DARKEST + (gray - low) * ((LIGHTEST - DARKEST) / (high - low))).clamp(0, 1)
    return gray


def noise(gray: Tensor) -> float:
    """The deviation of white noise in a photo (1, 1, h, w): of what a second difference in both directions leaves
    (Immerkaer 1996), in the smoothest blocks."""
    kernel = gray.new_tensor([[1, -2, 1], [-2, 4, -2], [1, -2, 1]])[None, None]
    left = F.conv2d(gray.float(), kernel.float()).abs()
    blocks = F.avg_pool2d(left, _BLOCK).flatten().sort().values
    smooth = blocks[: max(1, round(_SMOOTH * len(blocks)))]
    return float(smooth.mean()) * math.sqrt(math.pi / 2) / 6


Frequency = tuple[float, float]  # down and across, 1/px


def screen(gray: Tensor) -> tuple[Frequency, Frequency] | None:
    """The two frequencies of a halftone's screen in a photo (1, 1, h, w), at right angles; None without one.

    They stand out from the spectrum, whose power, times the frequency squared, is even in photos. Bricks, cloth and
    fences have no two such peaks. Photos that are not larger than the margin of `_without_screen` have none either.
    """
    height, width = gray.shape[-2:]
    if min(height, width) <= _MARGIN:
        return None
    window = torch.outer(torch.hann_window(height, device=gray.device), torch.hann_window(width, device=gray.device))
    down, across = _frequencies(height, width, gray.device)
    radius = (down**2 + across**2).sqrt()
    power = torch.fft.fft2((gray[0, 0].float() - gray.mean()) * window).abs() ** 2 * radius**2
    whole = float(power.sum())
    if whole == 0:
        return None

    def around(y: float, x: float, reach: float) -> Tensor:
        return torch.minimum((down - y) ** 2 + (across - x) ** 2, (down + y) ** 2 + (across + x) ** 2) <= reach**2

    def highest(among: Tensor) -> Frequency:
        row, column = divmod(int((power * among).argmax()), width)
        return float(down[row, 0]), float(across[0, column])

    inside = (radius >= _LOWEST) & (radius <= 0.5)
    y, x = highest(inside)
    found = (y, x), highest(inside & around(-x, y, 0.25 * math.hypot(y, x)))
    shares = [float(power[around(*peak, _PEAK / min(height, width))].sum()) / whole for peak in found]
    return found if min(shares) >= SCREENED else None


def _without_screen(gray: Tensor, dots: tuple[Frequency, Frequency]) -> Tensor:
    """A photo without what is near the frequencies of a screen and their multiples and sums."""
    padded = F.pad(gray.float(), (_MARGIN,) * 4, mode="reflect")
    down, across = _frequencies(*size_of(padded), gray.device)
    (y, x), (v, u) = dots
    width, kept = NOTCH * math.hypot(y, x), torch.ones_like(down + across)
    for i in range(-_HARMONICS, _HARMONICS + 1):
        for j in range(-_HARMONICS, _HARMONICS + 1):
            fy, fx = i * y + j * v, i * x + j * u
            if (i or j) and max(abs(fy), abs(fx)) < 0.5 + width:
                kept = kept * (1 - torch.exp(-((down - fy) ** 2 + (across - fx) ** 2) / (2 * width**2)))
    plain = torch.fft.ifft2(torch.fft.fft2(padded) * kept).real
    return plain[..., _MARGIN:-_MARGIN, _MARGIN:-_MARGIN].clamp(0, 1).to(gray.dtype)


def _frequencies(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Those of a spectrum, 1/px: down (h, 1) and across (1, w)."""
    return torch.fft.fftfreq(height, device=device)[:, None], torch.fft.fftfreq(width, device=device)[None]


def _blurred(gray: Tensor) -> Tensor:
    reach = math.ceil(3 * BLUR)
    kernel = torch.exp(-(torch.arange(-reach, reach + 1, device=gray.device) ** 2) / (2 * BLUR**2)).to(gray)
    kernel = kernel / kernel.sum()
    padded = F.pad(gray, (reach,) * 4, mode="reflect")
    return F.conv2d(F.conv2d(padded, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))
