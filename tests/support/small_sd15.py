"""Small random weights in Stable Diffusion 1.5's layout, in every published format."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import original_names
import torch
from safetensors.torch import save_file
from torch import nn

from seada_core import presets
from seada_core.models.semantic_adapter import SemanticEncoder
from seada_core.models.tokenizer import Tokenizer
from seada_core.models.unet import UNet
from seada_core.presets import SD15, VAEConfig
from seada_core.weights import part_files, stable_diffusion
from seada_core.weights.export import diffusers_scheduler, diffusers_unet, text_config
from seada_core.weights.stock_controlnet import build_controlnet

LAYERS, ATTENTION = 2, (True, True, True, False)
SMALL = replace(
    SD15,
    name="small",
    unet=presets.UNetConfig(channels=(32, 64, 64, 64), context_dim=32, heads=4),
    text=presets.TextConfig(width=32, layers=2, heads=2),
    adapter=presets.AdapterConfig(width=32),
    hint=presets.HintConfig(channels=(8, 8, 8)),
    sampling=presets.SamplingConfig(steps=2, guidance=2.0, size=64),
)
SMALL_VAE = VAEConfig(channels=(32, 32, 32, 32), layers_per_block=2)
# of `SMALL` and `SMALL_VAE`, for `convert`
SIZES = [
    *("--unet.channels", "32", "64", "64", "64", "--unet.context-dim", "32", "--unet.heads", "4"),
    *("--text.width", "32", "--text.layers", "2", "--text.heads", "2"),
    *("--vae-sizes.channels", "32", "32", "32", "32"),
]


def transformers_text(encoder: SemanticEncoder) -> nn.Module:
    """The same text encoder as transformers' class."""
    from transformers import CLIPTextModel

    model = CLIPTextModel(text_config(encoder))
    # transformers 4 wraps what transformers 5 has become
    getattr(model, "text_model", model).load_state_dict(encoder.model.state_dict())
    return model


def same(module: nn.Module, other: nn.Module) -> bool:
    """Whether two modules have equal weights under equal names."""
    ours, theirs = module.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@dataclass
class SmallSD15:
    modules: dict[str, nn.Module]
    single_file: Path
    diffusers: Path  # a folder, as diffusers itself writes it
    parts: Path  # a folder of parts to use with a base model: controller, adapter, hint encoder


def build(folder: Path) -> SmallSD15:
    """Write all formats into a folder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        modules = {
            "unet": UNet(SMALL.unet),
            "text_encoder": SemanticEncoder(SMALL.text, Tokenizer(77)),
            "vae": stable_diffusion.build_vae(SMALL_VAE),
            "controlnet": build_controlnet(SMALL.unet),
        }
        parts = {part: part_files.build(part, SMALL) for part in ("controlnet_rca", "semantic_adapter", "hint_encoder")}
        for module in (*modules.values(), *parts.values()):
            for parameter in module.parameters():  # zero-initialised layers could hide a fault
                if parameter.abs().max() == 0:
                    nn.init.normal_(parameter, std=0.03)
            module.eval()
        nn.init.normal_(parts["controlnet_rca"].encoder.conv_in.weight[:, 4:], std=0.2)  # untrained ones ignore c_f
    result = SmallSD15(modules, folder / "model.safetensors", folder / "diffusers", folder / "parts")
    tensors = original_names.checkpoint(modules["unet"], modules["text_encoder"], modules["vae"], LAYERS, ATTENTION)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, result.single_file)
    diffusers_unet(modules["unet"]).save_pretrained(result.diffusers / "unet")
    transformers_text(modules["text_encoder"]).save_pretrained(result.diffusers / "text_encoder")
    modules["vae"].save_pretrained(result.diffusers / "vae")
    diffusers_scheduler(SMALL.diffusion).save_pretrained(result.diffusers / "scheduler")
    index = {"_class_name": "StableDiffusionPipeline"}
    (result.diffusers / "model_index.json").write_text(json.dumps(index))
    result.parts.mkdir()
    for part, module in parts.items():
        part_files.save_part(result.parts / f"{part}.safetensors", part, SMALL, module)
    return result
