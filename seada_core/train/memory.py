"""Saving memory: activation checkpointing, frozen weights in bfloat16, optimisers with little state."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    CheckpointImpl,
    apply_activation_checkpointing,
    checkpoint_wrapper,
)

from ..models import clip_text, unet
from ..models.controlnet_rca import RCA
from ..models.token_diffusion import TokenBlock
from ..models.vq_decoder import Block, Residual
from ..presets import OPTIMIZERS, TrainConfig
from .stages.stage import ParameterGroup, Stage


class MemoryOptionError(ValueError):
    """An option that saves memory is not available here; the message says why."""


def build_optimizer(groups: Sequence[ParameterGroup], config: TrainConfig) -> torch.optim.Optimizer:
    """The recipe's optimiser. `adamw8bit` keeps both moments in 8 bits (Dettmers et al. 2022): 2 bytes a weight, not 8.
    `sgd` has no state: for trying a stage where memory is short, not for training.

    Raises:
        MemoryOptionError: an unknown optimiser, or bitsandbytes is not installed or does not work on the device.
    """
    parameters = [dict(group) for group in groups]
    if config.optimizer == "adamw":
        # one pass over memory in place of a dozen; CPUs keep torch's default, so that results there stay as they were
        fused = all(p.device.type == "cuda" for group in groups for p in group["params"]) or None
        return torch.optim.AdamW(parameters, config.lr, config.betas, weight_decay=config.weight_decay, fused=fused)
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, config.lr, weight_decay=config.weight_decay)
    if config.optimizer != "adamw8bit":
        raise MemoryOptionError(f"unknown optimizer {config.optimizer!r}; choose among {', '.join(OPTIMIZERS)}")
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError:
        raise MemoryOptionError(
            "--optimizer adamw8bit needs bitsandbytes: pip install bitsandbytes, or use --optimizer adamw"
        ) from None
    device = groups[0]["params"][0].device
    try:  # a step on a few numbers of the same device
        trial = nn.Parameter(torch.zeros(4096, device=device))
        trial.grad = torch.ones_like(trial)
        AdamW8bit([trial], config.lr).step()
        works = bool(torch.isfinite(trial).all() and trial.abs().max() > 0)
    except Exception as error:
        raise MemoryOptionError(
            f"bitsandbytes' 8-bit AdamW does not work on {device} ({error}); use --optimizer adamw"
        ) from None
    if not works:
        raise MemoryOptionError(f"bitsandbytes' 8-bit AdamW gives wrong steps on {device}; use --optimizer adamw")
    return AdamW8bit(parameters, config.lr, config.betas, weight_decay=config.weight_decay)


def checkpoint_activations(stage: Stage) -> int:
    """Let the blocks of UNet, conditional encoder, RCA, text encoder, decoder and token diffusion keep their inputs
    alone and recompute the rest in the backward pass (Chen et al. 2016). Returns how many blocks.

    Names in state dicts stay as they are.
    """
    kinds = (
        unet.ResidualBlock, unet.Transformer, unet.Downsample, unet.Upsample, RCA, clip_text.Layer, TokenBlock, Block,
        Residual,
    )  # fmt: skip
    # nothing in these blocks is random, so the generators' states need not be kept
    wrapper = partial(checkpoint_wrapper, checkpoint_impl=CheckpointImpl.NO_REENTRANT, preserve_rng_state=False)
    apply_activation_checkpointing(stage, checkpoint_wrapper_fn=wrapper, check_fn=lambda m: isinstance(m, kinds))
    return sum(isinstance(module, kinds) for module in stage.modules())


def freeze_in_bf16(stage: Stage) -> list[str]:
    """Keep the big parts that a stage does not train in bfloat16, half of their memory. Returns their names.

    Of a UNet with a LoRA, everything except the LoRA. The codec stays in float32: bfloat16 cannot tell its codes apart.
    So do norms, whose few weights autocast would cast back at every call.
    """
    names = ("unet", "semantic_encoder", "color_encoder", "semantic_adapter", "controlnet_rca")
    cast = []
    for module in stage.modules():
        for name in names:
            part = module._modules.get(name)
            if part is None:
                continue
            if not any(p.requires_grad for p in part.parameters()) or getattr(part, "peft_config", None):
                _halve(part)
                cast.append(name)
    return cast


def _halve(part: nn.Module) -> None:
    for layer in part.modules():
        if not isinstance(layer, (nn.GroupNorm, nn.LayerNorm)):
            for tensor in [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]:
                if tensor.is_floating_point() and not tensor.requires_grad:
                    tensor.data = tensor.data.bfloat16()
