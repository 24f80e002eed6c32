"""A LoRA that the trainer exports, loaded by ComfyUI's own loader onto the pack's MODEL."""

import torch
from comfy_server import node
from safetensors.torch import load_file, save_file

from seada_core.train import lora
from seada_core.weights import part_files


def test_comfyui_loads_the_exported_lora(comfy, tiny_model, tmp_path):
    unet, _ = part_files.load_part(tiny_model / "unet.safetensors", "unet")
    lora.add_lora(unet, 3)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if ".lora_" in name:
                parameter.normal_()
    path = tmp_path / "unet_lora.safetensors"
    save_file(lora.lora_tensors(unet.state_dict()), path)
    code = f"""
import comfy.lora, comfy.sd, comfy.utils
patched, _ = comfy.sd.load_lora_for_models(a, None, comfy.utils.load_torch_file({str(path)!r}), 0.5, 0)
weights = a.model.state_dict()
changes = [comfy.lora.calculate_weight(patched.patches[key], weights[key].clone().float(), key) - weights[key].float()
           for key in patched.patches]
result = sorted(float(change.norm()) for change in changes)
"""
    found = comfy.probe(code, {"load": node("SeAdaLoadModel", model_name="tiny")}, a=["load", 0])
    tensors = load_file(path)
    layers = [name.removesuffix(".alpha") for name in tensors if name.endswith(".alpha")]
    wanted = sorted(
        float((0.5 * tensors[f"{layer}.lora_up.weight"] @ tensors[f"{layer}.lora_down.weight"]).norm())
        for layer in layers
    )
    assert len(found) == len(wanted) > 0  # every layer of the file has a counterpart in ComfyUI's UNet
    torch.testing.assert_close(torch.tensor(found), torch.tensor(wanted), rtol=1e-3, atol=1e-4)
