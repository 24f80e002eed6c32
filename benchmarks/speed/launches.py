"""What a GPU waits for, counted on the CPU: `python -m benchmarks.speed.launches`.

Operations that launch a kernel, and waits of the host for the device. One step of denoising in Stable Diffusion 1.5's
layout with RCA at 12 sites and guidance, against diffusers' UNet and ControlNet (random weights of small widths, which
do not change the counts); and one photo of 600x400 through a model, from PIL to PIL, also with CUDA graphs, of which
each is one launch.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from PIL import Image
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from benchmarks import Table
from seada_core.choices import SCHEDULERS
from seada_core.models import convolution
from seada_core.models.captured import Captured, Graphs, Recorded, each_tensor, leaves_of
from seada_core.models.controlnet_rca import ControlNetRCA
from seada_core.models.unet import UNet
from seada_core.options import ColorizeOptions
from seada_core.pipeline import Colorizer
from seada_core.presets import SD15, Preset, UNetConfig
from seada_core.weights.export import diffusers_scheduler, diffusers_unet
from seada_core.weights.parts import PartStore
from seada_core.weights.stock_controlnet import build_controlnet

SMALL = replace(SD15, unet=UNetConfig(channels=(32, 64, 64, 64), context_dim=32, heads=4))
PEER = "diffusers UNet + ControlNet"
PHOTO = Path(__file__).resolve().parents[2] / "samples" / "photo.jpg"
BEFORE = {"its own caption": 2183, "no caption": 1480}  # of `mini`, by the code from before launches were counted
_NO_KERNEL = ("empty", "new_empty", "detach", "lift_fresh", "set_", "resize_", "_unsafe_view", "_reshape_alias")
_WAITS = {"_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select"}
_FROM_THE_HOST = {"lift_fresh", "lift_fresh_copy"}  # `torch.tensor` of numbers


class Launches(TorchDispatchMode):
    """Counts, within its context, the operations that launch kernels, and the waits for their results.

    Views, allocations and metadata launch nothing. `Tensor.cpu`, `numpy` and `tolist` are waits too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()

    def __enter__(self):
        self.methods = {name: getattr(Tensor, name) for name in ("cpu", "numpy", "tolist")}
        for name, method in self.methods.items():
            setattr(Tensor, name, self._counting(name, method))
        return super().__enter__()

    def __exit__(self, *error: object):
        for name, method in self.methods.items():
            setattr(Tensor, name, method)
        return super().__exit__(*error)

    def _counting(self, name: str, method: Callable) -> Callable:
        def call(*arguments, **options):
            self.waits[name] += 1
            return method(*arguments, **options)

        return call

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in _WAITS:
            self.waits[name] += 1
        elif not func.is_view and not name.startswith(_NO_KERNEL):
            self.operations[name] += 1
        return func(*args, **(kwargs or {}))


def count(function: Callable[[], Any]) -> tuple[int, int]:
    """Operations and waits of a call, without gradients; a GPU has no fused convolutions."""
    with torch.no_grad(), mock.patch.object(convolution, "AVAILABLE", False), Launches() as launches:
        function()
    return launches.operations.total(), launches.waits.total()


class Rehearsed(Captured):
    """`Captured` on the CPU: records operations, as a CUDA graph does, and replays only these.

    Raises RuntimeError where a function does what a CUDA graph cannot hold: waiting, or taking numbers from the host.
    """

    device = "cpu"

    def _record(self, arguments: Any) -> Recorded:
        with torch.inference_mode(False):
            copies = each_tensor(arguments, torch.clone)
        inputs = [leaf for leaf in leaves_of(copies) if isinstance(leaf, Tensor)]

        def flat(*tensors: Tensor) -> list[Tensor]:
            given = iter(tensors)
            results = self.function(*each_tensor(copies, lambda _: next(given)))
            return [leaf for leaf in leaves_of(results) if isinstance(leaf, Tensor)]

        with _disable_current_modes(), torch.inference_mode(False), torch.no_grad():
            graph = make_fx(flat)(*inputs)
            outputs = self.function(*copies)
        packets = [getattr(node.target, "overloadpacket", None) for node in graph.graph.nodes]
        used = {packet.__name__ for packet in packets if packet is not None}
        if used & (_WAITS | _FROM_THE_HOST):
            raise RuntimeError(f"{self.function.__name__} has {used & (_WAITS | _FROM_THE_HOST)}")
        results = [leaf for leaf in leaves_of(outputs) if isinstance(leaf, Tensor)]

        def replay() -> None:
            results[0].clone()  # counted as the launch of the graph
            with _disable_current_modes(), torch.no_grad():
                for result, computed in zip(results, graph(*inputs), strict=True):
                    result.copy_(computed)

        return Recorded(SimpleNamespace(replay=replay), inputs, outputs, [(x, None) for x in inputs])


