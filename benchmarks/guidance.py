"""What CCD's guidance costs: `python -m benchmarks.guidance`. A guided step against a plain one, by turns."""

from __future__ import annotations

import argparse
import time

import torch

from seada_core.hints import spread_hints
from seada_core.pipeline import Colorizer

STEPS = 10


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
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
    with torch.no_grad():
        context = colorizer.context(["a photo"])
        correct = colorizer._correction(gray, spread_hints(gray, hints.to(gray)), None, None)
        for _ in range(options.repeats + 1):
            for name, change in (("plain", None), ("guided", correct)):
                start = time.perf_counter()
                colorizer.sample(gray, context, None, STEPS, 1.0, 1.0, 0, correct=change)
                times[name].append((time.perf_counter() - start) / STEPS)
    plain, guided = (1000 * min(values[1:]) for values in times.values())  # the first warms up
    print(f"{side} px, {torch.get_num_threads()} threads: a step {plain:.1f} ms, guided {guided:.1f} ms")
    print(f"ratio {guided / plain:.2f} (aim: at most 1.5)")
    return 0


if __name__ == "__main__":
    main()
