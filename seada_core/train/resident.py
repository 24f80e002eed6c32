"""Photos that stay on the training device: there is no cache, and every step crops, mirrors, ages and encodes there."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..color.spaces import luminance
from . import aging
from .color_captions import ColorDescriber, add_phrases, describe
from .data import UNREADABLE, Encoder, Joined, Log, Taken, square
from .draws import send
from .sources import DataError, Tally, samples

SMALLEST = 0.6  # side of the smallest crop, as a share of the photo's
BLOCK = 1024  # photos that are decoded, and copied to the device, at once
AT_ONCE = 64  # pictures that a network looks at at once
Mapper = Callable[[Callable, Iterable], Iterable]  # like `map`, over several processes


@dataclass
class ResidentPhotos:
    """Photos on a device, as `data.Pictures`; see `read_photos`.

    Attributes:
        blocks: the photos, each a tensor (n, side, side, 3) of uint8.
        records: their captions and more.
        meta: `source`, and `resolution`, the photos' side in px.
        report: see `Tally`.
        encoder: latents of pictures on the device.
        film: share of the pictures that look like old prints, see `aging.expose_all`.
        augment: pictures are cropped, `SMALLEST` of the side or more, and half of them mirrored.
        recognize: a classifier's maps of grey pictures, see `controlnet_rca.recognize`.
    """

    blocks: Sequence[Tensor]
    records: list[dict]
    meta: dict
    report: dict
    encoder: Encoder
    film: float = 0.0
    augment: bool = True
    recognize: Callable[[Tensor], list[Tensor]] | None = None

    def __post_init__(self) -> None:
        self.photos = Joined(self.blocks)

    def __len__(self) -> int:
        return len(self.photos)

    @torch.no_grad()
    def take(self, indices: Sequence[int], rngs: Sequence[np.random.Generator], crop: int) -> Taken:
        """See `Pictures`. The square that a picture shows has a random size and place in its photo."""
        photos = torch.stack([self.photos[index] for index in indices])
        windows = [_window(rng) if self.augment else (1.0, 0.0, 0.0, False) for rng in rngs]
        rgb = resample(photos, torch.tensor(windows), crop)
        old = [k for k, rng in enumerate(rngs) if self.film and rng.random() < self.film]
        if old:
            these = send(torch.tensor(old), rgb.device)
            rgb[these] = aging.expose_all(rgb[these], [rngs[k] for k in old])
        latent = torch.cat([self.encoder(part) for part in rgb.split(AT_ONCE)])
        if self.recognize is None:
            return Taken(rgb, latent)
        gray = luminance(rgb).expand(-1, 3, -1, -1)
        maps = zip(*(self.recognize(part) for part in gray.split(AT_ONCE)))
        return Taken(rgb, latent, [torch.cat(parts).float() for parts in maps])


def _window(rng: np.random.Generator) -> tuple[float, float, float, bool]:
    """A random window: its side, top and left as shares of the photo's side, and whether it is mirrored."""
    side = SMALLEST + (1 - SMALLEST) * rng.random()
    top, left = (1 - side) * rng.random(2)
    return side, top, left, bool(rng.random() < 0.5)


def resample(photos: Tensor, windows: Tensor, size: int) -> Tensor:
    """Square windows of photos (B, side, side, 3) of uint8 as pictures (B, 3, size, size) in [0, 1].

    windows: (B, 4), see `_window`. Bilinear and without aliasing, as `F.interpolate(..., antialias=True)`: each axis is
    multiplied by a matrix of triangles, which makes a whole batch of different windows two products.
    """
    side = photos.shape[1]
    extent, top, left, mirrored = send(windows.float(), photos.device).unbind(1)
    rows = _triangles(top * side, extent * side, torch.zeros_like(mirrored), size, side)
    columns = _triangles(left * side, extent * side, mirrored, size, side)
    x = rows @ (photos.float() / 255).flatten(2)
    x = x.unflatten(2, (side, 3)).permute(0, 3, 1, 2) @ columns.mT[:, None]
    return x.clamp(0, 1)


