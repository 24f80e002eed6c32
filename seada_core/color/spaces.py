"""Conversions between colour spaces.

Pictures are float tensors `(..., 3, H, W)` of gamma-encoded sRGB in [0, 1]. Luminance is BT.601 luma of the encoded
values, PIL's "L"; chroma is (Cb, Cr) of full-range JPEG YCbCr, centred at 0, in [-0.5, 0.5]. Nothing is clipped, and
all functions are differentiable.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# ITU-R BT.709 primaries with a D65 white, linear RGB to XYZ (Y of white = 1).
RGB_TO_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
XYZ_TO_RGB = tuple(map(tuple, np.linalg.inv(np.array(RGB_TO_XYZ)).tolist()))
# The white point of this matrix rather than the rounded D65 of the tables, so that greys have a* = b* = 0.
WHITE = tuple(sum(row) for row in RGB_TO_XYZ)

# BT.601 luma and the full-range chroma of JFIF.
KR, KG, KB = 0.299, 0.587, 0.114
CB, CR = 2 * (1 - KB), 2 * (1 - KR)  # B = Y + CB Cb, R = Y + CR Cr

_LAB_DELTA = 6 / 29


def _matrix(x: Tensor, rows: tuple[tuple[float, ...], ...]) -> Tensor:
    # Sums of products rather than a matmul: the same in every autocast mode, and never TF32.
    a, b, c = _channels(x, 3)
    return torch.stack([m[0] * a + m[1] * b + m[2] * c for m in rows], dim=-3)


def _channels(x: Tensor, count: int) -> tuple[Tensor, ...]:
    if x.ndim < 3 or x.shape[-3] != count:
        raise ValueError(f"expected a (..., {count}, H, W) tensor, got shape {tuple(x.shape)}")
    return x.unbind(-3)


def srgb_to_linear(rgb: Tensor) -> Tensor:
    """Encoded sRGB to linear light (IEC 61966-2-1); values outside [0, 1] extend the curve smoothly."""
    return torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(linear: Tensor) -> Tensor:
    """The inverse of `srgb_to_linear`."""
    low = 0.04045 / 12.92
    return torch.where(linear <= low, linear * 12.92, 1.055 * linear.clamp(min=low) ** (1 / 2.4) - 0.055)


def linear_to_xyz(linear: Tensor) -> Tensor:
    """Linear RGB `(..., 3, H, W)` to CIE XYZ under D65, Y of white = 1."""
    return _matrix(linear, RGB_TO_XYZ)


def xyz_to_linear(xyz: Tensor) -> Tensor:
    """The inverse of `linear_to_xyz`; colours outside sRGB's gamut leave [0, 1]."""
    return _matrix(xyz, XYZ_TO_RGB)


def xyz_to_lab(xyz: Tensor) -> Tensor:
    """CIE XYZ `(..., 3, H, W)` to L*a*b* (D65): L* in [0, 100], a* and b* about [-110, 110]."""
    t = xyz / xyz.new_tensor(WHITE).view(3, 1, 1)
    cube = _LAB_DELTA**3
    f = torch.where(t > cube, t.clamp(min=cube) ** (1 / 3), t / (3 * _LAB_DELTA**2) + 4 / 29)
    x, y, z = _channels(f, 3)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=-3)


def lab_to_xyz(lab: Tensor) -> Tensor:
    """The inverse of `xyz_to_lab`."""
    lightness, a, b = _channels(lab, 3)
    y = (lightness + 16) / 116
    f = torch.stack([y + a / 500, y, y - b / 200], dim=-3)
    t = torch.where(f > _LAB_DELTA, f**3, 3 * _LAB_DELTA**2 * (f - 4 / 29))
    return t * lab.new_tensor(WHITE).view(3, 1, 1)


def rgb_to_lab(rgb: Tensor) -> Tensor:
    """Encoded sRGB `(..., 3, H, W)` to L*a*b* (D65): L* in [0, 100]."""
    return xyz_to_lab(linear_to_xyz(srgb_to_linear(rgb)))


def lab_to_rgb(lab: Tensor) -> Tensor:
    """The inverse of `rgb_to_lab`; colours outside sRGB's gamut leave [0, 1]."""
    return linear_to_srgb(xyz_to_linear(lab_to_xyz(lab)))


def luminance(rgb: Tensor) -> Tensor:
    """BT.601 luma of encoded sRGB, `(..., 3, H, W)` -> `(..., 1, H, W)`."""
    r, g, b = _channels(rgb, 3)
    return (KR * r + KG * g + KB * b).unsqueeze(-3)


def rgb_to_ycbcr(rgb: Tensor) -> Tensor:
    """Encoded sRGB to full-range JPEG YCbCr: Y in [0, 1], Cb and Cr in [-0.5, 0.5]."""
    r, _, b = _channels(rgb, 3)
    y = luminance(rgb).squeeze(-3)
    return torch.stack([y, (b - y) / CB, (r - y) / CR], dim=-3)


def ycbcr_to_rgb(ycbcr: Tensor) -> Tensor:
    """The inverse of `rgb_to_ycbcr`; combinations outside the gamut leave [0, 1] (see `to_gamut`)."""
    y, cb, cr = _channels(ycbcr, 3)
    return torch.stack([y + CR * cr, y - (KB * CB / KG) * cb - (KR * CR / KG) * cr, y + CB * cb], dim=-3)


def rgb_to_hsl(rgb: Tensor) -> Tensor:
    """Encoded sRGB `(..., 3, H, W)` in [0, 1] to hue (turns; grey has 0), saturation, lightness in [0, 1]."""
    r, g, b = _channels(rgb, 3)
    top, low = rgb.amax(-3), rgb.amin(-3)
    span = top - low
    safe = torch.where(span > 0, span, torch.ones_like(span))
    hue = torch.where(top == r, (g - b) / safe % 6, torch.where(top == g, (b - r) / safe + 2, (r - g) / safe + 4))
    room = 1 - (top + low - 1).abs()
    saturation = torch.where(room > 0, span / torch.where(room > 0, room, torch.ones_like(room)), 0.0)
    return torch.stack([torch.where(span > 0, hue / 6, 0.0), saturation, (top + low) / 2], dim=-3)


def hsl_to_rgb(hsl: Tensor) -> Tensor:
    """The inverse of `rgb_to_hsl`; hue may be any real number of turns."""
    h, s, lightness = _channels(hsl, 3)
    a = s * torch.minimum(lightness, 1 - lightness)
    # CSS Color 4: each channel is a clipped triangle wave of hue.
    k = [(n + h * 12) % 12 for n in (0, 8, 4)]
    return torch.stack([lightness - a * torch.minimum(v - 3, 9 - v).clamp(-1, 1) for v in k], dim=-3)
