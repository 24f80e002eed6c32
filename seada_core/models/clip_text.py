"""CLIP's text model with the names and numbers of transformers' `CLIPTextModel`, and nothing else.

Importing transformers for that one class takes seconds; a test holds both to the same bits.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..presets import TextConfig

ACTIVATIONS = {
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "gelu": F.gelu,
}


class Embeddings(nn.Module):
    """Tokens and positions."""

    def __init__(self, vocabulary: int, length: int, width: int):
        super().__init__()
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.position_embedding = nn.Embedding(length, width)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, L) to (B, L, width)."""
        return self.token_embedding(ids) + self.position_embedding.weight[: ids.shape[1]]


class SelfAttention(nn.Module):
    """Causal multi-head attention."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.k_proj, self.v_proj, self.q_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out_proj(out.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two linear layers, four times as wide between them."""

    def __init__(self, width: int, activation: str):
        super().__init__()
        self.activation = activation
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(ACTIVATIONS[self.activation](self.fc1(x)))


class Layer(nn.Module):
    """Self-attention and an MLP, each after a norm and with a skip connection."""

    def __init__(self, width: int, heads: int, activation: str):
        super().__init__()
        self.self_attn = SelfAttention(width, heads)
        self.layer_norm1 = nn.LayerNorm(width)
        self.mlp = MLP(width, activation)
        self.layer_norm2 = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class Encoder(nn.Module):
    """The layers in order."""

    def __init__(self, config: TextConfig):
        super().__init__()
        self.layers = nn.ModuleList(Layer(config.width, config.heads, config.activation) for _ in range(config.layers))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class CLIPText(nn.Module):
    """Token ids (B, L), L at most `config.length`, to embeddings (B, L, config.width).

    Args:
        vocabulary: the number of tokens, in place of the config's.
    Raises:
        ValueError: an activation that is not in `ACTIVATIONS`, or a width that the heads do not divide.
    """

    def __init__(self, config: TextConfig, vocabulary: int):
        super().__init__()
        if config.activation not in ACTIVATIONS:
            raise ValueError(f"unknown activation {config.activation!r}: expected {' or '.join(ACTIVATIONS)}")
        if config.width % config.heads:
            raise ValueError(f"{config.heads} heads do not divide a width of {config.width}")
        self.embeddings = Embeddings(vocabulary, config.length, config.width)
        self.encoder = Encoder(config)
        self.final_layer_norm = nn.LayerNorm(config.width)
        self._draw(config)

    @torch.no_grad()
    def _draw(self, config: TextConfig) -> None:
        """CLIP's initial weights (Radford et al. 2021)."""
        narrow = config.width**-0.5
        deep = narrow * (2 * config.layers) ** -0.5
        for embedding in (self.embeddings.token_embedding, self.embeddings.position_embedding):
            nn.init.normal_(embedding.weight, std=0.02)
        for module in self.encoder.modules():
            if isinstance(module, SelfAttention):
                for project in (module.q_proj, module.k_proj, module.v_proj):
                    nn.init.normal_(project.weight, std=deep)
                nn.init.normal_(module.out_proj.weight, std=narrow)
            elif isinstance(module, MLP):
                nn.init.normal_(module.fc1.weight, std=(2 * config.width) ** -0.5)
                nn.init.normal_(module.fc2.weight, std=deep)
        for linear in self.encoder.modules():
            if isinstance(linear, nn.Linear):
                nn.init.zeros_(linear.bias)

    def forward(self, ids: Tensor) -> Tensor:
        return self.final_layer_norm(self.encoder(self.embeddings(ids)))
