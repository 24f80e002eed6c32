"""Measures of colourised pictures, in the field's conventions.

Pictures are float tensors (..., 3, H, W), sRGB in [0, 1]. Every measure is per picture (shape `...`) unless it says
otherwise, so that a caller decides how to average and can stream. What needs a network goes by the network's name, see
`features`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..color import spaces
from . import features as networks

EDGE = 0.1  # Sobel magnitude of L* / 100 from which a pixel is an edge
SSIM_WINDOW = 11


def _picture(rgb: Tensor, name: str) -> Tensor:
    if rgb.ndim < 3 or rgb.shape[-3] != 3:
        raise ValueError(f"{name} must be RGB of shape (..., 3, H, W), got {tuple(rgb.shape)}")
    return rgb.float() if rgb.dtype in (torch.float16, torch.bfloat16) else rgb


def _pair(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    if a.shape != b.shape:
        raise ValueError(f"pictures to compare must have the same shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    return _picture(a, "a"), _picture(b, "b")


def colorfulness(rgb: Tensor, signed: bool = False) -> Tensor:
    """CF of Hasler and Süsstrunk 2003: sqrt(var rg + var yb) + 0.3 sqrt(mean rg² + mean yb²), on values of 0..255.

    The opponents are rg = R - G and yb = (R + G) / 2 - B. `signed=True` uses them as the paper does; the default takes
    their absolute values, as the code that the colourisation papers share does. The two differ on every photo: never
    compare one with the other.
    """
    r, g, b = _picture(rgb, "rgb").unbind(-3)
    variance, square = torch.zeros((), device=rgb.device), torch.zeros((), device=rgb.device)
    for opponent in (r - g, (r + g).mul_(0.5).sub_(b)):
        values = (opponent if signed else opponent.abs_()).flatten(-2)
        mean = values.mean(-1, keepdim=True)
        square = square + mean.squeeze(-1).square()
        variance = variance + values.sub_(mean).square_().mean(-1)
    return 255 * (variance.sqrt() + 0.3 * square.sqrt())


def delta_colorfulness(mean: float, truth_mean: float) -> float:
    """ΔCF: the difference of two data sets' mean colourfulness, not the mean of the pictures' differences."""
    return abs(mean - truth_mean)


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB over all RGB values of a picture, peak 255; infinite for equal pictures.

    Nothing is rounded here: give pictures as saved to 8 bits to get the number that others measure on files.
    """
    a, b = _pair(a, b)
    return -10 * (a - b).square().mean(dim=(-3, -2, -1)).log10()


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity of RGB with data range 1 (Wang et al. 2004): 11×11 Gaussian window of sigma 1.5, mean over
    the channels and over the pixels whose window lies inside the picture, as in the paper and in scikit-image.

    Raises ValueError for pictures smaller than the window.
    """
    a, b = _pair(a, b)
    if min(a.shape[-2:]) < SSIM_WINDOW:
        raise ValueError(f"SSIM needs pictures of at least {SSIM_WINDOW}×{SSIM_WINDOW} px, got {tuple(a.shape[-2:])}")
    mean_a, mean_b = _gaussian(a), _gaussian(b)
    aa, bb, ab = mean_a * mean_a, mean_b * mean_b, mean_a * mean_b
    structure = (2 * (_gaussian(a * b) - ab) + 0.03**2) / (_gaussian(a * a + b * b) - aa - bb + 0.03**2)
    return ((2 * ab + 0.01**2) / (aa + bb + 0.01**2) * structure).mean(dim=(-3, -2, -1))


def _gaussian(x: Tensor) -> Tensor:
    """SSIM's window, separably, where it lies inside: (..., H, W) to (..., H - 10, W - 10). Sums of shifted pictures,
    since depthwise convolutions with one channel take several times as long on a CPU."""
    half = SSIM_WINDOW // 2
    weights = [math.exp(-(k**2) / (2 * 1.5**2)) for k in range(half + 1)]
    total = weights[0] + 2 * sum(weights[1:])
    for dim in (-2, -1):
        size = x.shape[dim] - 2 * half
        y = x.narrow(dim, half, size) * (weights[0] / total)
        for k, weight in enumerate(weights[1:], 1):
            y.add_(x.narrow(dim, half - k, size) + x.narrow(dim, half + k, size), alpha=weight / total)
        x = y
    return x


def delta_e2000(a: Tensor, b: Tensor) -> Tensor:
    """Mean CIEDE2000 colour difference over a picture's pixels (D65 white)."""
    a, b = _pair(a, b)
    return ciede2000(spaces.rgb_to_lab(a), spaces.rgb_to_lab(b)).mean(dim=(-2, -1))


