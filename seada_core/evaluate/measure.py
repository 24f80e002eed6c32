"""One record per picture: every measure of every method against the truth."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..color import spaces
from . import features, metrics
from .options import Networks

CHROMA_BINS, CHROMA_TOP = 32, 128.0  # of C*ab
GRAY_TRUTH = 2.0  # a truth of less colourfulness (absolute) counts as grey; photos of muted colours have 8 and more


@torch.no_grad()
def measure(
    pictures: dict[str, Tensor], networks: Networks, truth: bool = True
) -> tuple[list[dict[str, dict]], dict[tuple[str, str], Tensor]]:
    """Records of a batch, and its pooled features by (network, method).

    Args:
        pictures: method to pictures (B, 3, H, W) in [0, 1] with a file's 8-bit values.
        truth: whether "truth" is among the methods, which the others are compared with; otherwise only measures that
            need no truth are taken.
    Returns:
        for each picture method to values: `colorfulness`, `colorfulness_signed`, `chroma_histogram` (counts of C*ab in
        `CHROMA_BINS` up to `CHROMA_TOP`, the last with all above), `top1` (a class, with a classifier);
        against the truth `psnr` (None where equal), `ssim` (None below 11 px), `delta_e2000`, `chroma_error` and
        `edge_chroma_error` (None without edges), each perceptual distance by its name, and `distance_<features>`, that
        of the pooled features.
    """
    labs = {method: spaces.rgb_to_lab(rgb) for method, rgb in pictures.items()}
    pooled = {
        (network, method): features.features(rgb.to(networks.device), network)
        for network in networks.features
        for method, rgb in pictures.items()
    }
    count = len(next(iter(pictures.values())))
    edges = metrics.edges(labs["truth"][..., 0, :, :]) if truth else None
    records: list[dict[str, dict]] = [{} for _ in range(count)]
    for method, rgb in pictures.items():
        values = {
            "colorfulness": metrics.colorfulness(rgb),
            "colorfulness_signed": metrics.colorfulness(rgb, signed=True),
        }
        if networks.classifier:
            values["top1"] = features.class_logits(pooled[networks.classifier, method]).argmax(1)
        if edges is not None and method != "truth":
            values |= _against_truth(method, pictures, labs, pooled, networks)
            error = metrics.chroma_error(labs[method], labs["truth"])
            values["chroma_error"] = error.mean((-2, -1))
            values["edge_chroma_error"] = (error * edges).sum((-2, -1)) / edges.sum((-2, -1))
        histograms = _histogram(labs[method])
        for index, record in enumerate(records):
            record[method] = {name: _plain(value[index].item()) for name, value in values.items()}
            record[method]["chroma_histogram"] = histograms[index].tolist()
    return records, {place: vectors.cpu() for place, vectors in pooled.items()}


def _against_truth(
    method: str,
    pictures: dict[str, Tensor],
    labs: dict[str, Tensor],
    pooled: dict[tuple[str, str], Tensor],
    networks: Networks,
) -> dict[str, Tensor]:
    rgb, truth = pictures[method], pictures["truth"]
    values = {
        "psnr": metrics.psnr(rgb, truth),
        "delta_e2000": metrics.ciede2000(labs[method], labs["truth"]).mean((-2, -1)),
    }
    small = min(rgb.shape[-2:]) < metrics.SSIM_WINDOW
    values["ssim"] = torch.full((len(rgb),), math.nan) if small else metrics.ssim(rgb, truth)
    for name in networks.perceptual:
        values[name] = features.perceptual_distance(rgb.to(networks.device), truth.to(networks.device), name)
    for name in networks.features:
        values[f"distance_{name}"] = torch.linalg.vector_norm(pooled[name, method] - pooled[name, "truth"], dim=-1)
    return values


def _histogram(lab: Tensor) -> Tensor:
    """Counts (B, CHROMA_BINS) of C*ab."""
    chroma = torch.hypot(lab[:, 1], lab[:, 2]).flatten(1)
    bins = (chroma * (CHROMA_BINS / CHROMA_TOP)).long().clamp(max=CHROMA_BINS - 1)
    offsets = torch.arange(len(bins))[:, None] * CHROMA_BINS
    return torch.bincount((bins + offsets).flatten(), minlength=len(bins) * CHROMA_BINS).view(len(bins), -1)


def _plain(value: float | int) -> float | int | None:
    """A number as the journal stores it: 7 digits; None if it is not finite."""
    if isinstance(value, int):
        return value
    return float(f"{value:.7g}") if math.isfinite(value) else None
