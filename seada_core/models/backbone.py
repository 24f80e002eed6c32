"""The UNet as blocks with hook points: after every decoder sub-block a caller may change the hidden state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .unet import UNet

Hook = Callable[[int, Tensor], Tensor]  # (site, hidden state (B, C, h, w)) -> hidden state


def decoder_sites(unet: UNet) -> list[tuple[int, int]]:
    """(channels, level) of the hidden state after each decoder sub-block, before its block's upsampling.

    Level 0 is the latent's own resolution, 1 its half, and so on. Twelve sites in SD1.5, three at each level.
    """
    deepest = len(unet.up_blocks) - 1
    return [
        (resnet.out_channels, deepest - depth) for depth, block in enumerate(unet.up_blocks) for resnet in block.resnets
    ]


def encoder_features(net: Any) -> list[tuple[int, int]]:
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


def time_embedding(net: Any, timesteps: Tensor, dtype: torch.dtype) -> Tensor:
    """(B,) timesteps to the embedding (B, 4 C) that every residual block takes."""
    return net.time_embedding(net.time_proj(timesteps).to(dtype))


class Fixed(NamedTuple):
    """What timesteps and text alone determine: computed once a picture, not at every step; see `fix`."""

    shifts: Tensor  # (T, all residual blocks' widths together): each block's projection of the time embedding
    texts: list[tuple[Tensor, Tensor]]  # keys and values (B, heads, L, d) of each cross-attention

    def at(self, step: int) -> Fixed:
        """That of one of the T timesteps."""
        return Fixed(self.shifts[step : step + 1], self.texts)


def fix(net: Any, timesteps: Tensor, context: Tensor) -> Fixed:
    """The `Fixed` of a UNet, or of a copy of its encoder, for timesteps (T,) and text (B, L, d); in evaluation mode."""
    emb = F.silu(time_embedding(net, timesteps, context.dtype))
    shifts = torch.cat([block.time_emb_proj(emb) for block in _residual_blocks(net)], dim=1)
    attentions = [layer.attn2 for block in _transformers(net) for layer in block.transformer_blocks]
    return Fixed(shifts, [(_heads(a, a.to_k(context)), _heads(a, a.to_v(context))) for a in attentions])


def _blocks(net: Any) -> list[Any]:
    return [*net.down_blocks, net.mid_block, *getattr(net, "up_blocks", ())]


def _residual_blocks(net: Any) -> list[Any]:
    return [resnet for block in _blocks(net) for resnet in block.resnets]


def _transformers(net: Any) -> list[Any]:
    return [attention for block in _blocks(net) for attention in getattr(block, "attentions", ())]


class Modules:
    """Runs a UNet's blocks by their own `forward`, which training wraps to save memory."""

    def __init__(self, emb: Tensor, context: Tensor):
        self.emb, self.context = emb, context

    def residual(self, block: nn.Module, x: Tensor) -> Tensor:
        """A residual block on (B, C, h, w)."""
        return block(x, self.emb)

    def attend(self, block: nn.Module, x: Tensor) -> Tensor:
        """A transformer on (B, C, h, w)."""
        return block(x, self.context)

    def middle(self, block: nn.Module, x: Tensor) -> Tensor:
        """The middle block on (B, C, h, w)."""
        return block(x, self.emb, self.context)


