"""Pictures per second and peak memory of SeAda's stages, with the trainer's own step, on a GPU if there is one.

`python -m benchmarks.speed.training_stages [--preset sd15] [--size 512] [--batch 32] [--micro-batch 8]`: random
weights and pictures; forward and backward pass, optimiser and averages; the first step warms up. On a CPU use
`--preset mini --size 96`; there, memory is that of the process.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time
from dataclasses import replace

import torch
from torch import Tensor, nn

from benchmarks import Table
from seada_core.presets import OPTIMIZERS, PRESETS, Preset, TrainConfig
from seada_core.train.averages import Averages
from seada_core.train.batches import Batch
from seada_core.train.memory import build_optimizer, checkpoint_activations, freeze_in_bf16
from seada_core.train.precision import frozen_of, precision_of
from seada_core.train.stages.registry import STAGES
from seada_core.train.stages.stage import Stage
from seada_core.train.texts import text_is_frozen
from seada_core.weights import part_files


class GivenTexts(nn.Module):
    """In place of a frozen text encoder, as with `--cache-text`: the same random embedding for every text."""

    def __init__(self, preset: Preset):
        super().__init__()
        text = preset.text
        self.register_buffer("embedding", torch.randn(1, text.length, text.width, dtype=torch.float16))

    def forward(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        e = self.embedding.float().expand(len(texts), -1, -1)
        return e, torch.ones(e.shape[:2], dtype=torch.bool, device=e.device)


def build(
    name: str, preset: Preset, device: str, changes: dict, layout: torch.memory_format = torch.channels_last
) -> tuple[Stage, TrainConfig]:
    """A stage of a preset with random weights, and its recipe; without the preset's terms that need a fitted probe.

    The weights are made on the device. With `cache_text` a frozen text encoder is replaced by given embeddings.
    """
    with torch.device(device):
        stage, config = assemble(name, preset, changes)
        if config.cache_text and text_is_frozen(stage):
            stage.semantic_encoder = GivenTexts(preset)
    if frozen_of(config, device) == "bf16":
        freeze_in_bf16(stage)
    torch.nn.Module.to(stage, device, memory_format=layout)
    if config.gradient_checkpointing:
        checkpoint_activations(stage)
    return stage, config


def assemble(name: str, preset: Preset, changes: dict) -> tuple[Stage, TrainConfig]:
    entry = STAGES[name]
    parts = {part: part_files.build(part, preset) for part in (*entry.needs, *entry.makes)}
    config = replace(preset.training[name], **{"chroma_weight": 0.0, "perceptual_weight": 0.0, **changes})
    return entry.build(parts, preset, config).train(), config


def batch(count: int, size: int, device: str) -> Batch:
    """Random pictures with captions and latents."""
    return Batch(
        rgb=torch.rand(count, 3, size, size, device=device),
        latent=torch.randn(count, 4, size // 8, size // 8, device=device),
        captions=["a photo"] * count,
        color_captions=["a colour photo"] * count,
        places=list(range(count)),
        seeds=list(range(count)),
        uniform=torch.rand(count, device=device),
    )


def measure(stage: Stage, config: TrainConfig, size: int, steps: int, device: str) -> tuple[float, float]:
    """(pictures a second, peak memory in GB)."""
    trained = [p for p in stage.parameters() if p.requires_grad]
    optimizer = build_optimizer([{"params": trained}], config)
    averages = Averages(trained, config.ema)
    data = batch(config.batch, size, device)
    micro = config.micro_batch or config.batch
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(steps + 1):
        started = time.perf_counter()
        for k in range(0, config.batch, micro):
            with torch.autocast(device, torch.bfloat16, enabled=precision_of(config, device) != "no"):
                loss = stage(data.rows(k, k + micro))["loss"]
            (loss * micro / config.batch).backward()
        torch.nn.utils.clip_grad_norm_(trained, config.clip)
        optimizer.step()
        optimizer.zero_grad()
        averages.step(trained)
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return config.batch / statistics.median(seconds[1:]), peak / 1e9


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--preset", choices=PRESETS, default="sd15")
    parser.add_argument("--stages", nargs="*", default=["stage1", "stage2", "stage3"])
    parser.add_argument("--size", type=int, default=512, help="side of the pictures, px")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--micro-batch", type=int, default=8)
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="adamw")
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    changes = {
        "batch": options.batch,
        "micro_batch": options.micro_batch,
        "optimizer": options.optimizer,
        "gradient_checkpointing": options.checkpointing,
    }
    about = f"{options.preset}, {options.size} px, batch {options.batch} by {options.micro_batch}"
    table = Table("training_stages", about, ["pictures a second", "peak GB"], device)
    for name in options.stages:
        stage, config = build(name, PRESETS[options.preset], device, changes)
        rate, peak = measure(stage, config, options.size, options.steps, device)
        table.add(name, rate, peak)
        del stage
    return 0


if __name__ == "__main__":
    sys.exit(main())
