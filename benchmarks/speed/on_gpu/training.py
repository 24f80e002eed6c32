"""Training stages of Stable Diffusion 1.5's size on a GPU, beside diffusers' plain ControlNet on a frozen UNet."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F

from benchmarks.speed import training_stages
from seada_core.models.unet import UNet
from seada_core.weights.export import diffusers_unet
from seada_core.weights.stock_controlnet import build_controlnet

from .kit import Kit, plain_part
from .run import Measure, Measures

PEER = "diffusers' plain ControlNet, UNet frozen"
ACCUMULATED = 2  # micro-batches a step


@plain_part
def stages(kit: Kit) -> Measures:
    """Pictures a second and peak memory of the trainer's own step: stages II and III, texts as with --cache-text."""
    micro = micro_batch(kit)
    yield Measure(PEER, "pictures/s", lambda: _plain_controlnet(kit, micro, torch.contiguous_format))
    yield Measure(f"{PEER}, peak", "GB", kit.peak)
    last = partial(_plain_controlnet, kit, micro, torch.channels_last)
    yield Measure(f"{PEER}, channels last", "pictures/s", last, PEER)
    yield from _stage(kit, "stage2", f"micro-batch {micro}, texts cached", {"cache_text": True})
    yield from _stage(kit, "stage2", f"micro-batch {micro}", {})
    yield from _stage(kit, "stage3", f"micro-batch {micro}", {})


@plain_part
def more_stages(kit: Kit) -> Measures:
    """Likewise in the other memory format, stage I, a larger micro-batch, and checkpointed activations."""
    micro = micro_batch(kit)
    contiguous = {"layout": torch.contiguous_format, "cache_text": True}
    yield from _stage(kit, "stage2", f"micro-batch {micro}, texts cached, channels first", contiguous)
    yield from _stage(kit, "stage1", f"micro-batch {micro}", {})
    double = {"batch": 2 * ACCUMULATED * micro, "micro_batch": 2 * micro, "cache_text": True}
    yield from _stage(kit, "stage2", f"micro-batch {2 * micro}, texts cached", double)
    yield from _stage(kit, "stage2", f"micro-batch {micro}, checkpointed", {"gradient_checkpointing": True})


def micro_batch(kit: Kit) -> int:
    return 2 if kit.tiny else 8


def _stage(kit: Kit, name: str, what: str, changes: dict) -> Measures:
    micro = micro_batch(kit)
    recipe = {"batch": ACCUMULATED * micro, "micro_batch": micro, "condition_weight": 0.0, **changes}
    peaks: list[float] = []
    yield Measure(f"training {name}, {what}", "pictures/s", partial(_measure, kit, name, recipe, peaks), PEER)
    yield Measure(f"training {name}, {what}, peak", "GB", lambda: peaks[0], f"{PEER}, peak")


def _measure(kit: Kit, name: str, recipe: dict, peaks: list[float]) -> float:
    kit.forget_peak()
    layout = recipe.pop("layout", torch.channels_last)
    stage, config = training_stages.build(name, kit.preset, kit.device, recipe, layout)
    rate, peak = training_stages.measure(stage, config, kit.side, 1 if kit.tiny else 4, kit.device)
    peaks.append(peak)
    return rate


def _plain_controlnet(kit: Kit, micro: int, layout: torch.memory_format) -> float:
    """Pictures a second with AdamW, autocast, texts given encoded; without averages and clipping."""
    kit.forget_peak()
    torch.manual_seed(0)
    with torch.device(kit.device):
        unet = diffusers_unet(UNet(kit.preset.unet))
        control = build_controlnet(kit.preset.unet)
    torch.nn.Module.to(unet.eval().requires_grad_(False), dtype=kit.dtype, memory_format=layout)
    torch.nn.Module.to(control.train(), memory_format=layout)
    optimizer = torch.optim.AdamW(control.parameters(), 1e-5, fused=True)
    cells, text = kit.side // 8, kit.preset.text
    z = torch.randn(micro, 4, cells, cells, device=kit.device).contiguous(memory_format=layout)
    context = torch.randn(micro, text.length, text.width, device=kit.device)
    picture = torch.rand(micro, 3, kit.side, kit.side, device=kit.device)
    t = torch.randint(0, 1000, (micro,), device=kit.device)

    def step() -> None:
        for _ in range(ACCUMULATED):
            with torch.autocast(kit.device, torch.bfloat16):
                down, middle = control(z, t, context, picture, return_dict=False)
                residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
                output = unet(z, t, context, **residuals).sample
            F.mse_loss(output.float(), z).backward()
        optimizer.step()
        optimizer.zero_grad()

    return ACCUMULATED * micro / kit.seconds(step, 4, 1)
