"""Training pictures: read once from folders or shards, cached with their latents, then batched by step number."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from ..color import luminance
from ..pictures import formats
from . import film
from .disk import create_array, put, writing
from .sources import DataError, Tally, samples

Encoder = Callable[[Tensor], Tensor]  # (B, 3, H, W) in [0, 1] -> scaled latents (B, 4, H/8, W/8)
Log = Callable[[str], None]


class Records(Sequence):
    """The lines of a JSON-lines file, parsed when they are asked for: a million captions take no memory."""

    def __init__(self, path: Path):
        self.lines = np.memmap(path, np.uint8, "r")
        self.ends = np.flatnonzero(self.lines == ord("\n"))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> dict:
        start = self.ends[index - 1] + 1 if index else 0
        return json.loads(self.lines[start : self.ends[index]].tobytes())


class Joined(Sequence):
    """Arrays (or other sequences) as one along their first axis; nothing is copied but what is asked for."""

    def __init__(self, parts: Sequence):
        self.parts = parts
        self.starts = np.cumsum([0, *(len(part) for part in parts)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, key):
        """`[i]`, `[i, ...]`, or with lists of equal length `[rows, columns]`."""
        index, *rest = key if isinstance(key, tuple) else (key,)
        if not isinstance(index, int | np.integer):
            return np.stack([self[(i, *others)] for i, *others in zip(index, *rest)])
        if not 0 <= index < len(self):
            raise IndexError(index)
        k = int(np.searchsorted(self.starts, index, side="right")) - 1
        place = int(index - self.starts[k])
        return self.parts[k][(place, *rest)] if rest else self.parts[k][place]


@dataclass
class Cache:
    """A folder of pictures at one resolution with their latents and records; see `build_cache`.

    Where its `cache.json` names a number of shares, it is those folders joined, see `cache.build_shares`. Everything is
    mapped, not read: any number of processes share the same memory.
    """

    folder: Path
    recognizer: str = ""  # whose maps of the photos to use, see `cache_recognized`

    def __post_init__(self):
        self.meta = json.loads((self.folder / "cache.json").read_text())
        shares = range(self.meta.pop("shares", 0))
        self.shares = [Cache(self.folder / share_name(k), self.recognizer) for k in shares]
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
        maps = [self.folder / f"recognized-{self.recognizer}-{k}.npy" for k in range(2)]
        self.recognized = [np.load(path, mmap_mode="r") for path in maps] if maps[-1].is_file() else []
        self.records = Records(self.folder / "records.jsonl")

    def __reduce__(self):
        return Cache, (self.folder, self.recognizer)  # a worker maps the files itself

    def __len__(self) -> int:
        return len(self.records)

    def _locate(self, index: int) -> tuple[Cache, int]:
        k = int(np.searchsorted(self.records.starts, index, side="right")) - 1
        return self.shares[k], index - int(self.records.starts[k])

    def picture(self, index: int) -> Image.Image:
        if self.shares:
            share, place = self._locate(index)
            return share.picture(place)
        encoded = self.pictures[self.offsets[index] : self.offsets[index + 1]]
        return Image.open(io.BytesIO(encoded.tobytes()))

    def view(self, index: int, view: int) -> Tensor:
        """A picture (3, H, W) in [0, 1]: as it is (0), or what else the cache holds a latent of (1)."""
        if self.shares:
            share, place = self._locate(index)
            return share.view(place, view)
        return _view(_to_tensor(self.picture(index)), index, view, self.meta)

    @property
    def report(self) -> dict:
        """How many pictures were read, left out, and have no captions; see `Tally`."""
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


def check_captions(cache: Cache, missing: str, log: Log = print) -> None:
    """Say how many pictures have no caption, or refuse them where `missing` is "error".

    Raises:
        DataError: there are such pictures, and there may not be.
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
) -> Cache:
    """Read `source` once: shorter side resized to `resolution` px, centre-cropped square, latents of each.

    With `mirror` the mirrored picture's latent is kept too: a mirrored latent is not the latent of the mirrored picture
    (for TAESD the difference is as large as the latent's own variance), so without it pictures are never mirrored.
    `film_share` is the share of pictures whose last view (the mirrored one where there is one) is as an old film would
    have taken it, see `film.expose`.

    Does nothing when `folder` already holds the cache of this source and resolution. Pictures that cannot be read are
    reported and left out; more than one in ten stops with an error, before any latent is computed. Written aside and
    renamed, so that a cache that exists is whole. `share` (k, n) reads the k-th of n shares of the source.

    Raises:
        DataError: no pictures, too many broken ones, captions are missing where `missing_captions` is "error", or
            `folder` holds another source's cache.
    """
    meta = {"source": source, "resolution": resolution, "mirror": mirror, "version": 1}
    if film_share:
        meta["film"] = film_share
    if (folder / "cache.json").is_file():
        cache = Cache(folder)
        check_source(cache, meta)
        return cache
    from tqdm import tqdm

    if resolution < 8 or resolution % 8:
        raise DataError(f"the resolution must be a multiple of 8 px (a latent cell), not {resolution}")
    part = folder.with_name(folder.name + ".part")
    part.mkdir(parents=True, exist_ok=True)
    with writing(folder):
        offsets, tally = [0], Tally(source, log)
        with (
            open(part / "pictures.bin", "wb") as pictures,
            open(part / "records.jsonl", "w", encoding="utf-8") as lines,
        ):
            for key, encoded, record in tqdm(samples(source, *share, tally), desc="pictures", unit="pic"):
                try:
                    picture = _square(encoded, resolution)
                except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
                    tally.leave_out(key, error)
                    continue
                buffer = io.BytesIO()
                picture.save(buffer, "JPEG", quality=95, subsampling=0)
                pictures.write(buffer.getvalue())
                offsets.append(offsets[-1] + buffer.tell())
                lines.write(json.dumps({"key": key, **record}) + "\n")
                tally.add(record)
        tally.finish()
        if missing_captions == "error" and tally.without_captions:
            raise DataError(f"{tally.without_captions} of {tally.read} pictures of {source} have no caption")
        np.save(part / "offsets.npy", np.array(offsets, np.int64))
        _encode_all(part, meta, encoder)
        (part / "report.json").write_text(json.dumps(tally.to_dict()))
        (part / "cache.json").write_text(json.dumps(meta))
        put(part, folder)
    return Cache(folder)


