"""Decoding time: the luminance-aware VQ decoder against diffusers' AutoencoderKL of SD1.5's size, on the CPU.

python -m benchmarks.speed.decoder [--size 512] [--repeats 5] [--threads N] [--preset mini]

Both have random weights; time does not depend on them. The two take turns, and the fastest run of each counts, to
reduce the effect of other work on the machine. Prints one line of JSON; exit status 1 if ours is less than 5 times
faster.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import torch

from benchmarks import Table
from seada_core.models.vq_decoder import VQDecoder
from seada_core.presets import PRESETS

REQUIRED_SPEEDUP = 5.0


def kl_decoder() -> torch.nn.Module:
    """The decoder half of SD1.5's VAE: 49.5 M parameters."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=4,
        sample_size=512,
    )


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


@torch.inference_mode()
def measure(size: int, repeats: int, preset: str) -> dict[str, float]:
    """Fastest seconds of each decoder for one `size` x `size` picture, and their ratio."""
    torch.manual_seed(0)
    ours = VQDecoder(PRESETS[preset].codec).eval().to(memory_format=torch.channels_last)
    kl = kl_decoder().eval().to(memory_format=torch.channels_last)
    cells = -(-size // 8)
    z, gray = torch.randn(1, 4, cells, cells), torch.rand(1, 1, size, size)
    tokens = ours.encode_tokens(z, gray)
    runs = {
        "decode": lambda: ours.decode(z, gray),
        "decode_tokens": lambda: ours.decode_tokens(tokens, gray),
        "autoencoder_kl": lambda: kl.decode(z.to(memory_format=torch.channels_last)),
    }
    best = {name: float("inf") for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            best[name] = min(best[name], seconds(run))
    return {**best, "speedup": best["autoencoder_kl"] / best["decode"]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, default=512, help="side of the picture, px")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=None, help="CPU threads (default: torch's own choice)")
    parser.add_argument("--preset", choices=PRESETS, default="mini")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    result = measure(arguments.size, arguments.repeats, arguments.preset)
    peer = result["autoencoder_kl"]
    table = Table(
        "decoder", f"decoding {arguments.size} px, best of {arguments.repeats}, in turns", ["s", "times faster"]
    )
    table.add("luminance-aware VQ decoder", result["decode"], peer / result["decode"])
    table.add("the same through the codebook", result["decode_tokens"], peer / result["decode_tokens"])
    table.add("diffusers AutoencoderKL", peer, 1.0)
    return 0 if result["speedup"] >= REQUIRED_SPEEDUP else 1


if __name__ == "__main__":
    sys.exit(main())
