"""Colour spaces, gamut, and the chroma of one picture on the luminance of another.

Pictures are float tensors `(..., 3, H, W)` of gamma-encoded sRGB in [0, 1]. Luminance is BT.601 luma of the encoded
values, PIL's "L"; chroma is (Cb, Cr) of full-range JPEG YCbCr, centred at 0, in [-0.5, 0.5]. Nothing here clips unless
it says so, and everything but `merge_tiled` is differentiable.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

# ITU-R BT.709 primaries with a D65 white, linear RGB to XYZ (Y of white = 1).
RGB_TO_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
XYZ_TO_RGB = tuple(map(tuple, np.linalg.inv(np.array(RGB_TO_XYZ)).tolist()))
# The white of that very matrix rather than the rounded D65 of the tables, so that greys have a* = b* = 0.
WHITE = tuple(sum(row) for row in RGB_TO_XYZ)

# BT.601 luma and the full-range chroma of JFIF.
KR, KG, KB = 0.299, 0.587, 0.114
CB, CR = 2 * (1 - KB), 2 * (1 - KR)  # B = Y + CB Cb, R = Y + CR Cr

_LAB_DELTA = 6 / 29

# Guided chroma upsampling, tuned on Kodak24: luma difference (0 to 1) at which a sample's say halves, ridge of the
# local regression of chroma on luma, and how much of the blur of averaging is undone.
RANGE, RIDGE, SHARPEN = 0.1, 0.02, 0.6
TILE = 512  # px a side: a tile's maps stay in the processor's cache

Crop = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


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


def gamut_scale(y: Tensor, cbcr: Tensor) -> Tensor:
    """The largest s <= 1 for which s * (Cb, Cr) at luma `y` lies within RGB [0, 1].

    `y` `(..., 1, H, W)`, `cbcr` `(..., 2, H, W)` -> `(..., 1, H, W)`. In closed form: of the three channels' offsets
    from `y`, the largest may reach 1 and the smallest 0. Luma outside [0, 1] counts as its nearest bound.
    """
    cb, cr = _channels(cbcr, 2)
    y = y.clamp(0, 1)
    offsets = (CR * cr, -(KB * CB / KG) * cb - (KR * CR / KG) * cr, CB * cb)
    over = torch.maximum(torch.maximum(offsets[0], offsets[1]), offsets[2]).unsqueeze(-3)
    under = torch.minimum(torch.minimum(offsets[0], offsets[1]), offsets[2]).unsqueeze(-3).neg()
    one = torch.ones_like(over)
    up = torch.where(over > 1 - y, (1 - y) / torch.where(over > 0, over, one), one)
    down = torch.where(under > y, y / torch.where(under > 0, under, one), one)
    return torch.minimum(up, down)


def to_gamut(y: Tensor, cbcr: Tensor) -> Tensor:
    """Chroma pulled into RGB's gamut at constant luma and hue: `(..., 2, H, W)`, unchanged where it already fits."""
    return cbcr * gamut_scale(y, cbcr)


def merge(chroma_rgb: Tensor, gray: Tensor) -> Tensor:
    """The chroma of `chroma_rgb` `(..., 3, h, w)` with the luminance `gray` `(..., 1, H, W)` -> RGB `(..., 3, H, W)`.

    See `merge_chroma`.
    """
    return merge_chroma(rgb_to_ycbcr(chroma_rgb)[..., 1:, :, :], gray)