def check_source(cache: Cache, meta: dict) -> None:
    """Raises DataError where a cache is of another source, resolution or mirroring than `meta`."""
    if cache.meta != meta:
        raise DataError(f"{cache.folder} caches {cache.meta}, not {meta}; choose another --cache folder or delete it")


def _square(encoded: bytes, resolution: int) -> Image.Image:
    picture = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded), formats=formats())).convert("RGB")
    return ImageOps.fit(picture, (resolution, resolution), Image.Resampling.LANCZOS)


@torch.inference_mode()
def _encode_all(folder: Path, meta: dict, encoder: Encoder, batch: int = 32):
    from tqdm import tqdm

    offsets = np.load(folder / "offsets.npy")
    encoded = np.memmap(folder / "pictures.bin", np.uint8, "r")
    count, views, side = len(offsets) - 1, 1 + meta["mirror"], meta["resolution"] // 8
    latents = create_array(folder / "latents.npy", np.float16, (count, views, 4, side, side))
    for start in tqdm(range(0, count, batch), desc="latents", unit_scale=batch, unit="pic"):
        indices = range(start, min(start + batch, count))
        pictures = [_to_tensor(Image.open(io.BytesIO(encoded[offsets[i] : offsets[i + 1]]))) for i in indices]
        for view in range(views):
            rgb = torch.stack([_view(picture, i, view, meta) for picture, i in zip(pictures, indices)])
            latents[indices.start : indices.stop, view] = encoder(rgb).float().cpu().numpy()
    latents.flush()


