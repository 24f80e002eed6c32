"""How many threads torch computes by."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Within the block torch computes by `count` threads, in this thread and in those that it starts."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def half_of_the_threads() -> Iterator[None]:
    """Within the block torch computes by half of its threads, at least one: for several stages that work at once."""
    with torch_threads(max(1, torch.get_num_threads() // 2)):
        yield
