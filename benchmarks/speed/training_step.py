"""A training step of `mini` against diffusers' plain ControlNet on the same UNet and batch.

`python -m benchmarks.speed.training_step [--batch 32] [--repeats 5]`: both forward, backward and AdamW, UNet frozen,
bf16 autocast where the processor computes it, channels_last, alternating, medians.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from benchmarks import Table
from seada_core.models import backbone
from seada_core.models.controlnet_rca import ControlNetRCA, recognize
from seada_core.models.unet import UNet
from seada_core.presets import PRESETS
from seada_core.train.precision import computes_bfloat16
from seada_core.weights.export import diffusers_unet
from seada_core.weights.stock_controlnet import build_controlnet


def ours(unet, preset, z, t, context, condition) -> Callable[[], None]:
    control = ControlNetRCA(unet, preset.control).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(control.parameters(), 1e-5)
    # as in training: the features of the mapper's classifier are computed once and cached
    recognized = recognize(control.mapper.classifier, condition) if preset.control.recognition else None

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=computes_bfloat16("cpu")):
            features = control.encode(z, t, context, condition, recognized=recognized)
            hook = lambda i, h: control.attend(i, h, features)  # noqa: E731
            output = backbone.denoise(unet, z, t, context, features.residuals, [hook])
        F.mse_loss(output.float(), z).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def plain_controlnet(unet, z, t, context, condition) -> Callable[[], None]:
    control = build_controlnet(unet.config).to(memory_format=torch.channels_last)
    unet = diffusers_unet(unet)
    optimizer = torch.optim.AdamW(control.parameters(), 1e-5)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=computes_bfloat16("cpu")):
            down, middle = control(z, t, context, condition, return_dict=False)
            output = unet(
                z, t, context, down_block_additional_residuals=down, mid_block_additional_residual=middle
            ).sample
        F.mse_loss(output.float(), z).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--preset", choices=PRESETS, default="mini")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=96, help="side of the pictures, px")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(arguments)
    preset = PRESETS[options.preset]
    torch.manual_seed(0)
    unet = UNet(preset.unet).requires_grad_(False).to(memory_format=torch.channels_last)
    side = options.size // 8
    z = torch.randn(options.batch, 4, side, side).contiguous(memory_format=torch.channels_last)
    t = torch.randint(0, 1000, (options.batch,))
    context = torch.randn(options.batch, preset.text.length, preset.text.width)
    condition = torch.rand(options.batch, 3, options.size, options.size)
    steps = {
        "mapper + E_con + RCA": ours(unet, preset, z, t, context, condition),
        "diffusers ControlNet": plain_controlnet(unet, z, t, context, condition),
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(options.repeats + 2):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            if repeat >= 2:  # the first two warm up
                seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    table = Table("training_step", f"batch {options.batch}, {options.size} px, median of turns", ["s a step", "ratio"])
    for name, value in medians.items():
        table.add(name, value, value / medians["diffusers ControlNet"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
