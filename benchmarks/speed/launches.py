"""What a GPU waits for, counted on the CPU: `python -m benchmarks.speed.launches`.

Operations that launch a kernel, and host synchronisations, of one denoising step in Stable Diffusion 1.5's layout with
RCA at 12 sites, against diffusers' UNet and ControlNet (small random weights: widths do not change the counts), and of
one photo through a model from PIL to PIL.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import Table
from seada_core.models import backbone
from seada_core.models.controlnet_rca import ControlNetRCA
from seada_core.options import ColorizeOptions
from seada_core.pipeline import Colorizer
from seada_core.presets import SD15, UNetConfig

_NO_KERNEL = ("empty", "new_empty", "detach", "lift_fresh", "set_", "resize_", "_unsafe_view", "_reshape_alias")
_SYNCHRONISING = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select")


class Launches(TorchDispatchMode):
    """Counts, within its context, the operations that launch kernels, and those that wait for their results.

    Views, allocations and metadata launch nothing. Host tensors of one number or of no floating point are counted too:
    on a GPU each is copied there.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.synchronisations: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in _SYNCHRONISING:
            self.synchronisations[name] += 1
        elif not func.is_view and not name.startswith(_NO_KERNEL):
            self.operations[name] += 1
        return func(*args, **(kwargs or {}))

    @property
    def total(self) -> int:
        return self.operations.total()
