"""SeAda's semantic adapter (Fig. 3, Eq. 2, 3, 5): from a grey photo's caption to an embedding close to a colour one."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..presets import AdapterConfig, TextConfig
from .clip_text import CLIPText
from .tokenizer import Tokenizer


class SemanticEncoder(nn.Module):
    """SeEnc, parts (a) and (b) of Fig. 3: a CLIP text model; e = SeEnc(Des), Eq. 2.

    Args:
        config: sizes; the vocabulary size is the tokenizer's.
        tokenizer: None for CLIP's full vocabulary.
    """

    def __init__(self, config: TextConfig, tokenizer: Tokenizer | None = None):
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer or Tokenizer(config.length)
        self.model = CLIPText(config, self.tokenizer.size)

    def forward(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Captions to token embeddings e (B, L, d) and the mask (B, L) that is True on real tokens."""
        ids = self.tokenize(texts)
        return self.embed(ids), self.tokenizer.mask(ids)

    def tokenize(self, texts: list[str]) -> Tensor:
        """Captions to token ids (B, L) on the model's device."""
        return self.tokenizer(texts).to(self.model.embeddings.token_embedding.weight.device)

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids (B, L) to token embeddings e (B, L, d)."""
        return self.model(ids)


class SemanticAdapter(nn.Module):
    """Part (c): e_r = MLP(softmax(e_t e_g^T / alpha) e_g + e_g), Eq. 3.

    e_t is one trainable (L, d) query for all pictures; e_g is key and value, single head. The MLP is a residual whose
    last layer starts at zero, so that an untrained adapter keeps the text space that the UNet was trained on.
    """

    def __init__(self, config: AdapterConfig):
        super().__init__()
        d = config.width
        self.scale = config.scale or math.sqrt(d)
        self.query = nn.Parameter(nn.init.normal_(torch.empty(config.length, d), std=0.02)) if config.query else None
        self.to_q, self.to_k, self.to_v = (
            nn.Linear(d, d, bias=False) if config.projections else nn.Identity() for _ in range(3)
        )
        self.mlp = None
        if config.mlp:
            self.mlp = nn.Sequential(nn.Linear(d, d * config.mlp_ratio), nn.GELU(), nn.Linear(d * config.mlp_ratio, d))
            nn.init.zeros_(self.mlp[2].get_parameter("weight"))
            nn.init.zeros_(self.mlp[2].get_parameter("bias"))

    def forward(self, e_g: Tensor) -> Tensor:
        """e_g (B, L, d), the grey photo's caption, to the refined e_r, same shape. Longer texts reuse e_t's rows."""
        e_r = e_g
        if self.query is not None:
            rows = torch.arange(e_g.shape[1], device=e_g.device) % self.query.shape[0]
            scores = self.to_q(self.query[rows].to(e_g.dtype)) @ self.to_k(e_g).transpose(1, 2)
            e_r = torch.softmax(scores / self.scale, dim=-1) @ self.to_v(e_g) + e_g
        return e_r if self.mlp is None else e_r + self.mlp(e_r)


def representation_loss(e_g: Tensor, e_c: Tensor, mask: Tensor | None = None) -> Tensor:
    """L_r = MSE(e_c, e_g), Eq. 5; e_c is the target and gets no gradient.

    `mask` (B, L) keeps real tokens only: padding dominates a plain mean over L tokens. Each picture counts alike,
    however long its text, so that the loss of a batch is the mean of its parts'.
    """
    error = (e_g - e_c.detach()).pow(2).mean(-1)
    if mask is None:
        return error.mean()
    return ((error * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()
