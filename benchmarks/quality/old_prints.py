"""Simulated old prints, as they are and as the model sees them: `python -m benchmarks.quality.old_prints --data SHARD`.

Photos of 400 to 800 px (small ones are enlarged) are made into grainy, faded, dithered and printed ones. Measured at
the size that is diffused: the mean distance of a* and b* from the truth, and from the colours that the same model gives
the clean photo, with one caption; and chroma speckle. Changes have 95 % intervals (bootstrap over photos).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from benchmarks import Table
from seada_core import Colorizer
from seada_core.color import prints
from seada_core.color.merging import merge_chroma
from seada_core.color.sizes import diffusion_size, resize
from seada_core.color.spaces import rgb_to_lab
from seada_core.evaluate import sources
from seada_core.evaluate.summary import bootstrap

SIDES = 400, 500, 600, 800  # longest sides of the prints, in turns, px
BATCH = 8
MEASURES = "Δab from the clean photo's", "Δab from the truth", "speckle of a* and b*"

Age = Callable[[np.ndarray, np.random.Generator], np.ndarray]  # of grey photos (H, W), uint8


def grain(deviation: float) -> Age:
    """White noise, of 255."""
    return lambda gray, rng: np.clip(gray + rng.normal(0, deviation, gray.shape), 0, 255).astype(np.uint8)


def faded(gray: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Tones between 110 and 199 of 255."""
    return (110 + gray * 0.35).astype(np.uint8)


def diamonds(gray: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A screen of 5 px, black on white, as a computer makes it."""
    y, x = np.mgrid[: gray.shape[0], : gray.shape[1]]
    screen = np.sin((x + y) * np.pi / 5) * np.sin((x - y) * np.pi / 5)
    return np.where(gray / 127.5 - 1 > screen, 245, 15).astype(np.uint8)


def _screen(shape: tuple[int, ...], rng: np.random.Generator, fine: int = 1) -> tuple[np.ndarray, np.ndarray, float]:
    """Coordinates along a screen's rows and across them, in dots, `fine` to a pixel each way; their distance, px."""
    period = max(3.0, rng.uniform(1.8, 6) * min(shape) / 192)
    angle = np.deg2rad(rng.choice([0, 15, 30, 45]) + rng.uniform(-3, 3))
    y, x = (np.mgrid[: shape[0] * fine, : shape[1] * fine] + 0.5) / fine / period
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle), period


