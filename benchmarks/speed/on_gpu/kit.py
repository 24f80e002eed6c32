"""What every part of the GPU's benchmark uses: the device, its clock and memory, sizes, random models built on it."""

from __future__ import annotations

import gc
import resource
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, wraps
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from benchmarks.speed.on_gpu.run import Measures
from seada_core import presets
from seada_core.models.tokenizer import Tokenizer
from seada_core.pipeline import Colorizer
from seada_core.presets import SD15, Preset
from seada_core.weights import part_files
from seada_core.weights.parts import Parts, PartStore

ROOT = Path(__file__).resolve().parents[3]
TINY = replace(
    presets.MINI,
    name="tiny",
    text=presets.TextConfig(vocab_size=64, length=16, width=32, layers=1, heads=2),
    unet=presets.UNetConfig(
        channels=(32, 32), layers_per_block=1, attention=(False, True), heads=2, context_dim=32, groups=8
    ),
    adapter=presets.AdapterConfig(length=16, width=32),
    control=presets.ControlConfig(head_dim=16),
    hint=presets.HintConfig(channels=(8, 16, 16)),
    diffusion=presets.DiffusionConfig(),
    tokens=presets.TokenConfig(width=32, layers=1, heads=2, context_dim=32),
)


def name_of(dtype: torch.dtype) -> str:
    """Without "torch."."""
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Kit:
    """Where it is measured, and how large.

    Attributes:
        device: a name of torch's.
        tiny: small models and pictures and few repeats, to try the code on a CPU.
    """

    device: str = "cuda"
    tiny: bool = False

    @property
    def on_gpu(self) -> bool:
        return self.device.startswith("cuda")

    @property
    def preset(self) -> Preset:
        """Of the big models: Stable Diffusion 1.5's sizes."""
        return TINY if self.tiny else SD15

    @property
    def dtype(self) -> torch.dtype:
        """Of the big models."""
        return torch.bfloat16 if self.on_gpu else torch.float32

    @property
    def side(self) -> int:
        """Of the big models' pictures, px."""
        return 64 if self.tiny else 512

    @cached_property
    def photo(self) -> Image.Image:
        """A colour photo of 600×400 px."""
        with Image.open(ROOT / "samples" / "photo.jpg") as file:
            return file.convert("RGB").resize((60, 40) if self.tiny else (600, 400))

    @property
    def sizes(self) -> dict[str, int]:
        """Options of the embedded model's pictures, besides its own defaults."""
        return {"size": 64} if self.tiny else {}

    def sync(self) -> None:
        """Wait until the GPU is done."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def once(self, work: Callable[[], object]) -> float:
        """Seconds of a call."""
        self.sync()
        started = time.perf_counter()
        work()
        self.sync()
        return time.perf_counter() - started

    def seconds(self, work: Callable[[], object], times: int = 5, warm: int = 2) -> float:
        """Median seconds of a call, after calls to warm up."""
        times, warm = (1, 0) if self.tiny else (times, warm)
        for _ in range(warm):
            work()
        return statistics.median(self.once(work) for _ in range(times))

    def forget_peak(self) -> None:
        """Start to measure the peak of memory."""
        if self.on_gpu:
            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak(self) -> float:
        """Of memory, in GB; on a CPU that of the process."""
        if self.on_gpu:
            return torch.cuda.max_memory_allocated() / 1e9
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9

    @property
    def half(self) -> torch.dtype:
        """The embedded model's 16 bits, where the device computes in them."""
        return torch.float16 if self.on_gpu else torch.float32

    def mini(self, dtype: torch.dtype | None = None, graphs: bool | None = None) -> Colorizer:
        """The embedded model on the device, in `half` if nothing else is asked for."""
        return Colorizer.from_pretrained("mini", self.device, dtype or self.half, graphs=graphs)

    def big(self, graphs: bool = False) -> Colorizer:
        """A `Colorizer` of Stable Diffusion 1.5's size with random weights, without a captioner."""
        return Colorizer(PartStore(RandomParts(self.preset, self.device), self.device, self.dtype), graphs=graphs)

    def place(self, module: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
        """A frozen module on the device, channels last."""
        module = module.eval().requires_grad_(False)
        return nn.Module.to(module, self.device, dtype or self.dtype, memory_format=torch.channels_last)


def plain_part(function: Callable[[Kit], Measures]) -> Callable[[str, bool], Measures]:
    """Makes a part of a function: before its turn it imports libraries and uses the device for the first time."""

    @wraps(function)
    def measures(device: str, tiny: bool) -> Measures:
        import diffusers

        assert diffusers.ControlNetModel and diffusers.UNet2DConditionModel  # imported at their first use
        torch.ones(8, 8, device=device).mm(torch.ones(8, 8, device=device)).sum().item()
        yield None
        yield from function(Kit(device, tiny))

    return measures


def compiling_part(function: Callable[[Kit], Measures]) -> Callable[[str, bool], Measures]:
    """Makes a part of a function that says itself, by None, when it has compiled and waits for its turn.

    Tiny models on a CPU are not compiled, since that takes minutes, but run as they are.
    """

    @wraps(function)
    def measures(device: str, tiny: bool) -> Measures:
        kit = Kit(device, tiny)
        eager = tiny and not kit.on_gpu
        with torch.compiler.set_stance("force_eager") if eager else nullcontext():
            yield from function(kit)

    return measures


class RandomParts(Parts):
    """Parts with random weights, made on the device: on the CPU, those of Stable Diffusion's size take minutes."""

    def __init__(self, preset: Preset, device: str):
        self.folder, self.preset, self.device = Path("random weights"), preset, device

    def has(self, part: str) -> bool:
        return part in part_files.SECTIONS and part != "captioner"

    def load(self, part: str) -> nn.Module:
        full = self.preset.text.vocab_size == SD15.text.vocab_size
        tokenizer = None if full else Tokenizer.from_captions(["a photo of a dog"], self.preset.text.length, 64)
        torch.manual_seed(0)
        with torch.device(self.device):
            return part_files.build(part, self.preset, tokenizer).eval().requires_grad_(False)