def merge_chroma(cbcr: Tensor, gray: Tensor) -> Tensor:
    """RGB `(..., 3, H, W)` in [0, 1] with the luma `gray` `(..., 1, H, W)` and the chroma `cbcr` `(..., 2, h, w)`.

    Chroma of the luma's own size is taken as it is. Smaller chroma is upsampled with the luma as guide (see `_guided`),
    so that colours do not bleed over edges; larger chroma is averaged down. Colours outside the gamut are pulled in at
    constant luma and hue. `gray` outside [0, 1] counts as its nearest bound. Raises ValueError for shapes that do not
    fit.
    """
    _channels(cbcr, 2), _channels(gray, 1)
    if cbcr.shape[:-3] != gray.shape[:-3]:
        raise ValueError(f"batches differ: chroma {tuple(cbcr.shape[:-3])}, luminance {tuple(gray.shape[:-3])}")
    if 0 in cbcr.shape or 0 in gray.shape:
        raise ValueError(f"empty picture: chroma {tuple(cbcr.shape)}, luminance {tuple(gray.shape)}")
    dtype, lead, size = gray.dtype, gray.shape[:-3], tuple(gray.shape[-2:])
    # Half precision has too few bits for eight of luma.
    work = dtype if dtype == torch.float64 else torch.float32
    gray, cbcr = (x.to(work).reshape(-1, *x.shape[-3:]) for x in (gray, cbcr))
    gray = gray.clamp(0, 1)
    cbcr = _shrink(cbcr, size)
    low = None if cbcr.shape[-2:] == size else F.adaptive_avg_pool2d(gray, cbcr.shape[-2:])

    def crop(rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        return cbcr[..., rows[:, None], columns], low[..., rows[:, None], columns]

    bands = []
    for y in range(0, size[0], TILE):
        band = []
        for x in range(0, size[1], TILE):
            tile = gray[..., y : y + TILE, x : x + TILE]
            chroma = (
                cbcr[..., y : y + TILE, x : x + TILE]
                if low is None
                else _guided(crop, tile, (y, x), size, tuple(cbcr.shape[-2:]))
            )
            band.append(_compose(tile, chroma))
        bands.append(torch.cat(band, dim=-1))
    return torch.cat(bands, dim=-2).to(dtype).reshape(*lead, 3, *size)


@torch.no_grad()
def merge_tiled(
    chroma: Tensor | np.ndarray, gray: np.ndarray, tile: int = TILE, dtype: type[np.unsignedinteger] = np.uint8
) -> np.ndarray:
    """`merge_chroma` for photos of any size: in tiles, in memory for little more than the result.

    `gray` is `(H, W)`, uint8 or float in [0, 1]; `chroma` is a float tensor `(2, h, w)` of (Cb, Cr), or a uint8 RGB
    array `(h, w, 3)`. Returns RGB `(H, W, 3)` of `dtype`, np.uint8 or np.uint16, the same for every `tile` (pixels a
    side). The luma of 16 bits, rounded, is `gray`'s, rounded. Raises ValueError for other shapes.
    """
    if gray.ndim != 2 or gray.size == 0:
        raise ValueError(f"expected a (H, W) luminance, got shape {gray.shape}")
    size = gray.shape
    if isinstance(chroma, np.ndarray):
        if chroma.ndim != 3 or chroma.shape[2] != 3 or chroma.dtype != np.uint8 or chroma.size == 0:
            raise ValueError(f"expected a uint8 (h, w, 3) picture, got {chroma.dtype} {chroma.shape}")
        low_size = chroma.shape[:2]
        if low_size[0] > size[0] or low_size[1] > size[1]:
            low_size = (min(low_size[0], size[0]), min(low_size[1], size[1]))
            chroma = np.asarray(Image.fromarray(chroma).resize(low_size[::-1], Image.Resampling.BOX))
    else:
        if chroma.ndim != 3 or chroma.shape[0] != 2 or chroma.numel() == 0:
            raise ValueError(f"expected (2, h, w) chroma maps, got shape {tuple(chroma.shape)}")
        chroma = _shrink(chroma.float().cpu()[None], size)
        low_size = tuple(chroma.shape[-2:])
    low = None if low_size == size else _low_luma(gray, low_size)

    def crop_chroma(rows, columns) -> Tensor:
        if isinstance(chroma, np.ndarray):
            return rgb_to_ycbcr(_to_float(chroma[rows, columns]).permute(2, 0, 1)[None])[:, 1:]
        return chroma[..., rows, columns]

    def crop(rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        index = (rows[:, None].numpy(), columns.numpy())
        return crop_chroma(*index), low[index][None, None]

    out = np.empty((*size, 3), dtype)
    for y in range(0, size[0], tile):
        for x in range(0, size[1], tile):
            window = np.s_[y : y + tile, x : x + tile]
            luma = _to_float(gray[window])[None, None]
            cbcr = crop_chroma(*window) if low is None else _guided(crop, luma, (y, x), size, low_size)
            rgb = _compose(luma, cbcr)[0].permute(1, 2, 0)
            out[window] = rgb.mul_(255).add_(0.5).to(torch.uint8).numpy() if dtype == np.uint8 else _words(rgb, luma)
    return out


def _words(rgb: Tensor, luma: Tensor) -> np.ndarray:
    """RGB `(H, W, 3)` in [0, 1] as uint16, of which green makes up for what rounding the others does to the luma."""
    red, _, blue = rgb.double().mul(65535).round().unbind(-1)
    green = (luma[0, 0].double() * 65535 - KR * red - KB * blue) / KG
    return torch.stack([red, green.round().clamp(0, 65535), blue], dim=-1).numpy().astype(np.uint16)


def _to_float(values: np.ndarray) -> Tensor:
    x = torch.from_numpy(np.array(values))
    return x.float() / 255 if x.dtype == torch.uint8 else x.float().clamp(0, 1)


def _shrink(cbcr: Tensor, size: tuple[int, int]) -> Tensor:
    h, w = cbcr.shape[-2:]
    if h <= size[0] and w <= size[1]:
        return cbcr
    return F.adaptive_avg_pool2d(cbcr, (min(h, size[0]), min(w, size[1])))


def _compose(y: Tensor, cbcr: Tensor) -> Tensor:
    return ycbcr_to_rgb(torch.cat([y, to_gamut(y, cbcr)], dim=-3)).clamp(0, 1)


def _low_luma(gray: np.ndarray, size: tuple[int, int]) -> Tensor:
    """`adaptive_avg_pool2d` of a `(H, W)` array to `size`, a band of rows at a time."""
    height, h = gray.shape[0], size[0]
    out = torch.empty(size)
    step = max(1, TILE * h // height)
    for i in range(0, h, step):
        edges = [(k * height // h, -(-(k + 1) * height // h)) for k in range(i, min(i + step, h))]
        first, last = edges[0][0], edges[-1][1]
        band = F.adaptive_avg_pool2d(_to_float(gray[first:last])[None], (last - first, size[1]))[0]
        out[i : i + step] = torch.stack([band[a - first : b - first].mean(0) for a, b in edges])
    return out


def _taps(start: int, stop: int, n: int, low: int) -> tuple[Tensor, Tensor, Tensor]:
    """For output pixels start..stop of n: the two nearest of `low` pixels (clamped) and the fraction of the second."""
    at = (torch.arange(start, stop, dtype=torch.float64) + 0.5) * (low / n) - 0.5
    first = at.floor()
    return first.long().clamp(0, low - 1), (first.long() + 1).clamp(0, low - 1), (at - first).float()


def _guided(crop: Crop, y: Tensor, origin: tuple[int, int], size: tuple[int, int], low_size: tuple[int, int]) -> Tensor:
    """Chroma `(B, 2, th, tw)` for the tile `y` `(B, 1, th, tw)` at `origin` of a picture of `size`.

    `crop(rows, columns)` gives chroma and luma at low resolution. Joint bilateral upsampling (Kopf et al. 2007) of the
    four nearest chroma samples, weighted by distance and by 1 / (dY^2 + RANGE^2), plus the detail that the local linear
    model of chroma on luma (guided filter, He et al. 2013, at low resolution) predicts from what is left of dY. Chroma
    is sharpened beforehand for what averaging and interpolation blur. Kodak24's chroma averaged down 4x and 16x comes
    back with 42.5 and 35.5 dB (RGB), against 41.1 and 33.9 dB bilinear, 42.4 and 34.6 bicubic.

    Every output pixel depends on the 4 x 4 low-resolution pixels around it only, by the same operations in the same
    order wherever tiles begin: tiling changes no bit.
    """
    rows = _taps(origin[0], origin[0] + y.shape[-2], size[0], low_size[0])
    columns = _taps(origin[1], origin[1] + y.shape[-1], size[1], low_size[1])
    (r0, r1), (c0, c1) = ((int(t[0][0]), int(t[1][-1]) + 1) for t in (rows, columns))
    # One pixel of margin for the 3 x 3 windows, repeated at the picture's edges.
    cbcr, luma = crop(
        torch.arange(r0 - 1, r1 + 1).clamp(0, low_size[0] - 1), torch.arange(c0 - 1, c1 + 1).clamp(0, low_size[1] - 1)
    )

    def mean(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 3, 1)

    def inner(x: Tensor) -> Tensor:
        return x[..., 1:-1, 1:-1]

    mean_y, mean_c = mean(luma), mean(cbcr)
    variance = (mean(luma * luma) - mean_y * mean_y).clamp(min=0)
    slope = (mean(luma * cbcr) - mean_y * mean_c) / (variance + RIDGE)
    # A picture hardly smaller than its luma has lost hardly anything.
    loss = 1 - (low_size[0] * low_size[1]) / (size[0] * size[1])
    sharp = [inner(x) + SHARPEN * loss * (inner(x) - _binomial(x)) for x in (cbcr, luma)]
    samples = torch.cat([*sharp, slope], dim=-3)

    device = y.device
    total = torch.zeros_like(y)
    value = torch.zeros_like(y).repeat(1, 3, 1, 1)
    a = torch.zeros_like(y).repeat(1, 2, 1, 1)
    for j in (0, 1):
        wx = (columns[2] if j else 1 - columns[2]).to(y)
        # Columns first, while the rows are few: then whole rows are copied.
        across = samples.index_select(-1, (columns[j] - c0).to(device))
        for i in (0, 1):
            near = (rows[2] if i else 1 - rows[2]).to(y)[:, None] * wx
            tap = across.index_select(-2, (rows[i] - r0).to(device))
            dy = y - tap[:, 2:3]
            weight = near / (dy * dy + RANGE**2)
            total = total + weight
            value = value + weight * tap[:, :3]
            a = a + near * tap[:, 3:]
    value = value / total
    return value[:, :2] + a * (y - value[:, 2:])


def _binomial(x: Tensor) -> Tensor:
    """(1 2 1)/4 in both directions, without the border."""
    x = (x[..., :-2, :] + 2 * x[..., 1:-1, :] + x[..., 2:, :]) / 4
    return (x[..., :-2] + 2 * x[..., 1:-1] + x[..., 2:]) / 4
