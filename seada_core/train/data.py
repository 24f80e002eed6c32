"""Training pictures: read once from folders or shards, cached with their latents, then batched by step number."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from ..color.spaces import luminance
from ..files import atomic
from ..files.formats import formats
from . import aging
from .color_captions import ColorDescriber
from .disk import create_array, writing
from .sources import DataError, Tally, samples

Encoder = Callable[[Tensor], Tensor]  # (B, 3, H, W) in [0, 1] -> scaled latents (B, 4, H/8, W/8)
Log = Callable[[str], None]
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)  # what `square` may raise


class Taken(NamedTuple):
    """Some pictures (B, 3, crop, crop) in [0, 1], their latents (B, 4, crop/8, crop/8), the classifier's maps of the
    grey pictures, and labels (B, crop, crop) uint8, the last two where they are known."""

    rgb: Tensor
    latent: Tensor
    recognized: list[Tensor] | None = None
    labels: Tensor | None = None


class Pictures(Protocol):
    """What a run trains on: a `Cache`, or photos that stay on the device (`resident.ResidentPhotos`).

    Attributes:
        meta: at least `source` and `resolution`, the side of the square pictures in pixels.
    """

    meta: dict

    def __len__(self) -> int: ...

    @property
    def records(self) -> Any:
        """A sequence with a dict per picture, see `sources.samples`."""

    @property
    def report(self) -> dict:
        """How many pictures were read, skipped, and have no captions; see `Tally`."""

    def take(self, indices: Sequence[int], rngs: Sequence[np.random.Generator], crop: int) -> Taken:
        """Some pictures; what is random about one comes from its generator."""


class Records:
    """The lines of a JSON-lines file, parsed on access, so that millions of captions take no memory."""

    def __init__(self, path: Path):
        self.lines = np.memmap(path, np.uint8, "r")
        self.ends = np.flatnonzero(self.lines == ord("\n"))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> dict:
        start = self.ends[index - 1] + 1 if index else 0
        return json.loads(self.lines[start : self.ends[index]].tobytes())

    def __iter__(self) -> Iterator[dict]:
        return (self[index] for index in range(len(self)))


class Joined(Sequence):
    """Arrays (or other sequences) as one along their first axis; only the requested items are copied."""

    def __init__(self, parts: Sequence):
        self.parts = parts
        self.starts = np.cumsum([0, *(len(part) for part in parts)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, key: Any) -> Any:
        """`[i]`, `[i, ...]`, or with lists of equal length `[rows, columns]`."""
        index, *rest = key if isinstance(key, tuple) else (key,)
        if not isinstance(index, int | np.integer):
            return np.stack([self[where] for where in zip(index, *rest)])
        k, place = self.locate(int(index))
        within = (place, *rest)
        return self.parts[k][within if rest else place]

    def locate(self, index: int) -> tuple[int, int]:
        """The number of the part that holds an index, and the index within that part."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        k = int(np.searchsorted(self.starts, index, side="right")) - 1
        return k, index - int(self.starts[k])


