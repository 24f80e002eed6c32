"""Batches of pictures by step number: the same on any number of processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from .data import Pictures
from .sources import DataError


@dataclass
class Batch:
    """Some pictures of a step with their latents, captions and seeds.

    Attributes:
        rgb: (B, 3, H, W) float in [0, 1].
        latent: (B, 4, H/8, W/8), the scaled latents of `rgb`.
        captions, color_captions: B grey and B colour descriptions.
        places: each picture's place in the run.
        seeds: a seed per picture for its random numbers.
        uniform: (B,) in [0, 1), stratified over the pictures of a step on all processes.
        recognized: a classifier's maps of the grey pictures, each (B, C, h, w), where they are known.
        labels: (B, H, W) uint8, what pixels show, 255 where it is not known; None where that is everywhere.
    """

    rgb: Tensor
    latent: Tensor
    captions: list[str]
    color_captions: list[str]
    places: list[int]
    seeds: list[int]
    uniform: Tensor
    recognized: list[Tensor] | None = None
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.rgb)

    def to(self, device: torch.device | str) -> Batch:
        """The batch on a device; pictures and maps in the memory format `channels_last`."""

        def move(tensor: Tensor) -> Tensor:
            layout = torch.channels_last if tensor.ndim == 4 else torch.preserve_format
            return tensor.to(device, memory_format=layout, non_blocking=True)

        return self._each(lambda value: move(value) if isinstance(value, Tensor) else value)

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory, for asynchronous copies to a GPU; called by torch's DataLoader."""

        def pin(value: Any) -> Any:
            return value.pin_memory() if isinstance(value, Tensor) and value.device.type == "cpu" else value

        return self._each(pin)

    def rows(self, start: int, stop: int) -> Batch:
        """The pictures from `start` up to `stop`, which is excluded."""
        return self._each(lambda value: value[start:stop])

    def in_halves(self) -> Batch:
        """The pictures of even places first: of two halves, the same go into the first on any number of processes."""
        order = sorted(range(len(self)), key=lambda k: self.places[k] % 2)
        return self._each(lambda value: value[order] if isinstance(value, Tensor) else [value[k] for k in order])

    def _each(self, change: Callable[[Any], Any]) -> Batch:
        """A batch of changed values: tensors, and lists with a value per picture."""
        values: dict[str, Any] = {of.name: getattr(self, of.name) for of in fields(self)}
        maps = values.pop("recognized")
        changed: dict[str, Any] = {name: None if value is None else change(value) for name, value in values.items()}
        return Batch(**changed, recognized=None if maps is None else [change(m) for m in maps])


class Batches(Dataset):
    """Batch number `step`, as a function of the step and the seed alone: a resumed run gets the same batches.

    Every epoch is a new permutation, of which a step takes the next `batch` places, and each of `processes` an equal
    share of those. All that is random about a picture (crop, mirror, caption, and the `seeds` and `uniform` that stages
    draw from) follows from its place: any number of processes trains on the same. See `Pictures.take`.

    Raises:
        DataError: `crop` does not fit the pictures, or `batch` the processes or the number of pictures.
    """

    def __init__(self, cache: Pictures, batch: int, crop: int, seed: int, rank: int = 0, processes: int = 1):
        resolution = cache.meta["resolution"]
        if crop > resolution or crop % 8:
            raise DataError(f"crop {crop} px must be a multiple of 8 and at most the pictures' {resolution} px")
        if batch % processes:
            raise DataError(f"batch {batch} cannot be shared among {processes} processes equally")
        if batch > len(cache):
            raise DataError(
                f"batch {batch} is more than the {len(cache)} pictures there are: give --batch {len(cache)}"
            )
        self.cache, self.batch, self.crop, self.seed = cache, batch, crop, seed
        self.rank, self.processes = rank, processes
        self._permutation: tuple[int, np.ndarray] | None = None

    def picture_at(self, position: int) -> int:
        """The number of the picture at a place of the run."""
        epoch, place = divmod(position, len(self.cache))
        if self._permutation is None or self._permutation[0] != epoch:
            self._permutation = (epoch, np.random.default_rng([self.seed, epoch]).permutation(len(self.cache)))
        return int(self._permutation[1][place])

    def __getitem__(self, step: int) -> Batch:
        share = self.batch // self.processes
        mine = slice(self.rank * share, (self.rank + 1) * share)
        places = range(step * self.batch, (step + 1) * self.batch)[mine]
        strata = np.random.default_rng([self.seed, step, 2]).permutation(self.batch)[mine]
        indices = [self.picture_at(place) for place in places]
        rngs = [np.random.default_rng([self.seed, place, 1]) for place in places]
        taken = self.cache.take(indices, rngs, self.crop)
        captions, color_captions = zip(*(_captions(self.cache.records[i], rng) for i, rng in zip(indices, rngs)))
        return Batch(
            rgb=taken.rgb,
            latent=taken.latent,
            captions=list(captions),
            color_captions=list(color_captions),
            places=list(places),
            seeds=[int(rng.integers(2**63)) for rng in rngs],
            uniform=torch.tensor([(s + rng.random()) / self.batch for s, rng in zip(strata, rngs)]).float(),
            recognized=taken.recognized,
            labels=taken.labels,
        )


def _captions(record: dict, rng: np.random.Generator) -> tuple[str, str]:
    """One grey caption of a record and the colour caption that belongs to it; empty where there is none."""
    captions = record.get("captions") or [""]
    k = int(rng.integers(len(captions)))
    return captions[k], (record.get("color_captions") or captions)[k]