def _triangles(start: Tensor, extent: Tensor, mirrored: Tensor, size: int, side: int) -> Tensor:
    """The share of each of `side` pixels in each of `size` equal parts of a window, (B, size, side)."""
    step = (extent / size)[:, None]
    part = torch.arange(size, device=start.device) + 0.5
    part = torch.where(mirrored[:, None] > 0, size - part, part)
    centres = start[:, None] + part * step
    pixels = torch.arange(side, device=start.device) + 0.5
    weights = (1 - (centres[..., None] - pixels).abs() / step.clamp(min=1)[..., None]).clamp(min=0)
    return weights / weights.sum(-1, keepdim=True)


def read_photos(
    source: str,
    resolution: int,
    encoder: Encoder,
    device: torch.device | str,
    film: float = 0.0,
    augment: bool = True,
    workers: int = 1,
    describe_colors: bool = False,
    log: Log = print,
) -> ResidentPhotos:
    """Read `source` once: shorter side resized to `resolution` px, centre-cropped square, kept as uint8 on `device`.

    `workers` processes decode, and write colour captions where there are none with `describe_colors`; see
    `color_captions.ColorDescriber`.

    Raises:
        DataError: no pictures, too many broken ones, the device has too little memory, or a process died.
    """
    tally = Tally(source, log)
    blocks: list[Tensor] = []
    records: list[dict] = []
    with _processes(workers) as over:
        stream = iter(tqdm(samples(source, tally=tally), desc="photos", unit="pic"))
        while part := list(itertools.islice(stream, BLOCK)):
            decoded = []
            for (key, _, record), found in zip(part, over(partial(_decode, resolution), [s[1] for s in part])):
                if isinstance(found, str):
                    tally.skip(key, found)
                    continue
                decoded.append(found)
                records.append({"key": key, **record})
                tally.add(record)
            if decoded:
                try:
                    blocks.append(torch.from_numpy(np.stack(decoded)).to(device))
                except torch.OutOfMemoryError as error:
                    raise DataError(
                        f"{device} has memory for {sum(map(len, blocks))} photos of {resolution} px, and {source} has "
                        "more: give a smaller --resolution, or a cache in place of --photos-on-device"
                    ) from error
        tally.finish()
        if describe_colors:
            _describe(ColorDescriber.with_package_weights(), blocks, records, device, over)
    meta = {"source": source, "resolution": resolution}
    return ResidentPhotos(blocks, records, meta, tally.to_dict(), encoder, film, augment)


def _decode(resolution: int, encoded: bytes) -> np.ndarray | str:
    """A picture's square, or why it cannot be read."""
    try:
        return np.asarray(square(encoded, resolution))
    except UNREADABLE as error:
        return str(error) or type(error).__name__


def _describe(
    describer: ColorDescriber, blocks: list[Tensor], records: list[dict], device: torch.device | str, over: Mapper
) -> None:
    """Colour captions for the records without any: the classifier runs on the device, the rest in `over`'s
    processes."""
    describer.classifier.to(device)
    photos = (photo for block in blocks for photo in block)
    missing = [(photo, record) for photo, record in zip(photos, records) if not record.get("color_captions")]
    for start in tqdm(range(0, len(missing), BLOCK), desc="colours", unit_scale=BLOCK, unit="pic"):
        part = missing[start : start + BLOCK]
        jobs = []
        for k in range(0, len(part), AT_ONCE):
            rgb = torch.stack([photo for photo, _ in part[k : k + AT_ONCE]]).permute(0, 3, 1, 2).float() / 255
            jobs += [
                (lab.numpy(), areas.numpy(), where.numpy(), *more) for lab, areas, where, *more in describer.look(rgb)
            ]
        found = over(_phrases, [(*job, record.get("label")) for job, (_, record) in zip(jobs, part)])
        for (_, record), phrases in zip(part, found):
            add_phrases(record, phrases)


def _phrases(job: tuple) -> list[str]:
    """The phrases of `describe`; its tensors are arrays, since tensors would take a file descriptor each."""
    values: list[Any] = [torch.from_numpy(x) if isinstance(x, np.ndarray) else x for x in job]
    return describe(*values).phrases


@contextlib.contextmanager
def _processes(workers: int) -> Iterator[Mapper]:
    """A `map` over so many processes; in this one for 0 and 1.

    Raises:
        DataError: one of them died.
    """
    if workers < 2:
        yield map
        return
    try:
        with ProcessPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield partial(pool.map, chunksize=16)
    except BrokenProcessPool as error:
        raise DataError(
            "a process that decodes pictures died, perhaps because of too little memory: fewer --workers take less"
        ) from error
