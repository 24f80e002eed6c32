"""Convolution, sum and ReLU in one call against torch's three, and where that call must not be used."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from seada_core.models import convolution
from seada_core.models.convolution import conv2d, convolve


@pytest.fixture
def fused(monkeypatch):
    """The calls that were fused."""
    calls = []

    def counting(*arguments):
        result = original(*arguments)
        calls.append(result)
        return result

    original = convolution._is_fused
    monkeypatch.setattr(convolution, "_is_fused", counting)
    return calls


def values(*shape):
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator).to(memory_format=torch.channels_last)


@pytest.mark.skipif(not convolution.AVAILABLE, reason="this build of torch has no oneDNN")
@pytest.mark.parametrize("activation", [None, "relu", "relu6"])
@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize(("kernel", "stride", "groups"), [(3, 1, 1), (5, 2, 32), (3, 2, 1)])
@torch.no_grad()
def test_one_call_has_the_bits_of_three(fused, activation, added, kernel, stride, groups):
    x, weight, bias = values(2, 32, 48, 40), values(32, 32 // groups, kernel, kernel), torch.linspace(-2, 2, 32)
    plain = F.conv2d(x, weight, bias, stride, kernel // 2, 1, groups)
    more = values(*plain.shape) if added else None
    expected = plain if more is None else more + plain
    if activation is not None:
        expected = getattr(F, activation)(expected)
    assert torch.equal(conv2d(x, weight, bias, stride, kernel // 2, groups, activation, more), expected)
    assert fused == [True]


@torch.no_grad()
def test_small_maps_are_as_before(fused):
    layer = nn.Conv2d(8, 8, 1)
    x = values(1, 8, 5, 5)
    assert torch.equal(convolve(layer, x, "relu", x), F.relu(x + layer(x)))
    assert fused == [False]


def test_gradients_and_other_precisions_take_torchs_own_way(fused):
    layer, x = nn.Conv2d(32, 32, 3, padding=1), values(1, 32, 40, 40)
    y = convolve(layer, x.requires_grad_(), "relu", x)
    y.sum().backward()
    assert x.grad is not None and layer.weight.grad.abs().sum() > 0
    with torch.no_grad():
        half = convolve(layer.bfloat16(), x.bfloat16(), "relu")
        assert half.dtype == torch.bfloat16
        with torch.autocast("cpu", torch.bfloat16):
            assert convolve(layer.float(), x, "relu").dtype == torch.bfloat16
    assert fused == [False] * 3


@torch.no_grad()
def test_adapted_layers_are_called_themselves():
    class Doubled(nn.Conv2d):
        def forward(self, x):
            return 2 * super().forward(x)

    layer, x = Doubled(32, 32, 3, padding=1), values(1, 32, 40, 40)
    assert torch.equal(convolve(layer, x, "relu", x), F.relu(x + layer(x)))
