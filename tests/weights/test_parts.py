"""The store of a model's parts: loading and placing; `test_sampling` has offloading."""

import pytest
import torch

from seada_core.files.weight_headers import CheckpointError
from seada_core.weights.parts import Parts, PartStore


def test_a_part_is_loaded_once_and_in_its_precision(tiny_model):
    store = PartStore(Parts(tiny_model), "cpu", torch.bfloat16)
    assert store.get("unet") is store.get("unet")
    dtypes = {part: next(store.get(part).parameters()).dtype for part in ("unet", "semantic_adapter", "vq_decoder")}
    assert dtypes == {"unet": torch.bfloat16, "semantic_adapter": torch.bfloat16, "vq_decoder": torch.float32}
    assert not any(parameter.requires_grad for parameter in store.get("unet").parameters())
    assert store.get("unet").conv_in.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("device", "capability", "dtype"),
    [
        ("cuda", (9, 0), torch.float16),
        ("cuda:1", (8, 0), torch.float16),
        ("cuda", (7, 5), torch.float32),
        ("cpu", None, torch.float32),
        ("mps", None, torch.float32),
    ],
)
def test_the_dtype_that_a_device_gets_if_none_is_asked_for(tiny_model, monkeypatch, device, capability, dtype):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda asked: capability if str(asked) == device else None)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
    assert PartStore(Parts(tiny_model), device).dtype == dtype
    assert PartStore(Parts(tiny_model), device, torch.bfloat16).dtype == torch.bfloat16


def test_parts_that_the_model_does_not_have(tiny_model):
    store = PartStore(Parts(tiny_model), "cpu")
    assert store.has("unet") and not store.has("captioner")
    with pytest.raises(CheckpointError, match=r"no captioner file: .* does not exist"):
        store.get("captioner")
    with pytest.raises(CheckpointError, match=r"unknown part 'vae'; the parts are unet, "):
        store.get("vae")


def test_another_home_and_another_placement(tiny_model):
    """As the nodes have it: parts lie elsewhere than where they are used, and something is made of each."""
    placed = []

    class Store(PartStore):
        def place(self, part, module):
            placed.append(part)
            return super().place(part, module)

    store = Store(Parts(tiny_model), "cpu", home=torch.device("meta"))
    assert store.get("vq_decoder").projection.device.type == "meta" and store.device == torch.device("cpu")
    store.get("vq_decoder")
    assert placed == ["vq_decoder"]