def dots(gray: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A screen of any distance and angle, black on white."""
    u, v, _ = _screen(gray.shape, rng)
    screen = (np.cos(2 * np.pi * u) + np.cos(2 * np.pi * v)) / 2
    return np.where(gray / 127.5 - 1 > screen, 245, 15).astype(np.uint8)


def press(gray: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A scan of a printed page: round dots, as large as it is dark there, spread ink that is not quite black, paper."""
    fine, soft = 3, 0.7
    u, v, period = _screen(gray.shape, rng, fine)
    du, dv = u - np.floor(u) - 0.5, v - np.floor(v) - 0.5
    tone = _blurred(gray / 255, period / 3).repeat(fine, 0).repeat(fine, 1)
    dark = np.clip((1 - tone) ** 1.1, 0.02, 0.98)
    hole = np.hypot(0.5 - np.abs(du), 0.5 - np.abs(dv)) > np.sqrt((1 - dark) / np.pi)
    ink = np.where(dark <= 0.5, np.hypot(du, dv) < np.sqrt(dark / np.pi), hole).astype(float)
    ink = _blurred(ink.reshape(gray.shape[0], fine, gray.shape[1], fine).mean((1, 3)), soft)
    paper = 222 + _blurred(rng.normal(0, 12, gray.shape), 1.0)
    return np.clip(paper + (38 - paper) * ink + rng.normal(0, 2, gray.shape), 0, 255).astype(np.uint8)


def dithered(gray: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Black and white alone, by Floyd and Steinberg."""
    return np.array(Image.fromarray(gray).convert("1").convert("L"))


PRINTS: dict[str, Age] = {
    "grain, sigma 25": grain(25),
    "grain, sigma 12": grain(12),
    "halftone, diamonds of 5 px": diamonds,
    "halftone, any screen": dots,
    "halftone, a scanned page": press,
    "faded": faded,
    "dithered to black and white": dithered,
}


def _blurred(values: np.ndarray, deviation: float) -> np.ndarray:
    return prints.blurred(torch.from_numpy(values)[None, None], deviation)[0, 0].numpy()


def _gray(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values)[None, None].float() / 255


class Photo:
    """A photo, its true colours, and those that the model gives it, at the size that is diffused."""

    def __init__(self, image: Image.Image, number: int, colorizer: Colorizer):
        scale = SIDES[number % len(SIDES)] / max(image.size)
        image = image.resize([round(side * scale) for side in image.size], Image.Resampling.BICUBIC)
        self.gray, self.number = np.array(image.convert("L")), number
        self.size = diffusion_size(self.gray.shape, colorizer.preset.sampling.size)
        self.small = resize(_gray(self.gray), self.size)
        rgb = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
        self.truth = rgb_to_lab(F.adaptive_avg_pool2d(rgb, self.size).double())[0, 1:]
        self.text = colorizer.caption(self.small)[0]
        self.clean = self.truth

    def colors(self, chroma: Tensor) -> Tensor:
        """a* and b* (2, h, w) of chroma over the clean photo's luminance."""
        return rgb_to_lab(merge_chroma(chroma, self.small).double())[0, 1:]

    def measured(self, colors: Tensor) -> list[float]:
        """`MEASURES` of a* and b*."""
        neighbours = F.avg_pool2d(colors[None], 9, 1, 4, count_include_pad=False)[0]
        differences = colors - self.clean, colors - self.truth, colors - neighbours
        return [float(difference.norm(dim=0).mean()) for difference in differences]


def colored(colorizer: Colorizer, photos: list[Photo], seen: list[Tensor]) -> list[Tensor]:
    """a* and b* (2, h, w) of the photos from what the model sees of them, unchanged."""
    found: dict[int, Tensor] = {}
    for size in sorted({photo.size for photo in photos}):
        these = [k for k, photo in enumerate(photos) if photo.size == size]
        for chunk in (these[at : at + BATCH] for at in range(0, len(these), BATCH)):
            with mock.patch.object(prints, "restored", lambda gray, size, device: gray):
                texts = tuple(photos[k].text for k in chunk)
                maps = colorizer.chroma(torch.cat([seen[k] for k in chunk]), prompt=texts, size=min(size))
            found |= {k: photos[k].colors(one.float().cpu()) for k, one in zip(chunk, maps.split(1))}
    return [found[k] for k in range(len(photos))]


def row(photos: list[Photo], colors: list[Tensor]) -> np.ndarray:
    """`MEASURES` of each photo (N, 3)."""
    return np.array([photo.measured(one) for photo, one in zip(photos, colors)])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", nargs="+", required=True, help="colour photos: folders or shards")
    parser.add_argument("--count", type=int, default=24, help="photos of all, evenly taken")
    parser.add_argument("--only", choices=tuple(PRINTS), nargs="+", default=tuple(PRINTS), help="these prints")
    parser.add_argument("--name", default="old_prints", help="of the JSON file")
    parser.add_argument("--model", default="mini")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    colorizer, photos = Colorizer.from_pretrained(options.model), []
    entries = [entry for source in options.data for entry in sources.find(source)]
    for number, entry in enumerate(entries[:: max(1, len(entries) // options.count)][: options.count]):
        photos.append(Photo(entry.load(), number, colorizer))
    table = Table(options.name, f"{len(photos)} photos of {SIDES[0]} to {SIDES[-1]} px", ["without", "with", "change"])
    plain = colored(colorizer, photos, [photo.small for photo in photos])
    for photo, colors in zip(photos, plain):
        photo.clean = colors
    for name, colors in {"clean": plain, "grey": [torch.zeros_like(one) for one in plain]}.items():
        for what, value in zip(MEASURES, row(photos, colors).mean(0)):
            table.add(f"{name}: {what}", float(value), None, None)
    for name in options.only:
        old = [_gray(PRINTS[name](photo.gray, np.random.default_rng(photo.number))) for photo in photos]
        seen = [resize(gray, photo.size) for gray, photo in zip(old, photos)]
        cleaned = [prints.restored(gray, photo.size, torch.device("cpu")) for gray, photo in zip(old, photos)]
        without = colored(colorizer, photos, seen)
        changed = [k for k in range(len(photos)) if not torch.equal(seen[k], cleaned[k])]
        after = list(without)
        for k, colors in zip(changed, colored(colorizer, [photos[k] for k in changed], [cleaned[k] for k in changed])):
            after[k] = colors
        before, now = row(photos, without), row(photos, after)
        for k, what in enumerate(MEASURES):
            low, high = bootstrap(lambda drawn: float(drawn.mean()), now[:, k] - before[:, k])
            change = f"{(now - before)[:, k].mean():+.2f} ({low:+.2f} to {high:+.2f})"
            table.add(f"{name}: {what}", float(before[:, k].mean()), float(now[:, k].mean()), change)
    return 0


if __name__ == "__main__":
    sys.exit(main())