@dataclass
class Cache:
    """A folder of pictures at one resolution with their latents and records; see `build_cache`.

    Where its `cache.json` names a number of shares, it is those folders joined, see `cache.build_shares`. Everything is
    mapped, not read: any number of processes share the same memory.

    classifier: whose maps it gives beside the latents, see `cache_recognized`; by default none.
    """

    folder: Path
    classifier: str = ""

    def __post_init__(self) -> None:
        self.meta = json.loads((self.folder / "cache.json").read_text())
        shares = range(self.meta.pop("shares", 0))
        self.shares = [Cache(self.folder / share_name(k), self.classifier) for k in shares]
        self.records: Records | Joined
        self.latents: np.ndarray | Joined
        self.recognized: list[np.ndarray] | list[Joined]
        self._pictures = Joined(self.shares)
        if self.shares:
            self.records = Joined([share.records for share in self.shares])
            self.latents = Joined([share.latents for share in self.shares])
            self.recognized = [Joined(maps) for maps in zip(*(share.recognized for share in self.shares))]
            if not all(share.recognized for share in self.shares):
                self.recognized = []
            return
        self.offsets = np.load(self.folder / "offsets.npy", mmap_mode="r")
        self.pictures = np.memmap(self.folder / "pictures.bin", np.uint8, "r")
        self.latents = np.load(self.folder / "latents.npy", mmap_mode="r")
        maps = self.files_of_maps()
        self.recognized = [np.load(path, mmap_mode="r") for path in maps] if maps[-1].is_file() else []
        self.records = Records(self.folder / "records.jsonl")

    def files_of_maps(self) -> list[Path]:
        return [self.folder / f"recognized-{self.classifier}-{k}.npy" for k in range(2)]

    def __reduce__(self) -> tuple[type[Cache], tuple[Path, str]]:
        return Cache, (self.folder, self.classifier)  # a worker maps the files itself

    def __len__(self) -> int:
        return len(self.records)

    def _locate(self, index: int) -> tuple[Cache, int]:
        k, place = self._pictures.locate(index)
        return self.shares[k], place

    def picture(self, index: int) -> Image.Image:
        if self.shares:
            share, place = self._locate(index)
            return share.picture(place)
        encoded = self.pictures[self.offsets[index] : self.offsets[index + 1]]
        return Image.open(io.BytesIO(encoded.tobytes()))

    def view(self, index: int, view: int) -> Tensor:
        """A picture (3, H, W) in [0, 1]: view 0 is unchanged, view 1 mirrored (and aged, see `film_share`)."""
        if self.shares:
            share, place = self._locate(index)
            return share.view(place, view)
        return _view(_to_tensor(self.picture(index)), index, view, self.meta)

    def take(self, indices: Sequence[int], rngs: Sequence[np.random.Generator], crop: int) -> Taken:
        """See `Pictures`. A picture is cropped at a random multiple of 8 px, and mirrored half of the time where the
        cache holds mirrored latents."""
        spare, cells = (self.meta["resolution"] - crop) // 8, crop // 8
        tops, lefts = np.array([rng.integers(0, spare + 1, 2) for rng in rngs]).T
        mirror = np.array([rng.random() for rng in rngs]) < (0.5 if self.meta["mirror"] else 0)
        rgb, latents, labels = [], [], []
        for index, top, left, flip in zip(indices, tops, lefts, mirror):
            view = self.view(index, int(flip))
            rgb.append(view[:, top * 8 : (top + cells) * 8, left * 8 : (left + cells) * 8])
            latent = self.latents[index, int(flip), :, top : top + cells, left : left + cells]
            latents.append(torch.from_numpy(latent.astype(np.float32)))
            label = labels_of(self.records[index], self.meta["resolution"])
            if label is not None:
                label = label.flip(-1) if flip else label
                label = label[top * 8 : (top + cells) * 8, left * 8 : (left + cells) * 8]
            labels.append(label)
        recognized = None
        if self.recognized and not spare:  # the maps are those of whole pictures, not of crops
            recognized = [
                torch.from_numpy(array[indices, mirror.astype(int)].astype(np.float32)) for array in self.recognized
            ]
        known = None
        if any(label is not None for label in labels):
            unknown = torch.full((crop, crop), 255, dtype=torch.uint8)
            known = torch.stack([unknown if label is None else label for label in labels])
        return Taken(torch.stack(rgb), torch.stack(latents), recognized, known)

    @property
    def report(self) -> dict:
        """How many pictures were read, skipped, and have no captions; see `Tally`."""
        if self.shares:
            reports = [share.report for share in self.shares]
            return {name: sum((report[name] for report in reports[1:]), reports[0][name]) for name in reports[0]}
        path = self.folder / "report.json"
        if path.is_file():
            return json.loads(path.read_text())
        tally = Tally(self.meta["source"])
        for record in self.records:
            tally.add(record)
        return tally.to_dict()


def share_name(number: int) -> str:
    """The folder of a share of a cache."""
    return f"share-{number:05}"


