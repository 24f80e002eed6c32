"""What a training step costs a GPU, counted in operations on the CPU and on tensors without data."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from diffusers.training_utils import EMAModel
from tiny_models import make_tiny_preset
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.speed import training_stages
from seada_core.models.unet import UNet
from seada_core.presets import SD15, ControlConfig, TrainConfig, UNetConfig
from seada_core.train.averages import Averages
from seada_core.train.draws import Draws
from seada_core.train.memory import build_optimizer
from seada_core.weights.export import diffusers_unet
from seada_core.weights.stock_controlnet import build_controlnet

NOTHING_RUNS = (
    "empty",
    "new_empty",
    "detach",
    "lift_fresh",
    "set_",
    "_unsafe_view",
    "_reshape_alias",
    "device",
    "_record",
)
# Stable Diffusion 1.5's layers, narrow: widths do not change the counts
NARROW = replace(
    make_tiny_preset(),
    unet=UNetConfig(channels=(32, 64, 64, 64), context_dim=32, heads=4),
    control=ControlConfig(head_dim=16),
    training=SD15.training,
)


class Operations(TorchDispatchMode):
    """The names of the operations that ran in it, without views and allocations."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if not function.is_view and not name.startswith(NOTHING_RUNS):
            self.names.append(name)
        return function(*args, **(kwargs or {}))


def forward_and_backward(run) -> list[str]:
    run().backward()
    with Operations() as operations:
        run().backward()
    return operations.names


def plain_controlnet() -> list[str]:
    """diffusers' ControlNet on a frozen UNet, texts given encoded."""
    unet = diffusers_unet(UNet(NARROW.unet).requires_grad_(False))
    control = build_controlnet(NARROW.unet)
    z, context = torch.randn(2, 4, 8, 8), torch.randn(2, 16, 32)

    def run():
        with torch.autocast("cpu", torch.bfloat16):
            t = torch.tensor([10, 900])
            down, middle = control(z, t, context, torch.rand(2, 3, 64, 64), return_dict=False)
            added = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
            return F.mse_loss(unet(z, t, context, **added).sample.float(), z)

    return forward_and_backward(run)


def stage(name: str) -> list[str]:
    built, _ = training_stages.build(name, NARROW, "cpu", {"condition_weight": 0.0, "cache_text": True})
    data = training_stages.batch(2, 64, "cpu")

    def run():
        with torch.autocast("cpu", torch.bfloat16):
            return built(data)["loss"]

    return forward_and_backward(run)


@pytest.mark.slow
def test_a_step_of_stage_two_takes_few_more_operations_than_a_plain_controlnet():
    """Twelve sites of attention take 4 projections, 2 norms and the attention each; nothing else is added, and nothing
    frozen has a backward pass of its own: 1.2 times the operations."""
    ours, theirs = stage("stage2"), plain_controlnet()
    assert len(ours) <= 1.2 * len(theirs), (len(ours), len(theirs))
    for name in ("convolution", "convolution_backward", "native_layer_norm", "embedding"):
        assert ours.count(name) <= theirs.count(name), name
    for name in ("native_group_norm", "native_group_norm_backward"):
        assert ours.count(name) <= theirs.count(name) + 2 * 12, name


@pytest.fixture
def parameters():
    """Weights on a GPU that need none."""
    with FakeTensorMode(), torch.device("cuda"):
        yield [nn.Parameter(torch.zeros(n, 3)) for n in range(1, 40)]


def test_a_gpu_averages_all_weights_by_one_operation(parameters):
    averages = Averages(parameters, 0.99)
    with Operations() as operations:
        averages.step(parameters)
    assert operations.names == ["_foreach_lerp_"]


def test_a_gpu_takes_an_optimiser_step_by_one_operation_and_the_count_of_steps(parameters):
    optimizer = build_optimizer([{"params": parameters}], TrainConfig())
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    with Operations() as operations:
        optimizer.step()
    assert operations.names == ["_foreach_add_", "_fused_adamw_"]
    assert not build_optimizer([{"params": [nn.Parameter(torch.zeros(2, device="cpu"))]}], TrainConfig()).defaults[
        "fused"
    ]


def test_averages_are_those_of_diffusers():
    """By one operation, too: the devices' paths differ by rounding alone."""
    torch.manual_seed(0)
    starts = [torch.randn(3, 4), torch.randn(5)]
    found = []
    for kind in ("diffusers", "cpu", "gpu"):
        weights = [nn.Parameter(start.clone()) for start in starts]
        averages = (
            EMAModel(weights, 0.9, use_ema_warmup=True, power=0.75) if kind == "diffusers" else Averages(weights, 0.9)
        )
        if kind == "gpu":
            averages.one_by_one = False
        generator = torch.Generator().manual_seed(1)
        for _ in range(10):
            for weight in weights:
                weight.data += torch.randn(weight.shape, generator=generator)
            averages.step(weights)
        found.append(averages.shadow_params)
        assert averages.optimization_step == 10
    assert all(torch.equal(a, b) for a, b in zip(found[0], found[1]))
    for wanted, other in zip(found[0], found[2]):
        torch.testing.assert_close(other, wanted, rtol=1e-6, atol=1e-6)


def test_random_numbers_reach_a_gpu_without_waiting_for_it(monkeypatch):
    """From page-locked memory, asynchronously; the numbers are those of the CPU."""
    pinned, moves = [], []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: pinned.append(x) or x)
    real = torch.Tensor.to

    def to(x, device, non_blocking=False):
        moves.append((str(device), non_blocking))
        return real(x, "cpu")

    monkeypatch.setattr(torch.Tensor, "to", to)
    wanted = Draws([3, 4]).uniform(5)
    assert not pinned
    found = Draws([3, 4]).uniform(5, device="cuda")
    assert len(pinned) == 1 and moves[-1] == ("cuda", True) and torch.equal(found, wanted)
