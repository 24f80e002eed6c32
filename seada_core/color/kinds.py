"""What a photo is besides black and white: coloured already, in parts or wholly, a negative, a document, a drawing."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

SIDE = 400  # longest side of what is looked at, px
_BINS = 16  # of luminance, in each of which a toned print has one colour
_TONED, _COLOR = 9.0, 18.0  # distance of (Cb, Cr), of 255, from the tone's colour: noise below, another colour above
_WHOLLY, _PARTLY = 0.08, 0.002  # shares of the picture that have other colours
_MIDDLE = 0.10  # share of tones between dark and light below which a picture is a document or a drawing
_BILEVEL = 0.97  # share of black and white from which there is nothing between

COLORED = "it has colours already, which are replaced; --keep-color leaves such photos as they are"
PARTS = "parts of it have colours already, which are replaced; --keep-color leaves them as they are"
NEGATIVE = "it looks like a colour negative, and is coloured as it is; invert it first"
BILEVEL = "it has black and white dots alone, which hold no colour, so it stays nearly grey; scan it in grey"
DOCUMENT = "it looks like a document or a drawing, and is coloured as if it were a photo"


def notices(pixels: np.ndarray, keep: bool = False) -> list[str]:
    """What is assumed of a photo, in words, one line each; of uint8, uint16 or float pixels as `Picture` has them.

    keep: whether colours that are there already are kept.
    """
    small, sharp = _seen(pixels)
    found = []
    if small.ndim == 3:
        share = float(_distinct(small).mean())
        if _is_orange_mask(small):
            found.append(NEGATIVE)
        elif share >= _PARTLY and not keep:
            found.append(COLORED if share >= _WHOLLY else PARTS)
    if _is_document(sharp):
        found.append(DOCUMENT)
    elif float(((sharp < 0.06) | (sharp > 0.94)).mean()) > _BILEVEL:
        found.append(BILEVEL)
    return found


def is_colored(pixels: np.ndarray) -> bool:
    """Whether most of a picture has colours already; toned prints, such as sepia, have one, and do not count."""
    small, _ = _seen(pixels)
    return small.ndim == 3 and float(_distinct(small).mean()) >= _WHOLLY


def colored_parts(pixels: np.ndarray) -> np.ndarray | None:
    """How far each pixel of RGB `(H, W, 3)` has a colour of its own, float32 `(H, W)` from 0 to 1; None without any."""
    if pixels.ndim == 2:
        return None
    eight = pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8)
    distinct = _distinct(eight, _seen(pixels)[0])
    if float(distinct.mean()) < _PARTLY:
        return None
    mask = Image.fromarray((distinct * 255).astype(np.uint8))
    # single pixels are noise; what is between coloured ones belongs to them
    mask = mask.filter(ImageFilter.MedianFilter(3)).filter(ImageFilter.MaxFilter(5)).filter(ImageFilter.BoxBlur(1))
    return np.asarray(mask, np.float32) / 255


def _seen(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A picture at `SIDE`, uint8, and its luminance sampled at that size, not averaged, in [0, 1]."""
    height, width = pixels.shape[:2]
    step = max(1, max(height, width) // SIDE)
    sampled = pixels[::step, ::step]
    if sampled.dtype == np.uint16:
        sampled = (sampled >> 8).astype(np.uint8)
    elif sampled.dtype != np.uint8:
        sampled = (np.clip(sampled, 0, 1) * 255).astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(sampled))
    sharp = np.asarray(image.convert("L"), np.float32) / 255
    return np.asarray(image.filter(ImageFilter.BoxBlur(1))), sharp


def _chroma(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Luma `(H, W)` and (Cb, Cr) `(H, W, 2)`, of 255."""
    ycc = np.asarray(Image.fromarray(rgb).convert("YCbCr"), np.float32)
    return ycc[..., 0], ycc[..., 1:] - 128


def _distinct(rgb: np.ndarray, like: np.ndarray | None = None) -> np.ndarray:
    """How far pixels have a colour that is not the one of their tone, as sepia's is, 0 to 1.

    like: the picture whose tones are those of the print, if it is another than `rgb`.
    """
    luma, chroma = _chroma(rgb if like is None else like)
    edges = np.linspace(0, 256, _BINS + 1)
    which = np.digitize(luma.ravel(), edges[1:-1])
    flat, middle = chroma.reshape(-1, 2), np.zeros((_BINS, 2), np.float32)
    whole = np.median(flat, axis=0)
    for k in range(_BINS):
        inside = flat[which == k]
        middle[k] = np.median(inside, axis=0) if len(inside) >= 20 else whole
    # one tone changes slowly from shadow to light; the colours of things do not
    middle = np.median(np.stack([np.roll(middle, s, axis=0) for s in (-1, 0, 1)]), axis=0)
    if float(np.abs(np.diff(middle[1:-1], axis=0)).max()) > _COLOR:
        middle[:] = 0
    luma, chroma = _chroma(rgb)
    centers = (edges[1:] + edges[:-1]) / 2
    tone = np.stack([np.interp(luma, centers, middle[:, c]) for c in (0, 1)], -1)
    distance = np.hypot(*np.moveaxis(chroma - tone, -1, 0))
    return np.clip((distance - _TONED) / (_COLOR - _TONED), 0, 1)


def _is_orange_mask(rgb: np.ndarray) -> bool:
    """Whether even the darkest tones are orange, as the mask of colour negatives is."""
    low, high = np.percentile(rgb.reshape(-1, 3).astype(np.float32), (2, 98), axis=0)
    return bool(high[0] > 1.25 * high[1] > 1.4 * high[2] and low[0] > 60 and low[0] > 1.3 * low[2])


def _is_document(luma: np.ndarray) -> bool:
    """Whether nearly all is light or dark, and most of it light."""
    low, high = np.percentile(luma, (1, 95))
    if high - low < 0.3 or _is_dithered(luma):
        return False
    tone = (luma - low) / (high - low)
    middle = float(((tone > 0.2) & (tone < 0.8)).mean())
    return middle < _MIDDLE and float((tone >= 0.8).mean()) > 0.6


def _is_dithered(luma: np.ndarray) -> bool:
    """Whether a picture of two tones has the tones of a photo in the mean of neighbours."""
    if len(np.unique(luma)) > 8:
        return False
    mean = np.asarray(Image.fromarray((luma * 255).astype(np.uint8)).filter(ImageFilter.BoxBlur(3))) / 255
    return float(((mean > 0.2) & (mean < 0.8)).mean()) > 0.3
