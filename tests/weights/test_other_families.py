"""Files of other model families are refused by name."""

import pytest
import torch
from safetensors.torch import save_file

from seada_core.files.weight_headers import CheckpointError
from seada_core.weights.stable_diffusion import Base
from seada_core.weights.stock_controlnet import StockWeights


def shaped(**shapes) -> dict:
    return {name: torch.zeros(shape) for name, shape in shapes.items()}


UNET = {"model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3)}


TO_K = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"


FOREIGN = {
    "sdxl": (UNET | {"conditioner.embedders.0.transformer.text_model.x": (1,)}, "Stable Diffusion XL checkpoint"),
    "sdxl unet": (UNET | {"model.diffusion_model.label_emb.0.0.weight": (4, 4)}, "Stable Diffusion XL"),
    "sd2": (UNET | {TO_K: (320, 1024)}, r"Stable Diffusion 2 \(texts 1024 wide\)"),
    "sd2 text": (UNET | {"cond_stage_model.model.ln_final.weight": (4,)}, "Stable Diffusion 2 checkpoint"),
    "sd3": ({"model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": (4, 4)}, "Stable Diffusion 3"),
    "flux": ({"double_blocks.0.img_attn.norm.key_norm.scale": (4,)}, "a Flux model"),
    "lora": ({"lora_unet_down_blocks_0_attentions_0.lora_down.weight": (4, 4)}, "a LoRA.*Merge the LoRA"),
    "peft lora": ({"unet.down_blocks.0.attentions.0.to_q.lora_A.weight": (4, 4)}, "a LoRA"),
    "embedding": ({"emb_params": (4, 768)}, "textual inversion"),
    "vae": ({"encoder.down.0.block.0.conv1.weight": (1,)}, "is a VAE"),
    "controlnet": ({"control_model.input_hint_block.0.weight": (16, 3, 3, 3)}, "is a ControlNet"),
    "t2i": ({"body.0.block1.weight": (4, 4)}, "T2I-Adapter"),
    "ip": ({"image_proj.proj.weight": (4, 4)}, "IP-Adapter"),
    "motion": ({"down_blocks.0.motion_modules.0.temporal_transformer.norm.weight": (4,)}, "AnimateDiff"),
    "unet alone": ({"input_blocks.0.0.weight": (320, 4, 3, 3)}, "a UNet alone"),
    "wan": ({"blocks.0.self_attn.q.weight": (4, 4)}, "a diffusion transformer"),
    "coca": ({"text_decoder.text_projection": (4, 4), "visual.conv1.weight": (4, 3, 14, 14)}, "a CoCa"),
    "nothing": ({"weight": (1,)}, "an unknown model .*'weight'"),
    "inpainting": ({"model.diffusion_model.input_blocks.0.0.weight": (320, 9, 3, 3)}, "9 channels: it is an inpaint"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_file_of_another_family_is_named(name, tmp_path):
    shapes, message = FOREIGN[name]
    path = tmp_path / "model.safetensors"
    save_file(shaped(**shapes), path)
    with pytest.raises(CheckpointError, match=message) as error:
        Base(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["sdxl unet", "lora", "vae", "unet alone", "t2i"])
def test_a_controlnet_of_another_family_is_named(name, tmp_path):
    save_file(shaped(**FOREIGN[name][0]), tmp_path / "control.safetensors")
    with pytest.raises(CheckpointError, match=r"expected a ControlNet of Stable Diffusion 1\.5"):
        StockWeights(tmp_path / "control.safetensors")
