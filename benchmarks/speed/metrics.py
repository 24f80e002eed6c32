"""Our metrics against those of scikit-image and NumPy: `python -m benchmarks.speed.metrics PHOTO...`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks import Table
from seada_core.evaluate import metrics
from seada_core.evaluate.sources import gray_of, to_tensor


def field_colorfulness(image: np.ndarray) -> float:
    """CF as in the code that colourisation papers share, on (H, W, 3) in 0..255; scikit-image has none."""
    r, g, b = (image[..., channel].astype("float") for channel in range(3))
    rg, yb = np.absolute(r - g), np.absolute(0.5 * (r + g) - b)
    return np.sqrt(np.std(rg) ** 2 + np.std(yb) ** 2) + 0.3 * np.sqrt(np.mean(rg) ** 2 + np.mean(yb) ** 2)


def best(repeats: int, *ways: Callable[[], object]) -> list[float]:
    """The minimum seconds of each function, alternating."""
    times = [float("inf")] * len(ways)
    for _ in range(repeats + 1):  # the first is warm-up
        for index, way in enumerate(ways):
            started = time.perf_counter()
            way()
            times[index] = min(times[index], time.perf_counter() - started)
    return times


@torch.no_grad()
def main(arguments: list[str] | None = None) -> int:
    from skimage.color import deltaE_ciede2000, rgb2lab
    from skimage.metrics import structural_similarity
    from torchmetrics.functional.image import structural_similarity_index_measure

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", nargs="+", type=Path)
    parser.add_argument("--size", type=int, default=256, help="px a side (default: 256)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    images = [Image.open(path).convert("RGB").resize((options.size,) * 2) for path in options.photos]
    truth = torch.stack([to_tensor(image) for image in images])
    other = (0.6 * truth + 0.4 * gray_of(truth)).roll(3, -1)
    arrays = [np.array(image) for image in images]
    others = [np.ascontiguousarray(rgb.permute(1, 2, 0).numpy()) for rgb in other]
    pairs = list(zip(arrays, others))
    ssim = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    rows = {
        "CF": (lambda: metrics.colorfulness(truth), "NumPy", lambda: [field_colorfulness(a) for a in arrays]),
        "dE2000": (
            lambda: metrics.delta_e2000(truth, other),
            "scikit-image",
            lambda: [deltaE_ciede2000(rgb2lab(a), rgb2lab(b)).mean() for a, b in pairs],
        ),
        "SSIM": (
            lambda: metrics.ssim(truth, other),
            "scikit-image",
            lambda: [structural_similarity(a / np.float32(255), b, channel_axis=-1, **ssim) for a, b in pairs],
        ),
        "SSIM ": (
            lambda: metrics.ssim(truth, other),
            "torchmetrics",
            lambda: structural_similarity_index_measure(truth, other, data_range=1.0),
        ),
    }
    about = f"{len(images)} pictures of {options.size} px, {options.threads} threads, best of {options.repeats}"
    table = Table("metrics", about, ["ours, ms", "peer", "peer, ms", "times as fast"])
    slower = 0
    for name, (ours, peer, theirs) in rows.items():
        mine, their = (1000 * seconds / len(images) for seconds in best(options.repeats, ours, theirs))
        table.add(f"{name.strip()} against {peer}", mine, peer, their, their / mine)
        slower += mine > their
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