def check_captions(cache: Pictures, missing: str, log: Log = print) -> None:
    """Report how many pictures have no caption, or refuse them where `missing` is "error".

    Raises:
        DataError: there are such pictures, and `missing` is "error".
    """
    without, count = cache.report["without_captions"], len(cache)
    if without and missing == "error":
        raise DataError(
            f"{without} of {count} pictures of {cache.meta['source']} have no caption: write them, or give "
            "--missing-captions empty to train on empty ones"
        )
    if without:
        log(f"{without} of {count} pictures have no caption and train with an empty one")


def build_cache(
    source: str,
    folder: Path,
    resolution: int,
    encoder: Encoder,
    mirror: bool = False,
    film_share: float = 0.0,
    log: Log = print,
    share: tuple[int, int] = (0, 1),
    missing_captions: str = "empty",
    describe_colors: bool = False,
) -> Cache:
    """Read `source` once: shorter side resized to `resolution` px, centre-cropped square, latents of each.

    With `mirror` the mirrored picture's latent is kept too: a mirrored latent is not the latent of the mirrored picture
    (for TAESD the difference is as large as the latent's own variance), so without it pictures are never mirrored.
    `film_share` is the share of pictures whose last view (the mirrored one where there is one) looks like an old print,
    see `aging.expose`.

    With `describe_colors`, records without `color_captions` get some, see `color_captions.ColorDescriber`.

    Does nothing when `folder` already holds the cache of this source and resolution. Pictures that cannot be read are
    reported and skipped; more than one in ten stops with an error, before any latent is computed. Written aside and
    renamed, so that an existing cache is complete. `share` (k, n) reads the k-th of n shares of the source.

    Raises:
        DataError: no pictures, too many broken ones, captions are missing where `missing_captions` is "error", or
            `folder` holds another source's cache.
    """
    meta = {"source": source, "resolution": resolution, "mirror": mirror, "version": 1}
    if film_share:
        meta["film"] = film_share
    if describe_colors:
        meta["describe_colors"] = True
    if (folder / "cache.json").is_file():
        cache = Cache(folder)
        check_source(cache, meta)
        return cache
    if resolution < 8 or resolution % 8:
        raise DataError(f"the resolution must be a multiple of 8 px (a latent cell), not {resolution}")
    describer = ColorDescriber.with_package_weights() if describe_colors else None
    with writing(folder), atomic.new_folder(folder) as part:
        offsets, tally = [0], Tally(source, log)
        with (
            open(part / "pictures.bin", "wb") as pictures,
            open(part / "records.jsonl", "w", encoding="utf-8") as lines,
        ):
            for key, encoded, record in tqdm(samples(source, *share, tally), desc="pictures", unit="pic"):
                try:
                    picture = square(encoded, resolution)
                except UNREADABLE as error:
                    tally.skip(key, error)
                    continue
                buffer = io.BytesIO()
                picture.save(buffer, "JPEG", quality=95, subsampling=0)
                pictures.write(buffer.getvalue())
                offsets.append(offsets[-1] + buffer.tell())
                if describer is not None:
                    describer.add_to(record, _to_tensor(picture))
                lines.write(json.dumps({"key": key, **record}) + "\n")
                tally.add(record)
        tally.finish()
        if missing_captions == "error" and tally.without_captions:
            raise DataError(f"{tally.without_captions} of {tally.read} pictures of {source} have no caption")
        np.save(part / "offsets.npy", np.array(offsets, np.int64))
        _encode_all(part, meta, encoder)
        (part / "report.json").write_text(json.dumps(tally.to_dict()))
        (part / "cache.json").write_text(json.dumps(meta))
    return Cache(folder)


def check_source(cache: Cache, meta: dict) -> None:
    """Raises DataError where a cache is of another source, resolution or mirroring than `meta`."""
    if cache.meta != meta:
        raise DataError(f"{cache.folder} caches {cache.meta}, not {meta}; choose another --cache folder or delete it")


def square(encoded: bytes, resolution: int) -> Image.Image:
    """An encoded picture, upright, its shorter side resized to `resolution` px and cropped to the middle square."""
    picture = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded), formats=formats())).convert("RGB")
    return ImageOps.fit(picture, (resolution, resolution), Image.Resampling.LANCZOS)


