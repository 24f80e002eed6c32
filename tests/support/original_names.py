"""Stable Diffusion's original (ldm) names for diffusers' modules, written from the original code's block order.

The converter translates in the other direction by diffusers' own functions; ComfyUI's classes are a third reference.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

_RESIDUAL = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
_ENDS = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
    "controlnet_cond_embedding.conv_in": "input_hint_block.0", "controlnet_mid_block": "middle_block_out.0",
    "controlnet_cond_embedding.conv_out": "input_hint_block.14",
}  # fmt: skip
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def unet_name(name: str, layers: int, attention: tuple[bool, ...]) -> str:
    """A diffusers UNet's or ControlNet's name in the original order: one flat list of blocks each way."""
    layer, kind = name.rsplit(".", 1)
    if layer in _ENDS:
        return f"{_ENDS[layer]}.{kind}"
    match = re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)", layer)
    if match:
        way, block, what, index, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
        first = block * (layers + 1) + (way == "down")
        place = f"{'input' if way == 'down' else 'output'}_blocks.{first + index}"
        if what == "resnets":
            return f"{place}.0.{_RESIDUAL[rest]}.{kind}"
        if what == "attentions":
            return f"{place}.1.{rest}.{kind}"
        if what == "downsamplers":
            return f"input_blocks.{first + layers}.0.op.{kind}"
        after = 2 if tuple(reversed(attention))[block] else 1
        return f"output_blocks.{first + layers}.{after}.conv.{kind}"
    if match := re.match(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)", layer):
        if match[1] == "attentions":
            return f"middle_block.1.{match[3]}.{kind}"
        return f"middle_block.{2 * int(match[2])}.{_RESIDUAL[match[3]]}.{kind}"
    if match := re.fullmatch(r"controlnet_down_blocks\.(\d+)", layer):
        return f"zero_convs.{match[1]}.0.{kind}"
    if match := re.fullmatch(r"controlnet_cond_embedding\.blocks\.(\d+)", layer):
        return f"input_hint_block.{2 * int(match[1]) + 2}.{kind}"
    raise KeyError(name)


def vae_name(name: str, levels: int = 4) -> str:
    """A diffusers AutoencoderKL's name in the original order."""
    layer, kind = name.rsplit(".", 1)
    layer = layer.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    layer = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", layer)
    layer = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", layer)
    layer = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{levels - 1 - int(m[1])}.block.{m[2]}", layer)
    layer = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", layer)
    layer = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", layer)
    if match := re.match(r"(.+)\.mid_block\.attentions\.0\.(.+)", layer):
        layer = f"{match[1]}.mid.attn_1.{_VAE_ATTENTION[match[2]]}"
    return f"{layer}.{kind}"


def unet(state: dict[str, Tensor], layers: int, attention: tuple[bool, ...], prefix: str = "") -> dict[str, Tensor]:
    """A UNet's or ControlNet's state dict under the original names."""
    return {prefix + unet_name(name, layers, attention): tensor for name, tensor in state.items()}


def vae(state: dict[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """A VAE's; its attention was made of 1x1 convolutions."""
    result = {}
    for name, tensor in state.items():
        original = prefix + vae_name(name)
        is_convolution = ".mid.attn_1." in original and tensor.ndim == 2
        result[original] = tensor[..., None, None] if is_convolution else tensor
    return result


def text(state: dict[str, Tensor], prefix: str = "cond_stage_model.transformer.text_model.") -> dict[str, Tensor]:
    """A CLIP text model's, from `SemanticEncoder`'s."""
    return {prefix + re.sub(r"^model\.(text_model\.)?", "", name): tensor for name, tensor in state.items()}


def leftovers() -> dict[str, Tensor]:
    """Other tensors of a real checkpoint: the schedule's constants, averaged copies, positions."""
    constants = (
        "betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod",
        "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod",
        "posterior_variance", "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2",
    )  # fmt: skip
    return {name: torch.zeros(1000) for name in constants} | {
        "model_ema.decay": torch.tensor(0.9999),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77)[None],
    }


def checkpoint(unet_module: nn.Module, text_module: nn.Module, vae_module: nn.Module, layers: int, attention) -> dict:
    """A whole single-file checkpoint as it is published."""
    return {
        **unet(unet_module.state_dict(), layers, attention, "model.diffusion_model."),
        **text(text_module.state_dict()),
        **vae(vae_module.state_dict(), "first_stage_model."),
        **leftovers(),
    }
