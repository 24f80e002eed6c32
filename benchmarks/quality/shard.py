"""Pictures of a webdataset shard for the benchmarks."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from seada_core.evaluate.sources import find, to_tensor


@dataclass(frozen=True)
class Photo:
    """A picture (3, H, W) in [0, 1]."""

    key: str
    truth: Tensor


def read_shard(path: Path, keys: Container[str] | None = None) -> Iterator[Photo]:
    """Pictures of a shard in their order (only those of `keys`, if given), one in memory at a time.

    Raises ValueError, naming the picture, for one that cannot be read.
    """
    for entry in find(path):
        if keys is None or entry.key in keys:
            yield Photo(entry.key, to_tensor(entry.load()))
