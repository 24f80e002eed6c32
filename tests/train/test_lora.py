"""The LoRA on the UNet's decoder, and the command that merges it."""

import pytest
import torch
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from safetensors.torch import save_file
from tiny_models import make_tiny_preset

from seada_core import presets
from seada_core.files.weight_headers import CheckpointError
from seada_core.models.backbone import denoise
from seada_core.models.unet import UNet
from seada_core.train import lora
from seada_core.weights import part_files
from seada_core.weights.export import diffusers_unet


def test_lora_trains_little_merges_and_diffusers_loads_it(tmp_path):
    """The file loads into diffusers' own UNet as a LoRA, and that gives what the merged weights and training give."""
    config = presets.UNetConfig(
        channels=(32, 64), layers_per_block=1, attention=(True, True), heads=2, context_dim=16, groups=8
    )
    torch.manual_seed(0)
    unet = UNet(config)
    before = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    z, t, context = torch.randn(1, 4, 8, 8), torch.tensor([7]), torch.randn(1, 5, 16)
    plain = denoise(unet, z, t, context)
    lora.add_lora(unet, 3)
    trained = {name for name, p in unet.named_parameters() if p.requires_grad}
    assert trained and all(name.startswith("up_blocks") and ".lora_" in name for name in trained)
    torch.testing.assert_close(denoise(unet, z, t, context), plain)  # B is zero
    with torch.no_grad():
        for name, p in unet.named_parameters():
            if ".lora_" in name:
                p.normal_(std=0.2)
    wanted = denoise(unet, z, t, context)
    assert (wanted - plain).abs().max() > 0.01

    tensors = lora.lora_tensors(unet.state_dict())
    save_file(tensors, tmp_path / "lora.safetensors")
    merged, left = lora.merge(before, tensors)
    assert merged.keys() == before.keys() and left == []

    fresh = UNet(config)
    fresh.load_state_dict(merged)
    torch.testing.assert_close(denoise(fresh, z, t, context), wanted, rtol=1e-3, atol=1e-4)

    plain_unet = UNet(config)
    plain_unet.load_state_dict(before)
    other = diffusers_unet(plain_unet)
    state, alphas = StableDiffusionLoraLoaderMixin.lora_state_dict(str(tmp_path / "lora.safetensors"))
    StableDiffusionLoraLoaderMixin.load_lora_into_unet(state, alphas, other)
    torch.testing.assert_close(other(z, t, context).sample, wanted, rtol=1e-3, atol=1e-4)

    again = UNet(config)
    again.load_state_dict(before)
    lora.add_lora(again, 3, tmp_path / "lora.safetensors")
    torch.testing.assert_close(denoise(again, z, t, context), wanted)
    with pytest.raises(CheckpointError, match="not a LoRA of rank 2"):
        lora.add_lora(UNet(config), 2, tmp_path / "lora.safetensors")


def test_the_merge_command(tmp_path, capsys):
    preset = make_tiny_preset()
    unet = part_files.build("unet", preset)
    part_files.save_part(tmp_path / "unet.safetensors", "unet", preset, unet)
    layer = "up_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    width = unet.get_submodule(layer).weight.shape[0]
    down, up = torch.randn(2, width), torch.randn(width, 2)
    name = "lora_unet_" + layer.replace(".", "_")
    tensors = {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": torch.tensor(1.0)}
    tensors |= {"lora_te_x.lora_down.weight": torch.ones(2, 2), "lora_te_x.lora_up.weight": torch.ones(2, 2)}
    save_file(tensors, tmp_path / "lora.safetensors")
    files = [str(tmp_path / n) for n in ("unet.safetensors", "lora.safetensors", "merged/unet.safetensors")]
    assert lora.main([*files, "--strength", "0.5"]) == 0
    assert "not used" in capsys.readouterr().err
    merged = part_files.load_part(tmp_path / "merged" / "unet.safetensors", "unet")[0].state_dict()
    for key, tensor in unet.state_dict().items():
        change = 0.5 * (1.0 / 2) * up @ down if key == f"{layer}.weight" else torch.zeros(())
        torch.testing.assert_close(merged[key], tensor + change, rtol=1e-4, atol=1e-5)
    save_file({"lora_te_x.lora_down.weight": torch.ones(2, 2)}, tmp_path / "lora.safetensors")
    assert lora.main(files) == 1
    assert "holds no LoRA of this UNet" in capsys.readouterr().err
