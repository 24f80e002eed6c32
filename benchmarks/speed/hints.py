"""Timings of hint propagation, SLIC and the training samplers, beside SciPy's direct solve and scikit-image's SLIC.

    python -m benchmarks.speed.hints PHOTO [--size 512] [--hints 20] [--segments 500] [--repeat 5] [--threads N]
    [--no-direct]

Prints the best of the repeats, wall-clock and CPU time, with the aims for two idle cores, and, for propagation, the
distance from the direct solution. Half the size is that of the live preview, which calls `spread_hints` too. SLIC and
scikit-image's take turns. On a busy machine use the CPU time of one thread: several threads wait for each other.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from PIL import Image

from benchmarks import Table
from seada_core.color.spaces import luminance
from seada_core.hints.maps import (
    hint_map_from_picture,
    sample_point_hints,
    sample_superpixel_hints,
    spread_hints,
    superpixel_labels,
)
from seada_core.hints.propagation import HINT_WEIGHT, MIN_EDGE, propagate
from seada_core.hints.superpixels import quantize, slic

AIMS = {256: 50, 512: 300}  # ms for `spread_hints` with 20 hints, by the picture's side


def clocks() -> np.ndarray:
    return 1000 * np.array([time.perf_counter(), time.process_time()])


def best(repeat: int, *functions: Callable[[], object]) -> list[np.ndarray]:
    """The minimum wall-clock and CPU time of `repeat` calls of each function, alternating, after one to warm up."""
    times = []
    for _ in range(repeat + 1):
        for function in functions:
            start = clocks()
            function()
            times.append(clocks() - start)
    return list(np.array(times).reshape(repeat + 1, len(functions), 2)[1:].min(axis=0))


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
    parser.add_argument("--no-direct", action="store_true", help="skip the direct solve, which is slow")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads (default: torch's own choice)")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    table = Table("hints", f"best of {options.repeat}", ["ms", "ms of CPU", "peer, ms", "peer, ms of CPU", "aim"])

    for side in (options.size // 2, options.size):
        _, rgb = load(options.photo, side)
        gray = luminance(rgb)
        mask = torch.zeros(side * side)
        mask[torch.randperm(side * side, generator=torch.Generator().manual_seed(0))[: options.hints]] = 1
        hints = hint_map_from_picture(rgb, mask.view(1, 1, side, side))
        (elapsed,) = best(options.repeat, partial(spread_hints, gray, hints))
        aim = f"{AIMS[side]} ms" if side in AIMS and options.hints == 20 else None
        peer, name = None, f"spread_hints {side}x{side}, {options.hints} hints"
        if not options.no_direct:
            start = clocks()
            truth = direct(gray[0, 0].double().numpy(), hints[0].double().numpy())
            peer = clocks() - start
            error = np.abs(torch.cat(propagate(gray, hints), 1)[0].numpy() - truth)
            name += f", against SciPy's direct solve (chroma {error[:2].mean():.4f} apart in the mean)"
        table.add(name, *map(round, elapsed), *((None, None) if peer is None else map(round, peer)), aim)

    picture, rgb = load(options.photo, options.size)
    from skimage.segmentation import slic as reference

    size, pixels = f"{options.size}x{options.size}", np.array(picture)
    ours, theirs = best(
        options.repeat,
        lambda: slic(rgb[0], options.segments),
        lambda: reference(pixels, options.segments, compactness=10),
    )
    name = f"slic {size}, {options.segments} segments, against scikit-image's"
    table.add(name, *map(round, ours), *map(round, theirs), "not slower")
    ours, theirs = best(options.repeat, lambda: quantize(rgb[0], 32), lambda: picture.quantize(32))
    table.add(f"quantize {size}, 32 colours, against Pillow's", *map(round, ours), *map(round, theirs), None)

    _, rgb = load(options.photo, 144)
    batch, generator = rgb.expand(16, -1, -1, -1), torch.Generator().manual_seed(0)
    labels = superpixel_labels(batch)
    for name, function in (
        ("point hints", lambda: sample_point_hints(batch, generator)),
        ("superpixel hints", lambda: sample_superpixel_hints(batch, generator)),
        ("superpixel hints, cached labels", lambda: sample_superpixel_hints(batch, generator, labels=labels)),
    ):
        elapsed = best(options.repeat, function)[0]
        table.add(f"{name}, batch of 16 at 144x144", *map(round, elapsed), None, None, None)


if __name__ == "__main__":
    main()
