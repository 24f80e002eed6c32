"""The diffusers UNet as blocks with hook points: after every decoder sub-block a caller may change the hidden state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..presets import DiffusionConfig, UNetConfig

if TYPE_CHECKING:
    from diffusers import DDIMScheduler, UNet2DConditionModel

Hook = Callable[[int, Tensor], Tensor]  # (site, hidden state (B, C, h, w)) -> hidden state


def build_unet(config: UNetConfig) -> UNet2DConditionModel:
    """A randomly initialised UNet with SD1.5's architecture."""
    from diffusers import UNet2DConditionModel

    down = tuple("CrossAttnDownBlock2D" if attn else "DownBlock2D" for attn in config.attention)
    up = tuple("CrossAttnUpBlock2D" if attn else "UpBlock2D" for attn in reversed(config.attention))
    return UNet2DConditionModel(
        in_channels=config.in_channels,
        out_channels=4,
        block_out_channels=config.channels,
        layers_per_block=config.layers_per_block,
        down_block_types=down,
        up_block_types=up,
        attention_head_dim=config.heads,  # diffusers' misnomer: the number of heads
        cross_attention_dim=config.context_dim,
        norm_num_groups=config.groups,
    )


def build_scheduler(config: DiffusionConfig) -> DDIMScheduler:
    """The forward process and a deterministic sampler; trailing timesteps, so that sampling starts at the last one."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=config.train_steps,
        beta_start=config.beta_start,
        beta_end=config.beta_end,
        beta_schedule="scaled_linear",
        prediction_type=config.prediction,
        rescale_betas_zero_snr=config.zero_terminal_snr,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )


def decoder_sites(unet: UNet2DConditionModel) -> list[tuple[int, int]]:
    """(channels, level) of the hidden state after each decoder sub-block, before its block's upsampling.

    Level 0 is the latent's own resolution, 1 its half, and so on. Twelve sites in SD1.5, three at each level.
    """
    deepest = len(unet.up_blocks) - 1
    return [
        (resnet.out_channels, deepest - depth) for depth, block in enumerate(unet.up_blocks) for resnet in block.resnets
    ]


def encoder_features(net: UNet2DConditionModel) -> list[tuple[int, int]]:
    """(channels, level) of each feature that `encode` returns: the skips in order, then the middle block's output."""
    features = [(net.conv_in.out_channels, 0)]
    level = 0
    for block in net.down_blocks:
        channels = block.resnets[-1].out_channels
        features += [(channels, level)] * len(block.resnets)
        if block.downsamplers is not None:
            level += 1
            features.append((channels, level))
    return [*features, (features[-1][0], level)]


def time_embedding(net: UNet2DConditionModel, timesteps: Tensor, dtype: torch.dtype) -> Tensor:
    """(B,) timesteps to the embedding (B, 4 C) that every residual block takes."""
    return net.time_embedding(net.time_proj(timesteps).to(dtype))


def encode(net: UNet2DConditionModel, x: Tensor, emb: Tensor, context: Tensor) -> list[Tensor]:
    """The encoder half of a UNet (or of a copy of it): all skips in order, then the middle block's output.

    Args:
        x: (B, C_in, h, w).
        emb: time embedding, see `time_embedding`.
        context: (B, L, d) text embedding.
    """
    h = net.conv_in(x)
    features = [h]
    for block in net.down_blocks:
        attentions = getattr(block, "attentions", [None] * len(block.resnets))
        for resnet, attention in zip(block.resnets, attentions):
            h = resnet(h, emb)
            if attention is not None:
                h = attention(h, encoder_hidden_states=context, return_dict=False)[0]
            features.append(h)
        for downsampler in block.downsamplers or ():
            h = downsampler(h)
            features.append(h)
    features.append(net.mid_block(h, emb, encoder_hidden_states=context))
    return features


def denoise(
    unet: UNet2DConditionModel,
    x: Tensor,
    timesteps: Tensor,
    context: Tensor,
    residuals: Sequence[Tensor] | None = None,
    hooks: Sequence[Hook] = (),
) -> Tensor:
    """The UNet's prediction (noise or v), (B, 4, h, w), with hook points.

    Args:
        x: noisy latents (B, C_in, h, w); any size, odd ones too.
        timesteps: (B,) or a scalar tensor.
        context: (B, L, d) text embedding.
        residuals: added to the skips and the middle block's output, as ControlNet does; one per `encode` feature.
        hooks: called in order after decoder sub-block i, before any upsampling, as `h = hook(i, h)`.
    """
    timesteps = timesteps.expand(x.shape[0])
    emb = time_embedding(unet, timesteps, x.dtype)
    features = encode(unet, x, emb, context)
    if residuals is not None:
        features = [f + r for f, r in zip(features, residuals, strict=True)]
    skips, h = list(features[:-1]), features[-1]  # torch 2.4 compiles `*skips, h` to a tuple
    site = 0
    for block in unet.up_blocks:
        attentions = getattr(block, "attentions", [None] * len(block.resnets))
        for resnet, attention in zip(block.resnets, attentions):
            h = resnet(torch.cat([h, skips.pop()], dim=1), emb)
            if attention is not None:
                h = attention(h, encoder_hidden_states=context, return_dict=False)[0]
            for hook in hooks:
                h = hook(site, h)
            site += 1
        for upsampler in block.upsamplers or ():
            h = upsampler(h, skips[-1].shape[-2:])
    return unet.conv_out(unet.conv_act(unet.conv_norm_out(h)))
