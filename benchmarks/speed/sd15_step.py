"""One denoising step at SD1.5's full size: mapper + E_con + RCA against diffusers' plain ControlNet on the same UNet.

`python -m benchmarks.speed.sd15_step [--size 512] [--dtype bfloat16] [--repeats 5] [--compile] [--profile]`: random
weights, rows with and without text in one batch (classifier-free guidance), channels_last, alternating; on a GPU if
there is one. "shared" runs E_con only on the rows with text. The mapper is included in every step, though a picture
needs it only once. `--compile` adds both compiled. `--flops` counts operations instead, without running anything.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from benchmarks import Table
from seada_core.models import sampling
from seada_core.models.controlnet_rca import ControlNetRCA
from seada_core.models.unet import UNet
from seada_core.presets import SD15, Preset
from seada_core.weights.export import diffusers_unet
from seada_core.weights.stock_controlnet import build_controlnet

AIM = 1.15
PEER = "diffusers UNet + ControlNet"


def models(device: str, dtype: torch.dtype, preset: Preset = SD15) -> list[torch.nn.Module]:
    """A random UNet, our controller at 12 sites and at 4 (one E_con), and the UNet and a ControlNet as diffusers'."""
    torch.manual_seed(0)
    with torch.device(device):  # on a GPU, random weights take seconds there and minutes on the CPU
        unet = UNet(preset.unet)
        twelve = ControlNetRCA(unet, preset.control)
        four = ControlNetRCA(unet, replace(preset.control, sites="blocks"))
        four.encoder = twelve.encoder
        plain = build_controlnet(preset.unet)
    place = {"device": device, "dtype": dtype, "memory_format": torch.channels_last}
    placed = [torch.nn.Module.to(m.eval().requires_grad_(False), **place) for m in (unet, twelve, four, plain)]
    return [*placed[:3], diffusers_unet(placed[0]).requires_grad_(False), placed[3]]


def our_step(
    predict: Callable, unet, control, x, timestep, context, picture, shared: bool, prepared: bool = False
) -> Callable[[], None]:
    """A step of ours; `prepared`: what all steps share is computed before, as `Colorizer` does, else in the step."""
    if prepared:
        fixed = sampling.fix_parts(unet, control, timestep[None], context, len(x) * (1 if shared else 2)).at(0)
        once = control.condense(picture, tuple(x.shape[-2:]))
        return lambda: predict(unet, control, x, timestep, context, once, 1.0, shared, (), fixed)

    def step() -> None:
        c_f = control.condense(picture, tuple(x.shape[-2:]))
        predict(unet, control, x, timestep, context, c_f, 1.0, shared, ())

    return step


def plain_step(unet, control, x, timestep, context, picture) -> Callable[[], None]:
    """A step as in StableDiffusionControlNetPipeline."""

    def step() -> None:
        z_t, condition = x.repeat(2, 1, 1, 1), picture.repeat(2, 1, 1, 1)
        down, middle = control(z_t, timestep, context, condition, conditioning_scale=1.0, return_dict=False)
        unet(
            z_t,
            timestep,
            context,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
            return_dict=False,
        )

    return step


def timed(steps: dict[str, Callable[[], None]], repeats: int, device: str) -> dict[str, list[float]]:
    """Seconds of each, alternating, after two turns to warm up. On a CPU, processor time, so that other work matters
    less."""
    clock = time.perf_counter if device.startswith("cuda") else time.process_time
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(repeats + 2):
        for name, step in steps.items():
            started = clock()
            step()
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            if repeat >= 2:
                seconds[name].append(clock() - started)
    return seconds


@torch.inference_mode()
def main(arguments: list[str] | None = None) -> int:
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--size", type=int, default=512 if gpu else 256, help="side of the picture, px")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="bfloat16")
    parser.add_argument("--device", default="cuda" if gpu else "cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="also both compiled")
    parser.add_argument("--flops", action="store_true", help="only count operations")
    parser.add_argument("--profile", action="store_true", help="print where the time of one step of each goes, and end")
    options = parser.parse_args(arguments)
    device, dtype = "meta" if options.flops else options.device, getattr(torch, options.dtype)
    unet, twelve, four, plain_unet, plain = models(device, dtype)
    cells = options.size // 8
    x = torch.randn(1, 4, cells, cells, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
    timestep = torch.tensor(500, device=device)
    context = torch.randn(2, SD15.text.length, SD15.text.width, device=device, dtype=dtype)
    picture = torch.rand(1, 3, options.size, options.size, device=device, dtype=dtype)
    given = (x, timestep, context, picture)

    steps = {
        PEER: plain_step(plain_unet, plain, *given),
        "ours, 12 sites": our_step(sampling.predict, unet, twelve, *given, shared=False),
        "ours, 4 sites": our_step(sampling.predict, unet, four, *given, shared=False),
        "ours, 12 sites, shared": our_step(sampling.predict, unet, twelve, *given, shared=True),
    }
    if options.compile:
        mode = "reduce-overhead" if gpu else None
        peer = plain_step(torch.compile(plain_unet, mode=mode), torch.compile(plain, mode=mode), *given)
        compiled = our_step(torch.compile(sampling.predict, mode=mode), unet, twelve, *given, shared=False)
        steps |= {f"{PEER}, compiled": peer, "ours, 12 sites, compiled": compiled}
    about = f"{options.size} px, {options.dtype}, cond + uncond, {options.repeats} repeats; aim {AIM}"
    if options.flops:
        from torch.utils.flop_counter import FlopCounterMode

        counts, table = {}, Table("sd15_step_operations", about, ["billion operations", "ratio"], device)
        for name, step in steps.items():
            with FlopCounterMode(display=False) as counter:
                step()
            counts[name] = counter.get_total_flops()
            table.add(name, counts[name] / 1e9, counts[name] / counts[PEER])
        return 0
    if options.profile:
        from torch.profiler import profile

        for name in (PEER, "ours, 12 sites"):
            steps[name]()
            with profile() as found:
                steps[name]()
            print(name, found.key_averages().table(sort_by="self_cpu_time_total", row_limit=14), sep="\n")
        return 0
    seconds = timed(steps, options.repeats, device)
    table = Table("sd15_step", about, ["median s", "best s", "ratio of medians", "of the best"], device)
    for name, values in seconds.items():
        middle = statistics.median(values)
        # alternating, so that other work on the machine affects both
        ratio = statistics.median(a / b for a, b in zip(values, seconds[PEER]))
        best = min(values) / min(seconds[PEER])
        table.add(name, middle, min(values), ratio, best)
    return 0


if __name__ == "__main__":
    sys.exit(main())
