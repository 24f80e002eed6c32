"""Random numbers that belong to a picture's place in the run, not to the process or the batch that it is trained in."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Draws:
    """Random numbers for the pictures of a batch, each picture's from a generator of its own, on the CPU.

    A picture's numbers depend on its seed alone: two processes, or four micro-batches, draw the same noise as one
    process with the whole batch, on a GPU the same as on a CPU.
    """

    def __init__(self, seeds: Sequence[int]):
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal numbers in the shape, dtype, device and memory format of `like` (B, ...)."""
        rows = [torch.randn(like.shape[1:], generator=generator) for generator in self.generators]
        return torch.empty_like(like).copy_(send(torch.stack(rows), like.device))

    def uniform(self, *shape: int, device: torch.device | str = "cpu") -> Tensor:
        """(B, *shape) float32 in [0, 1)."""
        numbers = torch.stack([torch.rand(shape, generator=generator) for generator in self.generators])
        return send(numbers, torch.device(device))


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A CPU's tensor on the device; to a GPU from page-locked memory, else the CPU would wait for the GPU's work."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
