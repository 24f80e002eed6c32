"""Captions of a frozen text encoder, encoded once and kept on disk, so that it need not be in memory."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..files import atomic
from ..models.semantic_adapter import SemanticEncoder
from .data import Pictures
from .disk import create_array
from .draws import send
from .sources import DataError
from .stages.diffusion import GENERIC
from .stages.stage import Stage


def _keys(texts: Iterable[str]) -> np.ndarray:
    digests = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts)
    return np.frombuffer(digests, np.uint64)


class CachedSemanticEncoder(nn.Module):
    """A frozen `SemanticEncoder` restricted to the texts of its folder; see `cache_texts`.

    Embeddings are stored in float16 and memory-mapped.
    """

    place: Tensor

    def __init__(self, folder: Path, encoder: SemanticEncoder):
        super().__init__()
        self.tokenizer = encoder.tokenizer
        self.keys = np.load(folder / "keys.npy", mmap_mode="r")
        self.embeddings = np.load(folder / "embeddings.npy", mmap_mode="r")
        self.register_buffer("place", torch.empty(0), persistent=False)  # moves with the stage

    def forward(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Captions to e (B, L, d) in float32 and the mask (B, L), as `SemanticEncoder` returns them."""
        keys = _keys(texts)
        rows = np.searchsorted(self.keys, keys).clip(max=len(self.keys) - 1)
        unknown = np.flatnonzero(self.keys[rows] != keys)
        if len(unknown):
            text = texts[unknown[0]]
            raise DataError(f"{text!r} is not among the cached texts: delete their folder to encode them again")
        e = send(torch.from_numpy(self.embeddings[rows]), self.place.device).float()
        return e, send(self.tokenizer.mask(self.tokenizer(texts)), self.place.device)


@torch.no_grad()
def cache_texts(encoder: SemanticEncoder, caches: Iterable[Pictures | None], parent: Path, batch: int = 256) -> Path:
    """The folder with the embeddings of all captions of `caches`, made if it does not exist.

    Its name has the encoder's fingerprint: another encoder gets another folder. A caption of SD1.5's encoder takes
    118 kB.

    Raises:
        DataError: the disk has too little space.
    """
    found = {"", *GENERIC}
    for cache in caches:
        for record in () if cache is None else cache.records:
            found.update(record.get("captions") or ())
            found.update(record.get("color_captions") or ())
    fingerprint = hashlib.blake2b(digest_size=6)
    for tensor in encoder.state_dict().values():
        fingerprint.update(tensor.detach().float().cpu().contiguous().numpy().data)
    texts = sorted(found, key=lambda text: int(_keys([text])[0]))
    keys = _keys(texts)
    fingerprint.update(keys.data)
    folder = parent / f"texts-{fingerprint.hexdigest()}"
    if folder.is_dir():
        return folder
    first = encoder(texts[:1])[0]
    size = len(texts) * first[0].numel() * 2
    parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(parent).free
    if size > 0.9 * free:
        raise DataError(
            f"the embeddings of {len(texts)} captions take {size / 1e9:.1f} GB, and {parent} has {free / 1e9:.1f} GB "
            "left: give --cache-text False"
        )
    with atomic.new_folder(folder) as part:
        np.save(part / "keys.npy", keys)
        array = create_array(part / "embeddings.npy", np.float16, (len(texts), *first.shape[1:]))
        for start in tqdm(range(0, len(texts), batch), desc="captions", unit_scale=batch, unit="text"):
            array[start : start + batch] = encoder(texts[start : start + batch])[0].float().cpu().numpy()
        array.flush()
    return folder


def use_cached_texts(stage: Stage, folder: Path) -> None:
    """Substitute the cached embeddings for every frozen text encoder of a stage."""
    for module in list(stage.modules()):
        encoder = module._modules.get("semantic_encoder")
        if isinstance(encoder, SemanticEncoder):
            module.semantic_encoder = CachedSemanticEncoder(folder, encoder)


def text_is_frozen(stage: Stage) -> bool:
    """Whether a stage has a text encoder and does not train it."""
    encoders = [module for module in stage.modules() if isinstance(module, SemanticEncoder)]
    return bool(encoders) and not any(p.requires_grad for encoder in encoders for p in encoder.parameters())
