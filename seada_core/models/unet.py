"""SD1.5's UNet with the names, numbers and order of weights of diffusers' `UNet2DConditionModel`, and nothing else.

Importing diffusers for that one class takes longer than colouring a photo; a test holds both to the same bits.
`backbone` runs it; the blocks' own `forward` is what training wraps to save memory.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..presets import UNetConfig

NORM_EPS = 1e-5  # of residual blocks
TRANSFORMER_NORM_EPS = 1e-6


class TimeProjection(nn.Module):
    """Timesteps (B,) to cosines and sines (B, width) of 10,000 to 1 steps a period."""

    def __init__(self, width: int):
        super().__init__()
        self.width = width

    def forward(self, timesteps: Tensor) -> Tensor:
        half = self.width // 2
        exponent = -math.log(10_000) * torch.arange(half, dtype=torch.float32, device=timesteps.device) / half
        angles = timesteps[:, None].float() * torch.exp(exponent)[None, :]
        return torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)


class TimeEmbedding(nn.Module):
    """The MLP on a `TimeProjection`: (B, width) to (B, 4 width)."""

    def __init__(self, width: int):
        super().__init__()
        self.linear_1 = nn.Linear(width, 4 * width)
        self.linear_2 = nn.Linear(4 * width, 4 * width)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(x)))


class ResidualBlock(nn.Module):
    """Two convolutions, the time embedding (B, emb) added between them."""

    def __init__(self, before: int, after: int, emb: int, groups: int):
        super().__init__()
        self.in_channels, self.out_channels = before, after
        self.norm1 = nn.GroupNorm(groups, before, eps=NORM_EPS)
        self.conv1 = nn.Conv2d(before, after, 3, padding=1)
        self.time_emb_proj = nn.Linear(emb, after)
        self.norm2 = nn.GroupNorm(groups, after, eps=NORM_EPS)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(before, after, 1) if before != after else None

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """(B, in_channels, h, w) to (B, out_channels, h, w)."""
        h = self.conv1(F.silu(self.norm1(x))) + self.time_emb_proj(F.silu(emb))[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return (x if self.conv_shortcut is None else self.conv_shortcut(x)) + h


class Attention(nn.Module):
    """Multi-head attention of (B, n, width) to itself or to a context (B, L, context_dim)."""

    def __init__(self, width: int, context_dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context_dim, width, bias=False)
        self.to_v = nn.Linear(context_dim, width, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(width, width), nn.Identity()])  # diffusers has a dropout there

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        q, k, v = (
            t.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for t in (self.to_q(x), self.to_k(context), self.to_v(context))
        )
        return self.to_out[0](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class GEGLU(nn.Module):
    """Shazeer 2020: half of a projection, gated by the GELU of the other half."""

    def __init__(self, before: int, after: int):
        super().__init__()
        self.proj = nn.Linear(before, 2 * after)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.proj(x).chunk(2, dim=-1)
        return x * F.gelu(gate)


class FeedForward(nn.Module):
    """A gated MLP of four times the width."""

    def __init__(self, width: int):
        super().__init__()
        self.net = nn.ModuleList([GEGLU(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width)])

    def forward(self, x: Tensor) -> Tensor:
        return self.net[2](self.net[0](x))


class TransformerLayer(nn.Module):
    """Self-attention, cross-attention and a feed-forward network, each with its norm and skip connection."""

    def __init__(self, width: int, context_dim: int, heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = Attention(width, width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.attn2 = Attention(width, context_dim, heads)
        self.norm3 = nn.LayerNorm(width)
        self.ff = FeedForward(width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        seen = self.norm1(x)
        x = self.attn1(seen, seen) + x
        x = self.attn2(self.norm2(x), context) + x
        return self.ff(self.norm3(x)) + x


class Transformer(nn.Module):
    """A `TransformerLayer` on a map's cells."""

    def __init__(self, width: int, context_dim: int, heads: int, groups: int):
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, eps=TRANSFORMER_NORM_EPS)
        self.proj_in = nn.Conv2d(width, width, 1)
        self.transformer_blocks = nn.ModuleList([TransformerLayer(width, context_dim, heads)])
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """(B, width, h, w) and text (B, L, context_dim) to (B, width, h, w)."""
        batch, width, *size = x.shape
        h = self.proj_in(self.norm(x)).permute(0, 2, 3, 1).reshape(batch, -1, width)
        for layer in self.transformer_blocks:
            h = layer(h, context)
        h = h.unflatten(1, size).permute(0, 3, 1, 2).contiguous()
        return self.proj_out(h) + x


