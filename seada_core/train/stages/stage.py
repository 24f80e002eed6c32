"""What a training stage is: the modules of its step, which of them learn, and the loss of one batch."""

from __future__ import annotations

from typing import TypedDict

import torch
from torch import Tensor, nn

from ..batches import Batch


class _Parameters(TypedDict):
    params: list[nn.Parameter]


class ParameterGroup(_Parameters, total=False):
    """Parameters that an optimiser treats alike, with what differs from the recipe."""

    scale: float  # factor on the learning rate
    betas: tuple[float, float]
    weight_decay: float


class Stage(nn.Module):
    """One stage of training, driven by `loop.fit`.

    Parameters with `requires_grad` are trained (and averaged by EMA); everything else is frozen. What is random about a
    picture comes from `Draws(batch.seeds)` and `batch.uniform`, so that it is the same on any number of
    processes; anything else from torch's global generator, which the loop seeds alike on all of them for every step.
    """

    name: str  # this and the next as the stage's entry in the registry has them
    multiple: int = 1  # a process takes its pictures in multiples of this many

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Named loss terms of a batch; `loss` is the one to minimise."""
        raise NotImplementedError

    def preview(self, batch: Batch) -> dict[str, Tensor]:
        """Pictures (B, 3, H, W) in [0, 1] to look at, by name; called without gradients, EMA weights in place."""
        return {}

    def changing_buffers(self) -> list[Tensor]:
        """Buffers that `forward` changes in training: restored when a step is skipped."""
        return []

    def parameter_groups(self) -> list[ParameterGroup]:
        """What is trained, in groups for the optimiser."""
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]

    def parts(self) -> dict[str, nn.Module]:
        """What this stage exports: part name (a file name in a model folder) to module."""
        raise NotImplementedError


def gather(tensor: Tensor) -> Tensor:
    """The rows of all processes, in order; without gradient. The tensor itself where there is one process."""
    if not torch.distributed.is_initialized():
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)
