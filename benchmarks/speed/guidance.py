"""Cost of CCD's guidance: `python -m benchmarks.speed.guidance`.

A guided step against a plain one, alternating, and against guidance that decodes the picture at each move instead of
estimating the chroma of latent cells.
"""

from __future__ import annotations

import argparse
import time

import torch

from benchmarks import Table
from seada_core.hints.maps import spread_hints
from seada_core.models import ccd
from seada_core.models.ccd import HINT_MOVES, HINT_SCALE
from seada_core.options import ColorizeOptions
from seada_core.pipeline import Colorizer

STEPS = 10


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", default="mini")
    parser.add_argument("--size", type=int, help="side of the picture that is diffused, px (default: the model's)")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args(arguments)
    colorizer = Colorizer.from_pretrained(options.model)
    side = options.size or colorizer.preset.sampling.size
    generator = torch.Generator().manual_seed(0)
    gray = torch.rand(1, 1, side, side, generator=generator).to(colorizer.device)
    hints = torch.zeros(1, 3, side, side)
    hints[:, :, side // 4 :: side // 4, side // 4 :: side // 4] = torch.tensor([0.1, -0.1, 1]).view(1, 3, 1, 1)
    times: dict[str, list[float]] = {"plain": [], "guided": []}
    moves: dict[str, list[float]] = {"probe": [], "decoder": []}
    with torch.no_grad():
        context = colorizer.context(["a photo"])
        spread = spread_hints(gray, hints.to(gray))
        correct, codec = colorizer.ccd_guidance(gray, spread, ColorizeOptions()), colorizer.part("vq_decoder")
        features = codec.gray_features(gray)

        def decoded(z: torch.Tensor) -> torch.Tensor:
            return ccd.weighted(ccd.chroma_losses(codec.chroma(z, gray, features), gray, spread))

        def decode(x0: torch.Tensor) -> torch.Tensor:
            return ccd.guide(x0, decoded, HINT_SCALE)

        for _ in range(options.repeats + 1):
            for name, change in (("plain", None), ("guided", correct)):
                start = time.perf_counter()
                z = colorizer.sample(gray, context, None, ColorizeOptions(steps=STEPS, guidance=1.0), correct=change)
                times[name].append((time.perf_counter() - start) / STEPS)
            for name, change in (("probe", correct), ("decoder", decode)):
                start = time.perf_counter()
                change(z)
                moves[name].append(time.perf_counter() - start)
    plain, guided, probe, decoder = (
        1000 * min(v[1:]) for v in (*times.values(), *moves.values())
    )  # the first warms up
    table = Table("guidance", f"{side} px; aim: a guided step at most 1.5 times a plain one", ["ms", "ratio"])
    table.add("a plain step", plain, 1.0)
    table.add("a guided step", guided, guided / plain)
    table.add("one move of guidance that decodes", decoder, 1.0)
    table.add(f"{HINT_MOVES} moves by the probe", probe, probe / decoder)
    return 0


if __name__ == "__main__":
    main()