def labels_of(record: dict, resolution: int) -> Tensor | None:
    """A record's `labels`, a PNG of one channel in base64, as `square` takes the photo: (H, W) uint8.

    Raises DataError where they are no such PNG.
    """
    if "labels" not in record:
        return None
    try:
        labels = Image.open(io.BytesIO(base64.b64decode(record["labels"])), formats=["PNG"]).convert("L")
    except (*UNREADABLE, TypeError) as error:
        raise DataError(f"{record.get('key')}: its labels are no PNG in base64 ({error})") from None
    return torch.from_numpy(np.array(ImageOps.fit(labels, (resolution, resolution), Image.Resampling.NEAREST)))


@torch.inference_mode()
def _encode_all(folder: Path, meta: dict, encoder: Encoder, batch: int = 32) -> None:
    offsets = np.load(folder / "offsets.npy")
    encoded = np.memmap(folder / "pictures.bin", np.uint8, "r")
    count, views, side = len(offsets) - 1, 1 + meta["mirror"], meta["resolution"] // 8
    latents = create_array(folder / "latents.npy", np.float16, (count, views, 4, side, side))
    for start in tqdm(range(0, count, batch), desc="latents", unit_scale=batch, unit="pic"):
        indices = range(start, min(start + batch, count))
        pictures = [_to_tensor(Image.open(io.BytesIO(encoded[offsets[i] : offsets[i + 1]].tobytes()))) for i in indices]
        for view in range(views):
            rgb = torch.stack([_view(picture, i, view, meta) for picture, i in zip(pictures, indices)])
            latents[indices.start : indices.stop, view] = encoder(rgb).float().cpu().numpy()
    latents.flush()


@torch.inference_mode()
def cache_recognized(
    cache: Cache, recognize: Callable[[Tensor], list[Tensor]], batch: int = 32, mine: slice = slice(None)
) -> Cache:
    """Store the maps of the cache's `classifier` of each grey photo (and of its mirror image) beside the latents.

    recognize: grey pictures (B, 3, H, W) in [0, 1] to two maps (B, C, h, w); see `controlnet_rca.recognize`.
    Does nothing if they exist. Written aside and renamed. `mine`: which shares of a cache in shares to do.
    """
    if cache.recognized:
        return cache
    if cache.shares:
        for share in cache.shares[mine]:
            cache_recognized(share, recognize, batch)
        return Cache(cache.folder, cache.classifier)
    count, views = len(cache), 1 + cache.meta["mirror"]
    arrays: list[np.memmap] = []
    names = cache.files_of_maps()
    try:
        for start in tqdm(range(0, count, batch), desc="recognition", unit_scale=batch, unit="pic"):
            indices = range(start, min(start + batch, count))
            for view in range(views):
                gray = luminance(torch.stack([cache.view(i, view) for i in indices])).expand(-1, 3, -1, -1)
                maps = recognize(gray)
                if not arrays:
                    arrays = [
                        create_array(atomic.part_path(name), np.float16, (count, views, *m.shape[1:]))
                        for name, m in zip(names, maps, strict=True)
                    ]
                for array, m in zip(arrays, maps):
                    array[indices.start : indices.stop, view] = m.float().cpu().numpy()
        for name, array in zip(names, arrays):  # in order: `Cache` uses them once the last one exists
            array.flush()
            atomic.rename(atomic.part_path(name), name)
    except BaseException:
        for name in names:
            atomic.discard(atomic.part_path(name))
        raise
    return Cache(cache.folder, cache.classifier)


def _view(picture: Tensor, index: int, view: int, meta: dict) -> Tensor:
    rng = np.random.default_rng([index, view])
    picture = picture.flip(-1) if view else picture
    return aging.expose(picture, rng) if view == meta["mirror"] and rng.random() < meta.get("film", 0) else picture


def _to_tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(picture.convert("RGB")).copy()).permute(2, 0, 1).float() / 255
