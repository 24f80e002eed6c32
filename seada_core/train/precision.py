"""Which precision a device trains in, where `--precision` leaves the choice to it."""

from __future__ import annotations

import torch

from ..presets import TrainConfig


def computes_bfloat16(device: torch.device | str) -> bool:
    """Whether the device has instructions for bfloat16. CPUs without AVX-512 and GPUs before Ampere have none: there it
    takes up to nine times as long as float32."""
    kind = torch.device(device).type
    if kind == "cpu":
        # what torch itself asks before it uses oneDNN, without which it has nothing fast
        return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return kind != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)


def precision_of(config: TrainConfig, device: torch.device | str) -> str:
    """`config.precision`, of which "auto" is "bf16" where the device computes it, else "no"."""
    if config.precision != "auto":
        return config.precision
    return "bf16" if computes_bfloat16(device) else "no"


def frozen_of(config: TrainConfig, device: torch.device | str) -> str:
    """`config.frozen`, but "fp32" where nothing is autocast: weights in bfloat16 need autocast."""
    return config.frozen if precision_of(config, device) != "no" else "fp32"