def small_colorizer(preset: Preset = SMALL) -> tuple[Colorizer, torch.nn.Module]:
    """A Colorizer with a random UNet and controller in Stable Diffusion 1.5's layout, and diffusers' ControlNet."""
    torch.manual_seed(0)
    unet = UNet(preset.unet)
    parts = {"unet": unet, "controlnet_rca": ControlNetRCA(unet, preset.control)}
    plain = build_controlnet(preset.unet).eval()
    source: Any = SimpleNamespace(
        folder=None, preset=preset, has=parts.__contains__, load=lambda part: parts[part].eval()
    )
    colorizer = Colorizer(PartStore(source, "cpu"))
    return colorizer, plain.to(memory_format=torch.channels_last)


def our_sampling(colorizer: Colorizer, side: int = 64, **options: Any) -> Callable[[int], Tensor]:
    """Sampling of a picture of `side` px in a number of steps."""
    preset = colorizer.preset
    gray = torch.rand(1, 1, side, side)
    text, none = torch.randn(2, 1, preset.text.length, preset.unet.context_dim)

    def sample(steps: int) -> Tensor:
        return colorizer.sample(gray, text, none, ColorizeOptions(steps=steps, guidance=5.0, **options))

    return sample


def diffusers_sampling(colorizer: Colorizer, plain: torch.nn.Module, scheduler: str) -> Callable[[int], Tensor]:
    """The loop of StableDiffusionControlNetPipeline, with the same UNet."""
    from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler

    kinds = {"unipc": UniPCMultistepScheduler, "dpm++": DPMSolverMultistepScheduler}
    solver: Any = diffusers_scheduler(colorizer.preset.diffusion)
    unet = diffusers_unet(colorizer.part("unet"))
    if scheduler in kinds:
        solver = kinds[scheduler].from_config(solver.config)
    context = torch.randn(2, SD15.text.length, SMALL.unet.context_dim)
    condition = torch.rand(2, 3, 64, 64)

    def sample(steps: int) -> Tensor:
        solver.set_timesteps(steps)
        x = torch.randn(1, 4, 8, 8).contiguous(memory_format=torch.channels_last)
        for t in solver.timesteps:
            z = solver.scale_model_input(torch.cat([x] * 2), t)
            down, middle = plain(z, t, context, condition, conditioning_scale=1.0, return_dict=False)
            added = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
            without, with_text = unet(z, t, context, return_dict=False, **added)[0].chunk(2)
            x = solver.step(without + 5.0 * (with_text - without), t, x, return_dict=False)[0]
        return x

    return sample


def per_step(sample: Callable[[int], Any]) -> tuple[int, int]:
    """Operations and waits of one more step, in the middle, once shapes have been seen."""
    for steps in (5, 6):
        count(lambda steps=steps: sample(steps))
    (five, waits_of_five), (six, waits_of_six) = count(lambda: sample(5)), count(lambda: sample(6))
    return six - five, waits_of_six - waits_of_five


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", default="mini")
    options = parser.parse_args(arguments)
    colorizer, plain = small_colorizer()
    table = Table("launches_step", "one step in SD1.5's layout, guidance; aim: 1.0", ["operations", "ratio", "waits"])
    for scheduler in SCHEDULERS:
        theirs, waits = per_step(diffusers_sampling(colorizer, plain, scheduler))
        table.add(f"{PEER}, {scheduler}", theirs, 1.0, waits)
        for name, shared in (("ours, 12 sites", False), ("ours, 12 sites, shared", True)):
            ours, waits = per_step(our_sampling(colorizer, scheduler=scheduler, shared_control=shared))
            table.add(f"{name}, {scheduler}", ours, ours / theirs, waits)
    colorizer.graphs = Graphs(True, Rehearsed)
    sample = our_sampling(colorizer)
    per_step(sample)  # records
    launches, waits = per_step(sample)
    table.add("ours, a CUDA graph", launches, None, waits)

    photo = Image.open(PHOTO).convert("RGB").resize((600, 400))
    about = f"{options.model}: one photo of 600x400, PIL to PIL; aim: half of mini's {BEFORE}"
    table = Table("launches_photo", about, ["operations", "waits", "with CUDA graphs"])
    model = Colorizer.from_pretrained(options.model, "cpu")
    for name, texts in (("its own caption", {}), ("no caption", {"prompt": ""})):
        counts = []
        for graphs in (Graphs(False), Graphs(True, Rehearsed)):
            model.graphs = graphs
            for _ in range(2):
                model(photo, **texts)
            counts.append(count(lambda texts=texts: model(photo, **texts)))
        table.add(name, *counts[0], counts[1][0])
    return 0


if __name__ == "__main__":
    sys.exit(main())
