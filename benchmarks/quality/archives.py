"""Tone, crops and frames, without and with what is done for them: `python -m benchmarks.quality.archives`.

Tone: how far lightness in a colour-managed viewer is from the file's own. Crops: how far a region's colour in a strip,
a panorama and a long scan is from that in a square of the same scale. Frames: how far photos in them are from those
alone. Old prints have a benchmark of their own.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from PIL import Image, ImageCms

from benchmarks import Table
from seada_core import Colorizer, pages, windows
from seada_core.color.spaces import rgb_to_lab
from seada_core.files import pictures, profiles

SIDE = 400  # longest side of the photos, px


@contextlib.contextmanager
def without() -> Iterator[None]:
    """Photos are coloured whole, as they are."""
    with (
        mock.patch.object(pages, "photos", lambda luminance: []),
        mock.patch.object(windows, "is_elongated", lambda photo: False),
    ):
        yield


def lab(rgb: np.ndarray | Image.Image) -> np.ndarray:
    """L*a*b* (H, W, 3) of sRGB."""
    tensor = torch.from_numpy(np.array(rgb)).permute(2, 0, 1)[None].double() / 255
    return rgb_to_lab(tensor)[0].permute(1, 2, 0).numpy()


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """The mean distance of L*a*b* colours."""
    return float(np.linalg.norm(a - b, axis=-1).mean())


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


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--photos", type=Path, required=True, help="colour photos (Kodak24)")
    parser.add_argument("--historical", type=Path, required=True, help="black-and-white photos")
    parser.add_argument("--count", type=int, default=6, help="photos of each kind")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--only", choices=("tone", "crops", "frames"))
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
    return 0


if __name__ == "__main__":
    sys.exit(main())