@torch.inference_mode()
def cache_recognized(
    cache: Cache,
    name: str,
    recognize: Callable[[Tensor], list[Tensor]],
    batch: int = 32,
    mine: slice = slice(None),
) -> Cache:
    """Keep the maps that a classifier sees in each grey photo (and in its mirror image) beside the latents.

    name: the classifier's, which no classifier of other weights has. recognize: grey pictures (B, 3, H, W) in [0, 1] to
    two maps (B, C, h, w); see `controlnet_rca.recognize`. Returns the cache with these maps. Does nothing where they
    are there. Written aside and renamed. `mine`: which shares of a cache in shares to do.
    """
    cache = Cache(cache.folder, name)
    if cache.recognized:
        return cache
    if cache.shares:
        for share in cache.shares[mine]:
            cache_recognized(share, name, recognize, batch)
        return Cache(cache.folder, name)
    from tqdm import tqdm

    count, views = len(cache), 1 + cache.meta["mirror"]
    arrays: list[np.memmap] = []
    for start in tqdm(range(0, count, batch), desc="recognition", unit_scale=batch, unit="pic"):
        indices = range(start, min(start + batch, count))
        for view in range(views):
            gray = luminance(torch.stack([cache.view(i, view) for i in indices])).expand(-1, 3, -1, -1)
            maps = recognize(gray)
            if not arrays:
                arrays = [
                    create_array(cache.folder / f"recognized-{name}-{k}.part", np.float16, (count, views, *m.shape[1:]))
                    for k, m in enumerate(maps)
                ]
            for array, m in zip(arrays, maps):
                array[indices.start : indices.stop, view] = m.float().cpu().numpy()
    for k, array in enumerate(arrays):
        array.flush()
        put(cache.folder / f"recognized-{name}-{k}.part", cache.folder / f"recognized-{name}-{k}.npy")
    return Cache(cache.folder, name)


def _view(picture: Tensor, index: int, view: int, meta: dict) -> Tensor:
    rng = np.random.default_rng([index, view])
    picture = picture.flip(-1) if view else picture
    return film.expose(picture, rng) if view == meta["mirror"] and rng.random() < meta.get("film", 0) else picture


def _to_tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(picture.convert("RGB")).copy()).permute(2, 0, 1).float() / 255


def load_encoder(path: str, device: torch.device | str = "cpu") -> Encoder:
    """SD1.5's latent encoder: TAESD's own encoder file or diffusers folder, or a VAE as `load_vae` takes it.

    Raises:
        DataError: the file or folder is missing or is something else.
    """
    from diffusers import AutoencoderTiny
    from safetensors.torch import load_file

    from .. import stable_diffusion, weightfiles

    file = Path(path)
    if not file.exists():
        raise DataError(f"no TAESD encoder file and no VAE at {path}")
    if file.is_file() and weightfiles.kind(weightfiles.read_header(file)).name not in ("vae", "checkpoint"):
        tiny = AutoencoderTiny()
        state = {f"layers.{name}": tensor.float() for name, tensor in load_file(file).items()}
        try:
            tiny.encoder.load_state_dict(state)
        except RuntimeError as error:
            raise DataError(f"{file} is not TAESD's encoder: {str(error).splitlines()[1].strip()}") from None
        encoder = tiny.encoder.to(device, memory_format=torch.channels_last).eval()
        return _half(device, lambda rgb: encoder(rgb.contiguous(memory_format=torch.channels_last) * 2 - 1))
    if (file / "config.json").is_file() and "Tiny" in stable_diffusion.read_json(file / "config.json")["_class_name"]:
        vae = AutoencoderTiny.from_pretrained(file, local_files_only=True).to(device).eval()
        return _half(device, lambda rgb: vae.encode(rgb * 2 - 1).latents)
    vae = stable_diffusion.load_vae(file)[0].to(device)
    return _half(device, lambda rgb: vae.encode(rgb * 2 - 1).latent_dist.mean * vae.config.scaling_factor)


def _half(device: torch.device | str, encoder: Encoder) -> Encoder:
    """Run in bfloat16 autocast: twice as fast, and 1e-4 of the latents' variance away."""

    def encode(rgb: Tensor) -> Tensor:
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            return encoder(rgb.to(device)).float()

    return encode


