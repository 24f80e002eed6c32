"""What makes a stage fit: activation checkpointing, frozen weights in bf16, 8-bit AdamW."""

import sys

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from training import make_batch, small_config

from seada_core.train import lora
from seada_core.train.memory import MemoryOptionError, build_optimizer, checkpoint_activations, freeze_in_bf16
from seada_core.train.stages.registry import STAGES

CAPTIONS = ["a photo of a dog", "a photo of the sea"]


def remembered(stage, data) -> tuple[int, dict]:
    """Bytes that the forward pass keeps for the backward pass (parameters apart), and the gradients."""
    weights = {p.untyped_storage().data_ptr() for p in stage.parameters()}
    kept = {}

    def pack(tensor):
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = stage(data)["loss"]
    loss.backward()
    gradients = {n: p.grad.clone() for n, p in stage.named_parameters() if p.grad is not None}
    stage.zero_grad()
    return sum(kept.values()), gradients


@pytest.mark.parametrize("name", ["stage2", "stage3", "joint", "codec"])
def test_checkpointed_blocks_remember_less_and_give_the_same_gradients(tiny_parts, name):
    modules, preset = tiny_parts
    stage = STAGES[name].build(modules, preset, small_config()).train()
    data = make_batch(64)
    buffers = {n: b.clone() for n, b in stage.named_buffers()}
    names = set(stage.state_dict())
    plain, expected = remembered(stage, data)
    assert checkpoint_activations(stage) > 5
    with torch.no_grad():
        for n, b in stage.named_buffers():
            b.copy_(buffers[n.replace("_checkpoint_wrapped_module.", "")])
    less, found = remembered(stage, data)
    assert less < 0.6 * plain
    assert set(stage.state_dict()) == names
    for n, gradient in found.items():
        torch.testing.assert_close(gradient, expected[n.replace("_checkpoint_wrapped_module.", "")])


def test_checkpointing_covers_unet_conditional_encoder_and_rca(tiny_parts):
    """Every convolution and every attention of the three lies in a checkpointed block, but for the outermost layers."""
    modules, preset = tiny_parts
    stage = STAGES["stage2"].build(modules, preset, small_config())
    checkpoint_activations(stage)
    outside = [
        name
        for name, module in stage.named_modules()
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear)
        and name.startswith(("unet", "controlnet_rca.encoder", "controlnet_rca.rca"))
        and "_checkpoint_wrapped_module" not in name
    ]
    ends = ("conv_in", "conv_out", "time_embedding.linear_1", "time_embedding.linear_2")
    assert [name for name in outside if not name.endswith(ends)] == []


def test_frozen_parts_in_bf16_train_the_rest_in_fp32(tiny_parts):
    modules, preset = tiny_parts
    stage = STAGES["stage2"].build(modules, preset, small_config()).train()
    exact = stage(make_batch(64))["loss"].item()
    assert set(freeze_in_bf16(stage)) == {"unet", "semantic_encoder", "semantic_adapter"}
    norms = {id(p) for m in stage.modules() if isinstance(m, (nn.GroupNorm, nn.LayerNorm)) for p in m.parameters()}
    kinds = {(id(p) in norms, p.dtype) for p in stage.unet.parameters()}
    assert kinds == {(False, torch.bfloat16), (True, torch.float32)}
    with torch.autocast("cpu", torch.bfloat16):
        loss = stage(make_batch(64))["loss"]
    loss.backward()
    assert loss.item() == pytest.approx(exact, rel=0.03)
    trained = [p for p in stage.parameters() if p.requires_grad]
    assert all(p.dtype == torch.float32 and torch.isfinite(p.grad).all() for p in trained if p.grad is not None)


def test_a_frozen_unet_in_bf16_keeps_its_lora_in_fp32(tiny_parts):
    modules, preset = tiny_parts
    lora.add_lora(modules["unet"], 2)
    stage = STAGES["stage2"].build(modules, preset, small_config(lora=2)).train()
    assert "unet" in freeze_in_bf16(stage)
    kinds = {(p.requires_grad, p.dtype) for p in stage.unet.parameters() if p.ndim > 1}
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}
    with torch.autocast("cpu", torch.bfloat16):
        stage(make_batch(64))["loss"].backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in stage.unet.parameters())


def test_eight_bit_adamw_goes_where_adamw_goes():
    pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    start, target = torch.randn(64, 128), torch.randn(64, 128)
    results = {}
    for name in ("adamw", "adamw8bit"):
        parameter = torch.nn.Parameter(start.clone())
        optimizer = build_optimizer([{"params": [parameter]}], small_config(optimizer=name, lr=1e-2))
        for _ in range(20):
            optimizer.zero_grad()
            (parameter - target).square().sum().backward()
            optimizer.step()
        results[name] = parameter.detach()
        size = sum(t.nbytes for s in optimizer.state.values() for t in s.values() if torch.is_tensor(t))
        assert size < 2.5 * parameter.numel() if name == "adamw8bit" else size >= 8 * parameter.numel()
    moved = (results["adamw"] - start).norm()
    assert (results["adamw8bit"] - results["adamw"]).norm() < 0.05 * moved


def test_an_optimizer_that_cannot_be_had_says_so(monkeypatch):
    parameter = torch.nn.Parameter(torch.zeros(2))
    with pytest.raises(MemoryOptionError, match="unknown optimizer 'lion'"):
        build_optimizer([{"params": [parameter]}], small_config(optimizer="lion"))
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(MemoryOptionError, match="pip install bitsandbytes"):
        build_optimizer([{"params": [parameter]}], small_config(optimizer="adamw8bit"))
