"""Cost of a training step of each stage at full size, counted on fake tensors, so on any machine.

`python -m benchmarks.speed.training_cost [--size 512] [--micro-batch 8] [--stages ...]`: floating-point operations
per picture (forward and backward, torch.utils.flop_counter), bytes that a micro-batch's forward pass keeps for the
backward pass (with a GPU's autocast and fused attention) with and without checkpointing, bytes of weights, gradients,
AdamW and averages; and, from an assumed share of the GPUs' peak, the days of the papers' steps.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import contextmanager
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import Table
from benchmarks.speed.training_stages import assemble, batch
from seada_core.presets import SD15
from seada_core.train.memory import checkpoint_activations
from seada_core.train.stages import diffusion

FAKE = FakeTensorMode()
FakeTensorMode.__deepcopy__ = lambda mode, memo: mode  # copies of its tensors stay in it
STEPS = {"control": 20_000, "stage1": 20_000, "stage2": 50_000, "stage3": 10_000}
GPUS = {"4 x A100": 4 * 312e12, "8 x H100": 8 * 989e12}  # dense bf16 peak, NVIDIA's data sheets


class FusedAttention(torch.autograd.Function):
    """Saves what a fused kernel saves: query, key, value, output and one number per row."""

    @staticmethod
    def forward(ctx, q, k, v):
        out = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, out, q.new_empty(q.shape[:-1], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx, gradient):
        raise NotImplementedError  # only the forward pass is counted with it


@contextmanager
def autocast_without_a_gpu():
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", False)
        torch.clear_autocast_cache()


def operations(name: str, size: int, recompute: bool, changes: dict) -> float:
    """Floating-point operations of a picture's forward and backward pass."""
    with FAKE:
        stage, _ = assemble(name, SD15, changes)
        if recompute:
            checkpoint_activations(stage)
        with FlopCounterMode(display=False) as counter:
            stage(batch(1, size, "cpu"))["loss"].backward()
    return counter.get_total_flops()


def remembered(name: str, size: int, micro: int, checkpointing: bool, changes: dict) -> int:
    """Bytes that the forward pass of a micro-batch keeps, without weights."""
    attend = lambda q, k, v, *_, **__: FusedAttention.apply(q, k, v)  # noqa: E731
    with FAKE, patch.object(F, "scaled_dot_product_attention", attend):
        with torch.device("cuda"):
            stage, _ = assemble(name, SD15, changes)
        for module in stage.modules():
            for key, p in module._parameters.items():
                if p is not None and not p.requires_grad:
                    module._parameters[key] = torch.nn.Parameter(p.detach().bfloat16(), requires_grad=False)
        if checkpointing:
            checkpoint_activations(stage)
        weights = {p.untyped_storage()._cdata for p in stage.parameters()}
        kept: dict[int, torch.UntypedStorage] = {}

        def pack(tensor):
            storage = tensor.untyped_storage()
            if storage._cdata not in weights:
                kept[storage._cdata] = storage
            return tensor

        with saved_tensors_hooks(pack, lambda tensor: tensor), autocast_without_a_gpu():
            stage(batch(micro, size, "cuda"))
        return sum(storage.nbytes() for storage in kept.values())


def states(name: str, changes: dict) -> dict[str, float]:
    """Bytes of everything that stays: `frozen` in bf16; `trained`, gradient, moments and average in fp32."""
    with FAKE:
        stage, config = assemble(name, SD15, changes)
        trained = sum(p.numel() for p in stage.parameters() if p.requires_grad)
        frozen = 2 * sum(p.numel() for p in stage.parameters() if not p.requires_grad)
    moments = {"adamw": 8, "adamw8bit": 2, "sgd": 0}[config.optimizer]
    return {"trained": trained, "states": frozen + trained * (4 + 4 + moments + (4 if config.ema else 0))}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--micro-batch", type=int, default=8)
    parser.add_argument("--stages", nargs="*", default=list(STEPS))
    parser.add_argument("--optimizer", choices=("adamw", "adamw8bit"), default="adamw")
    parser.add_argument("--utilisation", type=float, default=0.2, help="share of the GPUs' peak (default: 0.2)")
    options = parser.parse_args(arguments)
    changes = {"optimizer": options.optimizer}
    total = dict.fromkeys(GPUS, 0.0)
    about = f"{options.size} px, micro-batch {options.micro_batch}, {options.optimizer}; counted, not run"
    columns = ["trained, M", "TFLOP a picture", "recomputing", "weights and states, GB", "+ activations, GB"]
    table = Table("training_cost", about, [*columns, "checkpointed, GB"])
    with patch.object(diffusion, "pick_texts", lambda batch, config, draws: batch.captions):
        for name in options.stages:
            flops = operations(name, options.size, False, changes)
            again = operations(name, options.size, True, changes)
            plain, less = (remembered(name, options.size, options.micro_batch, c, changes) / 1e9 for c in (False, True))
            state = states(name, changes)
            kept = state["states"] / 1e9
            table.add(name, state["trained"] / 1e6, flops / 1e12, again / 1e12, kept, kept + plain, kept + less)
            for gpus, peak in GPUS.items():
                total[gpus] += STEPS.get(name, 0) * 32 * flops / (peak * options.utilisation)
    for gpus, seconds in total.items():
        print(
            f"{gpus}: {seconds / 86400:.1f} days for these stages' steps at batch 32, {options.utilisation:.0%} of peak"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
