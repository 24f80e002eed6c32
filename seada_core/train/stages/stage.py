"""The interface of a training stage: its modules, which of them are trained, and the loss of a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

import torch
from torch import Tensor, nn

from ..batches import Batch
from ..sources import DataError

if TYPE_CHECKING:
    from .registry import StageSetup


class _Parameters(TypedDict):
    params: list[nn.Parameter]


class ParameterGroup(_Parameters, total=False):
    """Parameters that an optimiser treats alike, with what differs from the recipe."""

    scale: float  # factor on the learning rate
    betas: tuple[float, float]
    weight_decay: float


class Stage(nn.Module):
    """One stage of training, driven by `loop.fit`.

    Parameters with `requires_grad` are trained (and averaged by EMA); everything else is frozen. Random numbers for a
    picture come from `Draws(batch.seeds)` and `batch.uniform`, so that they are the same on any number
    of processes; all others come from torch's global generator, which the loop seeds alike on all processes for every
    step.
    """

    name: str  # this and the next are set from the stage's entry in the registry
    multiple: int = 1  # a process takes its pictures in multiples of this many

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Named loss terms of a batch; `loss` is the one to minimise."""
        raise NotImplementedError

    def preview(self, batch: Batch) -> dict[str, Tensor]:
        """Preview pictures (B, 3, H, W) in [0, 1] by name; called without gradients, EMA weights in place."""
        return {}

    def changing_buffers(self) -> list[Tensor]:
        """Buffers that `forward` changes in training: restored when a step is skipped."""
        return []

    def parameter_groups(self) -> list[ParameterGroup]:
        """The trained parameters, in groups for the optimiser."""
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]

    def parts(self) -> dict[str, nn.Module]:
        """What this stage exports: part name (a file name in a model folder) to module."""
        raise NotImplementedError


def frozen_classifier(setup: StageSetup) -> Any:
    """The classifier of a stage's controller, all of which is frozen. Raises DataError where it has none."""
    control = setup.parts["controlnet_rca"].requires_grad_(False)
    classifier = getattr(getattr(control, "mapper", None), "classifier", None)
    if classifier is None:
        name = setup.entry.name
        raise DataError(f"stage {name} needs a controller whose mapper has a classifier (--control.recognition)")
    return classifier


def gather(tensor: Tensor) -> Tensor:
    """The rows of all processes, in order; without gradient. The tensor itself where there is one process."""
    if not torch.distributed.is_initialized():
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)