class Batches(Dataset):
    """Batch number `step`, as a function of the step and the seed alone: a resumed run sees what it would have seen.

    Every epoch is a new permutation, of which a step takes the next `batch` places, and each of `processes` an equal
    share of those. All that is random about a picture (crop, mirror, caption, and the `seeds` and `uniform` that stages
    draw from) follows from its place: any number of processes trains on the same. A picture is cropped at a random
    multiple of 8 px, and mirrored half of the time where the cache holds mirrored latents.

    Raises:
        DataError: `crop` does not fit the cache, or `batch` the processes or the number of pictures.
    """

    def __init__(self, cache: Cache, batch: int, crop: int, seed: int, rank: int = 0, processes: int = 1):
        resolution = cache.meta["resolution"]
        if crop > resolution or crop % 8:
            raise DataError(f"crop {crop} px must be a multiple of 8 and at most the cache's {resolution} px")
        if batch % processes:
            raise DataError(f"batch {batch} cannot be shared among {processes} processes equally")
        if batch > len(cache):
            raise DataError(
                f"batch {batch} is more than the {len(cache)} pictures there are: give --batch {len(cache)}"
            )
        self.cache, self.batch, self.crop, self.seed = cache, batch, crop, seed
        self.rank, self.processes = rank, processes
        self._permutation: tuple[int, np.ndarray] | None = None

    def _index(self, position: int) -> int:
        epoch, place = divmod(position, len(self.cache))
        if self._permutation is None or self._permutation[0] != epoch:
            self._permutation = (epoch, np.random.default_rng([self.seed, epoch]).permutation(len(self.cache)))
        return int(self._permutation[1][place])

    def __getitem__(self, step: int) -> dict:
        share = self.batch // self.processes
        mine = slice(self.rank * share, (self.rank + 1) * share)
        places = range(step * self.batch, (step + 1) * self.batch)[mine]
        strata = np.random.default_rng([self.seed, step, 2]).permutation(self.batch)[mine]
        indices = [self._index(place) for place in places]
        rngs = [np.random.default_rng([self.seed, place, 1]) for place in places]
        spare = (self.cache.meta["resolution"] - self.crop) // 8
        tops, lefts = np.array([rng.integers(0, spare + 1, 2) for rng in rngs]).T
        mirror = np.array([rng.random() for rng in rngs]) < (0.5 if self.cache.meta["mirror"] else 0)
        rgb, latents = [], []
        cells = self.crop // 8
        for index, top, left, flip in zip(indices, tops, lefts, mirror):
            view = self.cache.view(index, int(flip))
            rgb.append(view[:, top * 8 : (top + cells) * 8, left * 8 : (left + cells) * 8])
            latent = self.cache.latents[index, int(flip), :, top : top + cells, left : left + cells]
            latents.append(torch.from_numpy(latent.astype(np.float32)))
        captions, color_captions = zip(*(_captions(self.cache.records[i], rng) for i, rng in zip(indices, rngs)))
        recognized = {}
        if self.cache.recognized and not spare:  # the classifier saw whole pictures, not crops
            recognized["recognized"] = [
                torch.from_numpy(array[indices, mirror.astype(int)].astype(np.float32))
                for array in self.cache.recognized
            ]
        return {
            **recognized,
            "rgb": torch.stack(rgb),
            "latent": torch.stack(latents),
            "captions": list(captions),
            "color_captions": list(color_captions),
            "labels": [self.cache.records[i].get("label") for i in indices],
            "places": list(places),
            "seeds": [int(rng.integers(2**63)) for rng in rngs],
            "uniform": torch.tensor([(s + rng.random()) / self.batch for s, rng in zip(strata, rngs)]).float(),
        }


def _captions(record: dict, rng: np.random.Generator) -> tuple[str, str]:
    """One grey caption of a record and the colour caption that belongs to it; empty where there is none."""
    captions = record.get("captions") or [""]
    k = int(rng.integers(len(captions)))
    return captions[k], (record.get("color_captions") or captions)[k]


def rows(batch: dict, start: int, stop: int) -> dict:
    """Some pictures of a batch, whose values are tensors, lists with a value a picture, or lists of tensors."""
    return {
        name: [v[start:stop] for v in value] if name == "recognized" else value[start:stop]
        for name, value in batch.items()
    }


def in_halves(batch: dict) -> dict:
    """The batch with the pictures of even places first: of two halves, the same go into the first on any processes."""
    places = batch["places"]
    order = sorted(range(len(places)), key=lambda k: places[k] % 2)

    def reordered(value):
        return value[order] if isinstance(value, Tensor) else [value[k] for k in order]

    return {
        name: [v[order] for v in value] if name == "recognized" else reordered(value) for name, value in batch.items()
    }