def ciede2000(lab_a: Tensor, lab_b: Tensor) -> Tensor:
    """CIEDE2000 of every pixel, (..., 3, H, W) Lab to (..., H, W). Equations 2 to 22 of Sharma, Wu and Dalal 2005,
    with k_L = k_C = k_H = 1."""
    (l1, a1, b1), (l2, a2, b2) = lab_a.unbind(-3), lab_b.unbind(-3)
    c7 = ((torch.hypot(a1, b1) + torch.hypot(a2, b2)) / 2) ** 7
    stretch = 1.5 - 0.5 * (c7 / (c7 + 25.0**7)).sqrt()
    a1, a2 = a1 * stretch, a2 * stretch
    c1, c2 = torch.hypot(a1, b1), torch.hypot(a2, b2)
    h1, h2 = torch.atan2(b1, a1), torch.atan2(b2, a2)

    dh = h2 - h1
    turn = 2 * math.pi * (dh.abs() > math.pi)  # the way round over ±180°
    dh_short = dh - turn * dh.sign()
    h_mean = (h1 + h2 + turn) / 2
    # Without chroma a hue means nothing: atan2(0, 0) = 0 makes the sum the other's hue, which equation 14 asks for.
    h_mean = torch.where(c1 * c2 == 0, h1 + h2, h_mean)

    c_mean = (c1 + c2) / 2
    t = (
        1
        - 0.17 * torch.cos(h_mean - math.radians(30))
        + 0.24 * torch.cos(2 * h_mean)
        + 0.32 * torch.cos(3 * h_mean + math.radians(6))
        - 0.20 * torch.cos(4 * h_mean - math.radians(63))
    )
    l50 = ((l1 + l2) / 2 - 50).square()
    dl = (l2 - l1) / (1 + 0.015 * l50 / (20 + l50).sqrt())
    dc = (c2 - c1) / (1 + 0.045 * c_mean)
    dh = 2 * (c1 * c2).sqrt() * torch.sin(dh_short / 2) / (1 + 0.015 * c_mean * t)
    degrees = torch.rad2deg(h_mean) % 360
    rotation = torch.sin(math.radians(60) * torch.exp(-(((degrees - 275) / 25) ** 2)))
    c7 = c_mean**7
    cross = -2 * (c7 / (c7 + 25.0**7)).sqrt() * rotation * dc * dh
    return (dl.square() + dc.square() + dh.square() + cross).clamp(min=0).sqrt()


def chroma_error(lab_a: Tensor, lab_b: Tensor) -> Tensor:
    """Distance in (a*, b*) of every pixel, (..., 3, H, W) Lab to (..., H, W)."""
    a, b = (lab_a[..., 1:, :, :] - lab_b[..., 1:, :, :]).unbind(-3)
    return torch.hypot(a, b)  # a norm along a short, strided dimension takes many times as long


def edges(lightness: Tensor) -> Tensor:
    """Where objects meet: L* (..., H, W) in [0, 100] to a mask of the pixels whose Sobel magnitude, in the scale of
    scikit-image's `sobel`, is at least `EDGE` of L* / 100, and of their eight neighbours."""
    x = F.pad(lightness.reshape(-1, 1, *lightness.shape[-2:]) / 100, (1, 1, 1, 1), mode="replicate")
    smooth_v = (x[..., :-2, :] + 2 * x[..., 1:-1, :] + x[..., 2:, :]) / 4
    smooth_h = (x[..., :-2] + 2 * x[..., 1:-1] + x[..., 2:]) / 4
    across, down = smooth_v[..., 2:] - smooth_v[..., :-2], smooth_h[..., 2:, :] - smooth_h[..., :-2, :]
    strong = ((across.square() + down.square()) / 2).sqrt() >= EDGE
    return F.max_pool2d(strong.float(), 3, 1, 1).bool().view(lightness.shape)


def edge_chroma_error(a: Tensor, truth: Tensor) -> Tensor:
    """Colour bleeding: the mean distance in (a*, b*) over pixels at `edges` of the truth's lightness. Read it beside
    the mean over all pixels: only what is in excess of that is bleeding. Not a number where there are no edges."""
    a, truth = _pair(a, truth)
    lab = spaces.rgb_to_lab(truth)
    at = edges(lab[..., 0, :, :])
    error = chroma_error(spaces.rgb_to_lab(a), lab)
    return (error * at).sum((-2, -1)) / at.sum((-2, -1))


