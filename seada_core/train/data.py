"""Training pictures: read once from folders or shards, cached with their latents, then batched by step number."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from ..color import luminance
from . import film

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
Encoder = Callable[[Tensor], Tensor]  # (B, 3, H, W) in [0, 1] -> scaled latents (B, 4, H/8, W/8)


class DataError(ValueError):
    """The training data cannot be used; the message says what to do."""


def samples(source: str) -> Iterator[tuple[str, bytes, dict]]:
    """(key, encoded picture, record) of every picture of `source`.

    source: webdataset shards (`data-{000..007}.tar`, several joined by `::`, or a folder that holds `.tar` files) or a
    folder of pictures. A record's `captions` come from the sample's json, a `.txt` beside the picture, or the folder's
    `metadata.jsonl` (`file_name`, `text`).
    """
    folder = Path(source)
    if folder.is_dir() and not any(folder.glob("*.tar")):
        yield from _folder_samples(folder)
        return
    import webdataset as wds

    if folder.is_dir():
        urls = [str(path) for path in sorted(folder.glob("*.tar"))]
    else:
        urls = [url for part in source.split("::") for url in wds.shardlists.expand_urls(part)]
    missing = [url for url in urls if not Path(url).is_file()]
    if missing:
        raise DataError(f"no such shard or folder: {missing[0]}")
    for sample in wds.WebDataset(urls, shardshuffle=False, empty_check=False):
        picture = next((sample[k] for k in sample if f".{k.rsplit('.')[-1].lower()}" in SUFFIXES), None)
        if picture is not None:
            record = json.loads(sample["json"]) if "json" in sample else {}
            if "txt" in sample:
                record.setdefault("captions", [sample["txt"].decode("utf-8").strip()])
            yield sample["__key__"], picture, record


def _folder_samples(folder: Path) -> Iterator[tuple[str, bytes, dict]]:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise DataError(f"no pictures and no .tar shards in {folder}")
    texts = {}
    listing = folder / "metadata.jsonl"
    if listing.is_file():
        for line in listing.read_text("utf-8").splitlines():
            entry = json.loads(line)
            texts[entry["file_name"]] = entry["text"]
    for path in paths:
        name = path.relative_to(folder).as_posix()
        beside = path.with_suffix(".txt")
        text = texts.get(name) or (beside.read_text("utf-8").strip() if beside.is_file() else None)
        yield name, path.read_bytes(), {"captions": [text]} if text else {}


@dataclass
class Cache:
    """A folder of pictures at one resolution with their latents and records; see `build_cache`."""

    folder: Path

    def __post_init__(self):
        self.meta = json.loads((self.folder / "cache.json").read_text())
        self.offsets = np.load(self.folder / "offsets.npy")
        self.pictures = np.memmap(self.folder / "pictures.bin", np.uint8, "r")
        self.latents = np.load(self.folder / "latents.npy", mmap_mode="r")
        maps = [self.folder / f"recognized-{k}.npy" for k in range(2)]  # see `cache_recognized`
        self.recognized = [np.load(path, mmap_mode="r") for path in maps] if maps[-1].is_file() else []
        with open(self.folder / "records.jsonl", encoding="utf-8") as lines:
            self.records = [json.loads(line) for line in lines]

    def __len__(self) -> int:
        return len(self.records)

    def picture(self, index: int) -> Image.Image:
        encoded = self.pictures[self.offsets[index] : self.offsets[index + 1]]
        return Image.open(io.BytesIO(encoded.tobytes()))

    def view(self, index: int, view: int) -> Tensor:
        """A picture (3, H, W) in [0, 1]: as it is (0), or what else the cache holds a latent of (1)."""
        return _view(_to_tensor(self.picture(index)), index, view, self.meta)


def build_cache(
    source: str,
    folder: Path,
    resolution: int,
    encoder: Encoder,
    mirror: bool = False,
    film_share: float = 0.0,
    log: Callable = print,
) -> Cache:
    """Read `source` once: shorter side resized to `resolution` px, centre-cropped square, latents of each.

    With `mirror` the mirrored picture's latent is kept too: a mirrored latent is not the latent of the mirrored picture
    (for TAESD the difference is as large as the latent's own variance), so without it pictures are never mirrored.
    `film_share` is the share of pictures whose last view (the mirrored one where there is one) is as an old film would
    have taken it, see `film.expose`.

    Does nothing when `folder` already holds the cache of this source and resolution. Pictures that cannot be read are
    reported and left out; more than one in ten stops with an error. Written aside and renamed, so that a cache that
    exists is whole.

    Raises:
        DataError: no pictures, too many broken ones, or `folder` holds another source's cache.
    """
    meta = {"source": source, "resolution": resolution, "mirror": mirror, "version": 1}
    if film_share:
        meta["film"] = film_share
    if (folder / "cache.json").is_file():
        found = json.loads((folder / "cache.json").read_text())
        if found != meta:
            raise DataError(f"{folder} caches {found}, not {meta}; choose another --cache folder or delete it")
        return Cache(folder)
    from tqdm import tqdm

    part = folder.with_name(folder.name + ".part")
    part.mkdir(parents=True, exist_ok=True)
    offsets, records, broken = [0], [], 0
    with open(part / "pictures.bin", "wb") as pictures:
        for key, encoded, record in tqdm(samples(source), desc="pictures", unit="pic"):
            try:
                picture = _square(encoded, resolution)
            except (OSError, ValueError) as error:
                broken += 1
                log(f"left out {key}: {error}")
                continue
            buffer = io.BytesIO()
            picture.save(buffer, "JPEG", quality=95, subsampling=0)
            pictures.write(buffer.getvalue())
            offsets.append(offsets[-1] + buffer.tell())
            records.append({"key": key, **record})
    if not records or broken * 10 > len(records):
        raise DataError(f"{source}: {len(records)} pictures could be read and {broken} could not")
    np.save(part / "offsets.npy", np.array(offsets, np.int64))
    with open(part / "records.jsonl", "w", encoding="utf-8") as lines:
        lines.writelines(json.dumps(record) + "\n" for record in records)
    _encode_all(part, meta, encoder)
    (part / "cache.json").write_text(json.dumps(meta))
    part.rename(folder)
    return Cache(folder)


def _square(encoded: bytes, resolution: int) -> Image.Image:
    picture = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded))).convert("RGB")
    return ImageOps.fit(picture, (resolution, resolution), Image.Resampling.LANCZOS)


@torch.inference_mode()
def _encode_all(folder: Path, meta: dict, encoder: Encoder, batch: int = 32):
    from tqdm import tqdm

    offsets = np.load(folder / "offsets.npy")
    encoded = np.memmap(folder / "pictures.bin", np.uint8, "r")
    count, views, side = len(offsets) - 1, 1 + meta["mirror"], meta["resolution"] // 8
    latents = np.lib.format.open_memmap(folder / "latents.npy", "w+", np.float16, (count, views, 4, side, side))
    for start in tqdm(range(0, count, batch), desc="latents", unit_scale=batch, unit="pic"):
        indices = range(start, min(start + batch, count))
        pictures = [_to_tensor(Image.open(io.BytesIO(encoded[offsets[i] : offsets[i + 1]]))) for i in indices]
        for view in range(views):
            rgb = torch.stack([_view(picture, i, view, meta) for picture, i in zip(pictures, indices)])
            latents[indices.start : indices.stop, view] = encoder(rgb).float().cpu().numpy()
    latents.flush()


@torch.inference_mode()
def cache_recognized(cache: Cache, recognize: Callable[[Tensor], list[Tensor]], batch: int = 32) -> Cache:
    """Keep the maps that a classifier sees in each grey photo (and in its mirror image) beside the latents.

    recognize: grey pictures (B, 3, H, W) in [0, 1] to two maps (B, C, h, w); see `RecognizingMapper.recognize`.
    Does nothing where they are there. Written aside and renamed.
    """
    if cache.recognized:
        return cache
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
                    np.lib.format.open_memmap(
                        cache.folder / f"recognized-{k}.part", "w+", np.float16, (count, views, *m.shape[1:])
                    )
                    for k, m in enumerate(maps)
                ]
            for array, m in zip(arrays, maps):
                array[indices.start : indices.stop, view] = m.float().cpu().numpy()
    for k, array in enumerate(arrays):
        array.flush()
        (cache.folder / f"recognized-{k}.part").rename(cache.folder / f"recognized-{k}.npy")
    return Cache(cache.folder)


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

    Every epoch is a new permutation; each process of `processes` takes its own share of a step. A picture is cropped
    at a random multiple of 8 px, and mirrored half of the time where the cache holds mirrored latents.
    """

    def __init__(self, cache: Cache, batch: int, crop: int, seed: int, rank: int = 0, processes: int = 1):
        resolution = cache.meta["resolution"]
        if crop > resolution or crop % 8:
            raise DataError(f"crop {crop} px must be a multiple of 8 and at most the cache's {resolution} px")
        self.cache, self.batch, self.crop, self.seed = cache, batch, crop, seed
        self.rank, self.processes = rank, processes
        self._permutation: tuple[int, np.ndarray] | None = None

    def _index(self, position: int) -> int:
        epoch, place = divmod(position, len(self.cache))
        if self._permutation is None or self._permutation[0] != epoch:
            self._permutation = (epoch, np.random.default_rng([self.seed, epoch]).permutation(len(self.cache)))
        return int(self._permutation[1][place])

    def __getitem__(self, step: int) -> dict:
        start = (step * self.processes + self.rank) * self.batch
        indices = [self._index(start + k) for k in range(self.batch)]
        rng = np.random.default_rng([self.seed, step, self.rank, 1])
        spare = (self.cache.meta["resolution"] - self.crop) // 8
        tops, lefts = rng.integers(0, spare + 1, (2, self.batch))
        mirror = rng.random(self.batch) < (0.5 if self.cache.meta["mirror"] else 0)
        rgb, latents = [], []
        cells = self.crop // 8
        for index, top, left, flip in zip(indices, tops, lefts, mirror):
            view = self.cache.view(index, int(flip))
            rgb.append(view[:, top * 8 : (top + cells) * 8, left * 8 : (left + cells) * 8])
            latent = self.cache.latents[index, int(flip), :, top : top + cells, left : left + cells]
            latents.append(torch.from_numpy(latent.astype(np.float32)))
        captions, color_captions = zip(*(_captions(self.cache.records[i], rng) for i in indices))
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