class FewerLaunches:
    """Runs the same layers for inference, without what a `Fixed` has computed."""

    def __init__(self, net: Any, fixed: Fixed):
        self.shifts = iter(fixed.shifts.split([block.out_channels for block in _residual_blocks(net)], dim=1))
        self.texts: Iterator[tuple[Tensor, Tensor]] = iter(fixed.texts)

    def residual(self, block: Any, x: Tensor) -> Tensor:
        """A residual block on (B, C, h, w)."""
        h = block.conv1(F.silu(block.norm1(x))) + next(self.shifts)[:, :, None, None]
        h = block.conv2(F.silu(block.norm2(h)))
        return h + (x if block.conv_shortcut is None else block.conv_shortcut(x))

    def attend(self, block: Any, x: Tensor) -> Tensor:
        """A transformer on (B, C, h, w)."""
        batch, _, height, width = x.shape
        h = block.proj_in(block.norm(x)).permute(0, 2, 3, 1).reshape(batch, height * width, -1)
        for layer in block.transformer_blocks:
            seen = layer.norm1(h)
            keys, values = (_heads(layer.attn1, project(seen)) for project in (layer.attn1.to_k, layer.attn1.to_v))
            h = h + _attention(layer.attn1, seen, keys, values)
            h = h + _attention(layer.attn2, layer.norm2(h), *next(self.texts))
            h = h + layer.ff(layer.norm3(h))
        return block.proj_out(h.unflatten(1, (height, width)).permute(0, 3, 1, 2)) + x

    def middle(self, block: Any, x: Tensor) -> Tensor:
        """The middle block on (B, C, h, w)."""
        h = self.residual(block.resnets[0], x)
        for attention, resnet in zip(block.attentions, block.resnets[1:]):
            h = self.residual(resnet, self.attend(attention, h))
        return h


def _heads(attention: Any, x: Tensor) -> Tensor:
    """(B, n, heads d) to (B, heads, n, d)."""
    return x.unflatten(-1, (attention.heads, -1)).transpose(1, 2)


def _attention(attention: Any, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    out = F.scaled_dot_product_attention(_heads(attention, attention.to_q(x)), keys, values)
    return attention.to_out[0](out.transpose(1, 2).flatten(2))


def encode(net: Any, x: Tensor, blocks: Modules | FewerLaunches) -> list[Tensor]:
    """The encoder half of a UNet (or of a copy of it): all skips in order, then the middle block's output.

    Args:
        x: (B, C_in, h, w).
        blocks: runs its blocks, given time and text.
    """
    h = net.conv_in(x)
    features = [h]
    for block in net.down_blocks:
        attentions = getattr(block, "attentions", [None] * len(block.resnets))
        for resnet, attention in zip(block.resnets, attentions):
            h = blocks.residual(resnet, h)
            if attention is not None:
                h = blocks.attend(attention, h)
            features.append(h)
        for downsampler in block.downsamplers or ():
            h = downsampler(h)
            features.append(h)
    features.append(blocks.middle(net.mid_block, h))
    return features


def denoise(
    unet: UNet,
    x: Tensor,
    timesteps: Tensor,
    context: Tensor,
    residuals: Sequence[Tensor] | None = None,
    hooks: Sequence[Hook] = (),
    fixed: Fixed | None = None,
) -> Tensor:
    """The UNet's prediction (noise or v), (B, 4, h, w), with hook points.

    Args:
        x: noisy latents (B, C_in, h, w); any size, odd ones too.
        timesteps: (B,) or a scalar tensor.
        context: (B, L, d) text embedding.
        residuals: added to the skips and the middle block's output, as ControlNet does; one per `encode` feature.
        hooks: called in order after decoder sub-block i, before any upsampling, as `h = hook(i, h)`.
        fixed: in place of timesteps and context, for inference.
    """
    blocks: Modules | FewerLaunches
    if fixed is None:
        blocks = Modules(time_embedding(unet, timesteps.expand(x.shape[0]), x.dtype), context)
    else:
        blocks = FewerLaunches(unet, fixed)
    features = encode(unet, x, blocks)
    if residuals is not None:
        features = [f + r for f, r in zip(features, residuals, strict=True)]
    skips, h = list(features[:-1]), features[-1]  # torch 2.4 compiles `*skips, h` to a tuple
    site = 0
    for block in unet.up_blocks:
        attentions = getattr(block, "attentions", [None] * len(block.resnets))
        for resnet, attention in zip(block.resnets, attentions):
            h = blocks.residual(resnet, torch.cat([h, skips.pop()], dim=1))
            if attention is not None:
                h = blocks.attend(attention, h)
            for hook in hooks:
                h = hook(site, h)
            site += 1
        for upsampler in block.upsamplers or ():
            h = upsampler(h, skips[-1].shape[-2:])
    return unet.conv_out(unet.conv_act(unet.conv_norm_out(h)))
