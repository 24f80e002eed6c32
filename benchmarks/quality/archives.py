"""Tone, crops, frames and old prints, without and with what is done for them: `python -m benchmarks.quality.archives`.

Tone: how far lightness in a colour-managed viewer is from the file's own. Crops: how far a region's colour in a strip,
a panorama and a long scan is from that in a square of the same scale. Frames: how far photos in them are from those
alone. Prints: how far colours of simulated old prints are from the truth and from the clean photo's; their speckle.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageCms

from benchmarks import Table
from seada_core import Colorizer, pages, windows
from seada_core.color import prints
from seada_core.color.merging import merge_tiled
from seada_core.color.spaces import rgb_to_lab
from seada_core.files import pictures, profiles

SIDE = 400  # longest side of the photos, px


@contextlib.contextmanager
def without() -> Iterator[None]:
    """Photos are coloured whole, as they are."""
    with (
        mock.patch.object(pages, "photos", lambda luminance: []),
        mock.patch.object(windows, "is_elongated", lambda photo: False),
        mock.patch.object(prints, "restored", lambda gray: gray),
    ):
        yield


def lab(rgb: np.ndarray | Image.Image) -> np.ndarray:
    """L*a*b* (H, W, 3) of sRGB."""
    tensor = torch.from_numpy(np.array(rgb)).permute(2, 0, 1)[None].double() / 255
    return rgb_to_lab(tensor)[0].permute(1, 2, 0).numpy()


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """The mean distance of L*a*b* colours."""
    return float(np.linalg.norm(a - b, axis=-1).mean())


def speckle(colors: np.ndarray) -> float:
    """The deviation of a* and b* from the mean of their neighbours."""
    planes = torch.from_numpy(colors[..., 1:]).permute(2, 0, 1)[None]
    return float((planes - F.avg_pool2d(planes, 9, 1, 4, count_include_pad=False)).norm(dim=1).mean())


# --- tone -------------------------------------------------------------------------------------------------------------


def tones(table: Table, photo: Image.Image) -> None:
    """L* of files in other spaces: of the values alone, and as they are read."""
    gray = photo.convert("L")
    wide = {"prophoto": (1.8, (0.3457, 0.3585, 0.7347, 0.2653, 0.1596, 0.8404, 0.0366, 0.0001)),
            "adobe": (2.19921875, (0.3127, 0.3290, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06))}  # fmt: skip
    files = {f"grey, gamma {gamma}": (gray, profiles.made(gamma, None)) for gamma in (1.0, 1.8)}
    files |= {f"RGB, {name}": (photo, profiles.made(*space)) for name, space in wide.items()}
    for name, (image, icc) in files.items():
        assert icc is not None
        file = io.BytesIO()
        image.save(file, "PNG", icc_profile=icc)
        source, target = ImageCms.ImageCmsProfile(io.BytesIO(icc)), ImageCms.createProfile("sRGB")
        shown = lab(ImageCms.profileToProfile(image, source, target, outputMode="RGB"))
        naive, read = lab(image.convert("RGB")), pictures.read_bytes(file.getvalue(), name).pixels
        ours = lab(read if read.ndim == 3 else read[..., None].repeat(3, 2))
        table.add(f"tone, {name}: L*", *(float(np.abs(x - shown)[..., 0].mean()) for x in (naive, ours)))
        if read.ndim == 3:
            table.add(f"colour, {name}: ΔE", distance(naive, shown), distance(ours, shown))


# --- crops and frames -------------------------------------------------------------------------------------------------


def crops(table: Table, colorizer: Colorizer, photos: list[np.ndarray]) -> None:
    """A region's colour in long crops, from that in a square of the same scale."""
    found: dict[str, list[list[float]]] = {"strip 1:20": [], "panorama 6:1": [], "scan 1:4": []}
    for gray in photos:
        height, width = gray.shape
        for name, box in {
            "strip 1:20": (height // 2, height // 2 + width // 20, 0, width),
            "panorama 6:1": (height // 3, height // 3 + width // 6, 0, width),
            "scan 1:4": (0, height, width // 2, width // 2 + height // 4),
        }.items():
            top, bottom, left, right = box
            crop = np.ascontiguousarray(gray[top:bottom, left:right])
            side, long = min(crop.shape), max(crop.shape)
            at = (long - side) // 2
            window = np.s_[:, at : at + side] if crop.shape[1] == long else np.s_[at : at + side]
            square = lab(colorizer(Image.fromarray(np.ascontiguousarray(crop[window]))))
            row = []
            for how in (without, contextlib.nullcontext):
                with how():
                    row.append(distance(lab(colorizer(Image.fromarray(crop)))[window], square))
            found[name].append(row)
    for name, rows in found.items():
        table.add(f"{name}: ΔE from the square", *np.mean(rows, 0).tolist())


def frames(table: Table, colorizer: Colorizer, photos: list[np.ndarray]) -> None:
    """Photos within frames and on a page, from those alone."""
    for name, ground, margin in (("white frame", 250, 70), ("dark lid", 8, 90), ("grey frame", 120, 60)):
        rows = []
        for gray in photos:
            page = np.full(np.add(gray.shape, 2 * margin), ground, np.uint8)
            inside = np.s_[margin : margin + gray.shape[0], margin : margin + gray.shape[1]]
            page[inside] = gray
            alone, row = lab(colorizer(Image.fromarray(gray))), []
            for how in (without, contextlib.nullcontext):
                with how():
                    row.append(distance(lab(colorizer(Image.fromarray(page)))[inside], alone))
            rows.append(row)
        table.add(f"{name}: ΔE from the photo alone", *np.mean(rows, 0).tolist())


# --- old prints -------------------------------------------------------------------------------------------------------


def grainy(gray: np.ndarray) -> np.ndarray:
    return np.clip(gray + np.random.default_rng(0).normal(0, 25, gray.shape), 0, 255).astype(np.uint8)


def faded(gray: np.ndarray) -> np.ndarray:
    return (110 + gray * 0.35).astype(np.uint8)


def halftone(gray: np.ndarray) -> np.ndarray:
    """A screen of 5 px at 45 degrees."""
    y, x = np.mgrid[: gray.shape[0], : gray.shape[1]]
    screen = np.sin((x + y) * np.pi / 5) * np.sin((x - y) * np.pi / 5)
    return np.where(gray / 127.5 - 1 > screen, 245, 15).astype(np.uint8)


def bilevel(gray: np.ndarray) -> np.ndarray:
    return np.array(Image.fromarray(gray).convert("1").convert("L"))


PRINTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "grain, sigma 25": grainy,
    "faded": faded,
    "halftone": halftone,
    "bilevel, dithered": bilevel,
}


def old_prints(table: Table, colorizer: Colorizer, photos: list[Image.Image]) -> None:
    """a* and b* of simulated prints from the truth and from the clean photo's, and their speckle."""
    for name, age in PRINTS.items():
        rows = []
        for photo in photos:
            truth, gray = lab(photo)[..., 1:], np.array(photo.convert("L"))
            text = colorizer.caption(torch.from_numpy(gray)[None, None].float() / 255)[0]
            clean, row = lab(colorizer(Image.fromarray(gray), prompt=text))[..., 1:], []
            for how in (without, contextlib.nullcontext):
                with how():  # chroma alone, over the clean photo's luminance
                    seen = torch.from_numpy(age(gray))[None, None].float() / 255
                    chroma = colorizer.chroma(seen, prompt=text)[0].float().cpu()
                colors = lab(merge_tiled(chroma, gray))
                row += [distance(colors[..., 1:], truth), distance(colors[..., 1:], clean), speckle(colors)]
            rows.append(row)
        mean = np.mean(rows, 0)
        for k, what in enumerate(("Δab from the truth", "Δab from the clean photo's", "speckle of a* and b*")):
            table.add(f"{name}: {what}", float(mean[k]), float(mean[k + 3]))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--photos", type=Path, required=True, help="colour photos (Kodak24)")
    parser.add_argument("--historical", type=Path, required=True, help="black-and-white photos")
    parser.add_argument("--count", type=int, default=6, help="photos of each kind")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--only", choices=("tone", "crops", "frames", "prints"))
    options = parser.parse_args(arguments)
    colors = [Image.open(path).convert("RGB") for path in sorted(options.photos.glob("*.png"))]
    colors = colors[:: max(1, len(colors) // options.count)][: options.count]
    paths = sorted(options.historical.glob("*.jpg"))
    old = [Image.open(path).convert("L") for path in paths[:: max(1, len(paths) // options.count)][: options.count]]
    for image in [*colors, *old]:
        image.thumbnail((SIDE, SIDE))
    grays = [np.array(image) for image in old]
    table = Table("archives", f"{len(colors)} colour and {len(old)} grey photos of {SIDE} px", ["without", "with"])
    colorizer = Colorizer.from_pretrained(options.model)
    if options.only in (None, "tone"):
        tones(table, colors[0])
    if options.only in (None, "crops"):
        crops(table, colorizer, [np.array(image.resize((1200, 900))) for image in old])
    if options.only in (None, "frames"):
        frames(table, colorizer, grays)
    if options.only in (None, "prints"):
        old_prints(table, colorizer, colors)
    return 0


if __name__ == "__main__":
    sys.exit(main())