class Downsample(nn.Module):
    """A convolution of stride 2."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Upsample(nn.Module):
    """Nearest-neighbour upsampling to a size (h, w), and a convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        return self.conv(F.interpolate(x, size=size, mode="nearest"))


class Block(nn.Module):
    """The layers of one resolution: residual blocks, transformers after them where there is text, and resampling."""

    attentions: Any  # absent where there is no text
    resnets: Any

    def __init__(self, config: UNetConfig, attend: bool, widths: list[tuple[int, int]], emb: int):
        super().__init__()
        attentions, resnets = [], []
        for before, after in widths:
            resnets.append(ResidualBlock(before, after, emb, config.groups))
            if attend:
                attentions.append(Transformer(after, config.context_dim, config.heads, config.groups))
        if attend:
            self.attentions = nn.ModuleList(attentions)
        self.resnets = nn.ModuleList(resnets)


class DownBlock(Block):
    """A resolution of the encoder."""

    def __init__(self, config: UNetConfig, attend: bool, widths: list[tuple[int, int]], emb: int, last: bool):
        super().__init__(config, attend, widths, emb)
        self.downsamplers = None if last else nn.ModuleList([Downsample(widths[-1][1])])


class UpBlock(Block):
    """A resolution of the decoder."""

    def __init__(self, config: UNetConfig, attend: bool, widths: list[tuple[int, int]], emb: int, last: bool):
        super().__init__(config, attend, widths, emb)
        self.upsamplers = None if last else nn.ModuleList([Upsample(widths[-1][1])])


class MiddleBlock(nn.Module):
    """Between encoder and decoder: a transformer between two residual blocks."""

    def __init__(self, config: UNetConfig, width: int, emb: int):
        super().__init__()
        first = ResidualBlock(width, width, emb, config.groups)
        self.attentions = nn.ModuleList([Transformer(width, config.context_dim, config.heads, config.groups)])
        self.resnets = nn.ModuleList([first, ResidualBlock(width, width, emb, config.groups)])

    def forward(self, x: Tensor, emb: Tensor, context: Tensor) -> Tensor:
        x = self.resnets[0](x, emb)
        return self.resnets[1](self.attentions[0](x, context), emb)


class UNet(nn.Module):
    """The layers alone; `backbone.denoise` runs them.

    Args:
        config: `attention` says which resolutions have text, from the finest; the middle block always has.
    """

    down_blocks: Any
    up_blocks: Any

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.config = config
        channels, count = config.channels, config.layers_per_block
        emb, last = 4 * channels[0], len(channels) - 1
        self.conv_in = nn.Conv2d(config.in_channels, channels[0], 3, padding=1)
        self.time_proj = TimeProjection(channels[0])
        self.time_embedding = TimeEmbedding(channels[0])
        self.down_blocks = nn.ModuleList()
        skips, before = [channels[0]], channels[0]
        for level, (width, attend) in enumerate(zip(channels, config.attention)):
            widths = [(before if i == 0 else width, width) for i in range(count)]
            self.down_blocks.append(DownBlock(config, attend, widths, emb, level == last))
            skips += [width] * (count + (level < last))
            before = width
        self.up_blocks = nn.ModuleList()
        self.mid_block = MiddleBlock(config, channels[-1], emb)
        for level in reversed(range(len(channels))):
            width, widths = channels[level], []
            for _ in range(count + 1):
                widths.append((before + skips.pop(), width))
                before = width
            self.up_blocks.append(UpBlock(config, config.attention[level], widths, emb, level == 0))
        self.conv_norm_out = nn.GroupNorm(config.groups, channels[0], eps=NORM_EPS)
        self.conv_act = nn.SiLU()
        self.conv_out = nn.Conv2d(channels[0], 4, 3, padding=1)
