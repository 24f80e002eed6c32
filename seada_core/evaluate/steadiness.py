"""How steady a film's colours are: warping error along the truth's motion, and colour distribution consistency.

Films are sequences of frames (3, H, W), sRGB in [0, 1]. Read both beside the truth's own values, since real films have
noise, changing light and things that come and go.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ..color.spaces import luminance, rgb_to_lab
from ..film.motion import FINE, motions, sample

DISTANCES = (1, 2, 4)  # frames between the histograms that CDC compares
CERTAIN = 0.5  # confidence from which a pixel of the truth is followed


def truth_motion(truth: Sequence[Tensor]) -> list[tuple[np.ndarray, np.ndarray]]:
    """For every frame but the first of the true film: the flow (H, W, 2) to the frame before, and where it is certain.

    Raises ImportError without OpenCV.
    """
    lumas = [luminance(frame)[0].numpy() for frame in truth]
    found = (motions(now, before, quality=FINE)[0] for before, now in pairwise(lumas))
    return [(motion.flow, motion.confidence > CERTAIN) for motion in found]


def warping_error(frames: Sequence[Tensor], motion: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    """Mean distance in (a*, b*) between what is the same in a frame and in the one before, over all frames.

    Args:
        motion: of the truth, see `truth_motion`.
    """
    if len(frames) != len(motion) + 1:
        raise ValueError(f"{len(frames)} frames and {len(motion)} motions: expected one motion fewer than frames")
    errors, before = [], None
    for number, frame in enumerate(frames):
        now = rgb_to_lab(frame)[1:].permute(1, 2, 0).numpy()
        if before is not None:
            flow, certain = motion[number - 1]
            change = np.linalg.norm(now - sample(before, flow), axis=-1)
            errors.append(change[certain].mean() if certain.any() else 0.0)
        before = now
    return float(np.mean(errors))


def color_distribution_consistency(frames: Sequence[Tensor]) -> float:
    """CDC × 1000 (Liu et al. 2021, as in the NTIRE 2023 video colorization challenge): the mean Jensen-Shannon
    divergence between the 256-bin histograms of each of R, G and B in frames that are 1, 2 and 4 apart."""
    histograms = torch.stack([torch.stack([torch.histc(c, 256, 0, 1) for c in _bytes(frame)]) for frame in frames])
    histograms = histograms.double() / histograms[0, 0].sum()
    means = []
    for distance in DISTANCES:
        if distance < len(frames):
            p, q = histograms[:-distance], histograms[distance:]
            middle = (p + q) / 2
            divergence = (torch.xlogy(p, p / middle) + torch.xlogy(q, q / middle)).nan_to_num().sum(-1) / 2
            means.append(divergence.mean())
    if not means:
        raise ValueError(f"a film of {len(frames)} frame has no colour distribution consistency: give two or more")
    return 1000 * float(torch.stack(means).mean())


def _bytes(frame: Tensor) -> Tensor:
    return (frame * 255).round().clamp(0, 255) / 255
