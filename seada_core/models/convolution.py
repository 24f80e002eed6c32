"""Convolution, sum and ReLU as one call of oneDNN, where a CPU computes without gradients: the result is not read and
written again for each of them. Everywhere else they are torch's own. The operator is one that torch's compiler uses;
`tests/models/test_convolution.py` holds it to the bits of torch's own calls.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LARGE = 20480  # values of one picture above which torch convolves by oneDNN

Activation = Literal["relu", "relu6"] | None

# what oneDNN calls the activations, and their arguments
_NAMES: dict[Activation, tuple[str, list[float]]] = {
    None: ("none", []),
    "relu": ("relu", []),
    "relu6": ("hardtanh", [0.0, 6.0]),
}
AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise")


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
    activation: Activation = None,
    added: Tensor | None = None,
) -> Tensor:
    """`activation(F.conv2d(x, ...) + added)` for x (B, C, H, W); `added` has the result's shape."""
    if _is_fused(x, weight, groups):
        name, arguments = _NAMES[activation]
        how: tuple[Any, ...] = (weight, bias, [padding] * 2, [stride] * 2, [1, 1], groups)
        if added is None:
            return torch.ops.mkldnn._convolution_pointwise(x, *how, name, arguments, "")
        if activation != "relu6":
            after = None if activation is None else name
            return torch.ops.mkldnn._convolution_pointwise.binary(x, added, *how, "add", 1.0, after, arguments, "")
    y = F.conv2d(x, weight, bias, stride, padding, 1, groups)
    if added is not None:
        y = added + y
    if activation is None:
        return y
    # in place where nothing else needs it: large maps are not held twice
    inplace = not torch.is_grad_enabled()
    return F.relu(y, inplace) if activation == "relu" else F.relu6(y, inplace)


def convolve(conv: nn.Module, x: Tensor, activation: Activation = None, added: Tensor | None = None) -> Tensor:
    """The same with a layer's weights; for layers of equal stride and padding in both directions."""
    if type(conv) is not nn.Conv2d:  # adapted or quantised
        y = conv(x) if added is None else added + conv(x)
        return y if activation is None else getattr(F, activation)(y)
    stride, padding = conv.stride[0], conv.padding[0]
    assert isinstance(padding, int)
    return conv2d(x, conv.weight, conv.bias, stride, padding, conv.groups, activation, added)


def _is_fused(x: Tensor, weight: Tensor, groups: int) -> bool:
    """Whether torch itself would convolve by oneDNN on several threads, and nothing has to see the single steps."""
    return (
        AVAILABLE
        and type(x) is Tensor
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and (groups > 1 or len(x) > 1 or x.numel() > LARGE or weight.shape[-1] > 3)
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and bool(torch.backends.mkldnn.enabled)
    )