def feature_distance(a: Tensor, b: Tensor, name: str = "efficientnet-lite0") -> Tensor:
    """Euclidean distance between the pooled features of paired pictures, (B, 3, H, W) twice to (B,)."""
    a, b = _pair(a, b)
    return torch.linalg.vector_norm(networks.features(a, name) - networks.features(b, name), dim=-1)


class GaussianStatistics:
    """Mean and unbiased covariance of feature vectors, in float64, in memory that does not grow with their number.

    Up to as many vectors as features are kept as they are: their covariance has a factor that costs nothing.
    """

    def __init__(self, width: int):
        self.count = 0
        self.mean = torch.zeros(width, dtype=torch.float64)
        self._vectors: list[Tensor] = []
        self._scatter: Tensor | None = None  # sum of outer products about the mean, once there are many vectors
        self._factor: Tensor | None = None

    def update(self, vectors: Tensor) -> None:
        """Adds a batch (B, width). Batches are merged as in Chan, Golub and LeVeque 1979, which keeps all digits."""
        width = len(self.mean)
        if vectors.ndim != 2 or vectors.shape[1] != width:
            raise ValueError(f"expected features (B, {width}), got {tuple(vectors.shape)}")
        if not len(vectors):
            return
        vectors, self._factor = vectors.detach().to("cpu", torch.float64), None
        before, total = self.mean.clone(), self.count + len(vectors)
        shift = vectors.mean(0) - before
        self.mean += shift * (len(vectors) / total)
        if self._scatter is None and total > width:
            kept = torch.cat([torch.zeros(0, width, dtype=torch.float64), *self._vectors]) - before
            self._scatter, self._vectors = kept.T @ kept, []
        if self._scatter is None:
            self._vectors.append(vectors)
        else:
            centred = vectors - vectors.mean(0)
            self._scatter.addmm_(centred.T, centred)
            self._scatter.addr_(shift, shift, alpha=self.count * len(vectors) / total)
        self.count = total

    @property
    def covariance(self) -> Tensor:
        if self.count < 2:
            raise ValueError(f"a covariance needs at least two pictures, got {self.count}")
        return self.factor() @ self.factor().T if self._scatter is None else self._scatter / (self.count - 1)

    def factor(self) -> Tensor:
        """F with F Fᵀ the covariance, at most as many columns as vectors or features."""
        if self.count < 2:
            raise ValueError(f"a covariance needs at least two pictures, got {self.count}")
        if self._factor is None and self._scatter is None:
            self._factor = (torch.cat(self._vectors) - self.mean).T / math.sqrt(self.count - 1)
        elif self._factor is None:
            values, vectors = torch.linalg.eigh(self.covariance)
            kept = values > values[-1] * len(values) * torch.finfo(values.dtype).eps
            self._factor = vectors[:, kept] * values[kept].sqrt()
        return self._factor


def feature_statistics(batches: Iterable[Tensor], name: str = "efficientnet-lite0") -> GaussianStatistics:
    """Statistics of the pooled features of pictures given as batches (B, 3, H, W)."""
    statistics = GaussianStatistics(networks.width(name))
    for batch in batches:
        statistics.update(networks.features(batch, name))
    return statistics


def frechet_distance(a: GaussianStatistics, b: GaussianStatistics) -> float:
    """|μ_a - μ_b|² + tr(Σ_a + Σ_b - 2 (Σ_a Σ_b)^½), Dowson and Landau 1982, as in FID.

    With Σ = F Fᵀ the last trace is the sum of the singular values of F_aᵀ F_b, which stays accurate for singular
    covariances (fewer pictures than features). With few pictures the distance is biased upwards: compare it only at
    equal counts.
    """
    overlap = torch.linalg.svdvals(a.factor().T @ b.factor()).sum()
    distance = (a.mean - b.mean).square().sum() + a.factor().square().sum() + b.factor().square().sum() - 2 * overlap
    return max(0.0, distance.item())


def fid(a: Iterable[Tensor], b: Iterable[Tensor], features: str) -> float:
    """Fréchet distance between two sets of pictures in a network's feature space, each given as batches (B, 3, H, W).

    `features` is a name of `features.FEATURES`, without default: report the number as "Fréchet distance (<features>)";
    it is FID only with Inception's. Raises ValueError for an unknown name or for fewer than two pictures a set.
    """
    return frechet_distance(feature_statistics(a, features), feature_statistics(b, features))


def semantic_recovery(ours: float, gray: float, truth: float) -> float:
    """Share of what greying cost a classifier that colourising gives back: (ours - gray) / (truth - gray) of its
    accuracies. Not a number where greying cost nothing; negative where colours mislead more than their lack."""
    return (ours - gray) / (truth - gray) if truth != gray else math.nan
