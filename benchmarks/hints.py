"""Timings of hint propagation, SLIC and the training samplers, beside SciPy's direct solve and scikit-image's SLIC.

    python benchmarks/hints.py PHOTO [--size 512] [--hints 20] [--segments 500] [--repeat 5] [--no-direct]

Prints the best of the repeats, wall-clock and CPU time (the one to read on a busy machine), and, for propagation, the
mean distance from the direct solution.
"""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from seada_core.color import luminance
from seada_core.hints import hint_map_from_picture, sample_point_hints, sample_superpixel_hints, superpixel_labels
from seada_core.propagation import HINT_WEIGHT, MIN_EDGE, propagate
from seada_core.superpixels import quantize, slic


def clocks() -> np.ndarray:
    return 1000 * np.array([time.perf_counter(), time.process_time()])


def best(function, repeat: int) -> str:
    """Wall-clock and CPU time of the fastest of `repeat` calls, after one to warm up."""
    function()
    times = []
    for _ in range(repeat):
        start = clocks()
        function()
        times.append(clocks() - start)
    return shown(np.min(times, axis=0))


def shown(times: np.ndarray) -> str:
    return f"{times[0]:.0f} ms ({times[1]:.0f} ms CPU)"


def direct(gray: np.ndarray, hints: np.ndarray, sigma_y: float = 0.04, prior: float = 4.0) -> np.ndarray:
    """The same system by SciPy's sparse LU: (3, H, W), chroma and confidence."""
    from scipy import sparse
    from scipy.sparse.linalg import splu

    n = gray.size
    index = np.arange(n).reshape(gray.shape)
    edges = [
        (np.s_[:, :-1], np.s_[:, 1:]),
        (np.s_[:-1], np.s_[1:]),
        (np.s_[:-1, :-1], np.s_[1:, 1:]),
        (np.s_[:-1, 1:], np.s_[1:, :-1]),
    ]
    rows = np.concatenate([index[a].ravel() for a, _ in edges])
    columns = np.concatenate([index[b].ravel() for _, b in edges])
    difference = np.concatenate([(gray[a] - gray[b]).ravel() for a, b in edges])
    weight = np.maximum(np.exp(-(difference**2) / (2 * sigma_y**2)), MIN_EDGE)
    adjacency = sparse.coo_matrix((weight, (rows, columns)), shape=(n, n))
    adjacency = adjacency + adjacency.T
    laplacian = sparse.diags(np.asarray(adjacency.sum(1)).ravel()) - adjacency
    data = HINT_WEIGHT * hints[2].ravel()
    chroma = splu((laplacian + sparse.diags(data)).tocsc())
    confidence = splu((laplacian + sparse.diags(data + prior / n)).tocsc())
    solution = [chroma.solve(data * hints[0].ravel()), chroma.solve(data * hints[1].ravel()), confidence.solve(data)]
    return np.stack(solution).reshape(3, *gray.shape)


def load(path: str, side: int) -> tuple[Image.Image, torch.Tensor]:
    picture = Image.open(path).convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
    return picture, torch.tensor(np.array(picture)).permute(2, 0, 1)[None] / 255


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo")
    parser.add_argument("--size", type=int, default=512, help="side of the picture, px; half of it is timed as well")
    parser.add_argument("--hints", type=int, default=20)
    parser.add_argument("--segments", type=int, default=500)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--no-direct", action="store_true", help="leave out the direct solve, which takes long")
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")

    for side in (options.size // 2, options.size):
        _, rgb = load(options.photo, side)
        gray = luminance(rgb)
        mask = torch.zeros(side * side)
        mask[torch.randperm(side * side, generator=torch.Generator().manual_seed(0))[: options.hints]] = 1
        hints = hint_map_from_picture(rgb, mask.view(1, 1, side, side))
        elapsed = best(partial(propagate, gray, hints), options.repeat)
        line = f"propagate {side}x{side}, {options.hints} hints: {elapsed}"
        if not options.no_direct:
            start = clocks()
            truth = direct(gray[0, 0].double().numpy(), hints[0].double().numpy())
            elapsed = shown(clocks() - start)
            error = np.abs(torch.cat(propagate(gray, hints), 1)[0].numpy() - truth).mean((1, 2))
            line += f"; SciPy's direct solve {elapsed}; mean distance: chroma {error[:2].mean():.4f}, "
            line += f"confidence {error[2]:.4f}"
        print(line)

    picture, rgb = load(options.photo, options.size)
    from skimage.segmentation import slic as reference

    ours = best(lambda: slic(rgb[0], options.segments), options.repeat)
    theirs = best(lambda: reference(np.array(picture), options.segments, compactness=10), options.repeat)
    size = f"{options.size}x{options.size}"
    print(f"slic {size}, {options.segments} segments: {ours}; scikit-image {theirs}")
    ours = best(lambda: quantize(rgb[0], 32), options.repeat)
    theirs = best(lambda: picture.quantize(32), options.repeat)
    print(f"quantize {size}, 32 colours: {ours}; Pillow {theirs}")

    _, rgb = load(options.photo, 144)
    batch, generator = rgb.expand(16, -1, -1, -1), torch.Generator().manual_seed(0)
    labels = superpixel_labels(batch)
    for name, function in (
        ("point hints", lambda: sample_point_hints(batch, generator)),
        ("superpixel hints", lambda: sample_superpixel_hints(batch, generator)),
        ("superpixel hints, cached labels", lambda: sample_superpixel_hints(batch, generator, labels=labels)),
    ):
        print(f"{name}, batch of 16 at 144x144: {best(function, options.repeat)}")


if __name__ == "__main__":
    main()
