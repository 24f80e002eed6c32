"""A small CoCa (Yu et al. 2022) with the names and numbers of open_clip's `CoCa`, apart from its image encoder.

Importing open_clip takes seconds; a test holds both to the same bits. Captioners of a user's own CoCa files are
open_clip's.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...presets import CaptionerConfig


class ResidualAttention(nn.Module):
    """Attention of (B, n, width) to itself, or to (B, m, width), and an MLP."""

    def __init__(self, width: int, heads: int, cross: bool = False):
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_1_kv = nn.LayerNorm(width) if cross else None
        self.ln_2 = nn.LayerNorm(width)
        layers = (("c_fc", nn.Linear(width, 4 * width)), ("gelu", nn.GELU()), ("c_proj", nn.Linear(4 * width, width)))
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, x: Tensor, other: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        query = self.ln_1(x)
        keys = query if other is None or self.ln_1_kv is None else self.ln_1_kv(other)
        x = x + self.attn(query, keys, keys, need_weights=False, attn_mask=None if mask is None else mask.to(query))[0]
        return x + self.mlp(self.ln_2(x))


def causal_mask(length: int, like: Tensor) -> Tensor:
    """(length, length) to add to attention: minus infinity for what is later."""
    return torch.full((length, length), -math.inf, dtype=like.dtype, device=like.device).triu_(1)


class Layers(nn.Module):
    """`resblocks` in order."""

    resblocks: Any

    def __init__(self, width: int, heads: int, count: int):
        super().__init__()
        self.resblocks = nn.ModuleList(ResidualAttention(width, heads) for _ in range(count))


class TextTower(nn.Module):
    """The unimodal text encoder, its class token last."""

    def __init__(self, config: CaptionerConfig, vocabulary: int, length: int, pad: int):
        super().__init__()
        width = config.width
        self.pad, self.heads = pad, config.heads
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.cls_emb = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(length + 1, width))
        self.transformer = Layers(width, config.heads, config.text_layers)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, config.embed_dim))
        self._draw(config)

    def _draw(self, config: CaptionerConfig) -> None:
        """open_clip's initial weights."""
        narrow = config.width**-0.5
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        nn.init.normal_(self.cls_emb, std=0.01)
        for block in self.transformer.resblocks:
            nn.init.normal_(block.attn.in_proj_weight, std=narrow)
            nn.init.normal_(block.attn.out_proj.weight, std=narrow * (2 * config.text_layers) ** -0.5)
            nn.init.normal_(block.mlp.c_fc.weight, std=(2 * config.width) ** -0.5)
            nn.init.normal_(block.mlp.c_proj.weight, std=narrow * (2 * config.text_layers) ** -0.5)
        nn.init.normal_(self.text_projection, std=narrow)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Token ids (B, L) to the text's embedding (B, embed_dim) and its tokens' (B, L, width)."""
        x = self.token_embedding(ids).to(self.transformer.resblocks[0].mlp.c_fc.weight.dtype)
        x = torch.cat([x, self.cls_emb.expand(len(x), 1, -1)], 1)
        length = x.shape[1]
        # as the released CoCas were trained: the mask of padding is one position late
        valid = torch.cat([ids.new_ones(len(ids), 1, dtype=torch.bool), ids != self.pad], 1)
        padding = torch.zeros_like(valid, dtype=x.dtype).masked_fill(~valid, -math.inf)[:, None]
        mask = causal_mask(length, x) + padding.expand(-1, length, -1).repeat_interleave(self.heads, 0)
        x = x + self.positional_embedding[:length].to(x)
        for block in self.transformer.resblocks:
            x = block(x, mask=mask)
        return self.ln_final(x[:, -1]) @ self.text_projection, x[:, :-1]


class TextDecoder(Layers):
    """The multimodal decoder: causal self-attention and attention to the image tokens, in turns."""

    def __init__(self, config: CaptionerConfig, vocabulary: int):
        super().__init__(config.width, config.heads, config.decoder_layers)
        self.cross_attn = nn.ModuleList(
            ResidualAttention(config.width, config.heads, cross=True) for _ in range(config.decoder_layers)
        )
        self.ln_final = nn.LayerNorm(config.width)
        self.text_projection = nn.Parameter(
            nn.init.normal_(torch.empty(config.width, vocabulary), std=config.width**-0.5)
        )

    def forward(self, image_tokens: Tensor, text_tokens: Tensor) -> Tensor:
        """Image tokens (B, n, width) and text tokens (B, L, width) to logits (B, L, vocabulary)."""
        mask = causal_mask(text_tokens.shape[1], text_tokens)
        for block, cross in zip(self.resblocks, self.cross_attn):
            text_tokens = cross(block(text_tokens, mask=mask), image_tokens)
        return self.ln_final(text_tokens) @ self.text_projection


class CoCaModel(nn.Module):
    """Text encoder, image encoder and decoder.

    Args:
        visual: prepared pictures to an embedding (B, embed_dim) and tokens (B, n, width).
        vocabulary, length, pad: the tokenizer's.
    """

    def __init__(self, config: CaptionerConfig, visual: nn.Module, vocabulary: int, length: int, pad: int):
        super().__init__()
        self.text = TextTower(config, vocabulary, length, pad)
        self.visual = visual
        self.text_decoder = TextDecoder(config, vocabulary)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.pad_id, self.context_length = pad, length

    def forward(self, images: Tensor, ids: Tensor) -> dict[str, Tensor]:
        """For training: both embeddings, logits of every token but the first, these tokens as labels, and the scale."""
        image_features, image_tokens = self._encode_image(images)
        text_features, text_tokens = self._encode_text(ids)
        return {
            "image_features": image_features,
            "text_features": text_features,
            "logits": self.text_decoder(image_tokens, text_tokens[:, :-1]),
            "labels": ids[:, 1:],
            "logit_scale": self.logit_scale.exp(),
        }

    def _encode_image(self, images: Tensor) -> tuple[Tensor, Tensor]:
        embedding, tokens = self.visual(images)
        return F.normalize(embedding, dim=-1), tokens

    def _encode_text(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        embedding, tokens = self.text(ids)
        return F.normalize(embedding, dim=-1), tokens
