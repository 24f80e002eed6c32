"""ClipCap (Mokady et al. 2021): a CLIP image embedding becomes a prefix of GPT-2."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import one_line
from .caption_text import strip_monochrome
from .decoding import CLIP_MEAN, CLIP_STD, normalize, resize
from .reading import load_weights, read_safetensors

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel


class ClipCap(nn.Module):
    """ClipCap (Mokady et al. 2021): a CLIP embedding mapped to a prefix of GPT-2. Keys are those of its release.

    prefix_length tokens come from an MLP, or, where `clip_length` is given, from a transformer of `layers` blocks over
    clip_length tokens made from the embedding and as many learned constants as the prefix is long.
    """

    def __init__(self, gpt: GPT2LMHeadModel, clip_dim: int, prefix_length: int, clip_length: int = 0, layers: int = 8):
        super().__init__()
        width = gpt.config.n_embd
        self.prefix_length = prefix_length
        self.clip_project: nn.Module
        if clip_length:
            self.clip_project = _TransformerMapper(clip_dim, width, prefix_length, clip_length, layers)
        else:
            self.clip_project = _MLPMapper(clip_dim, width * prefix_length // 2, width * prefix_length)
        self.gpt: GPT2LMHeadModel = gpt

    def forward(self, embedding: Tensor) -> Tensor:
        """The prefix (B, prefix_length, n_embd) of CLIP image embeddings (B, clip_dim), not normalised."""
        return self.clip_project(embedding).reshape(len(embedding), self.prefix_length, -1)


class _MLPMapper(nn.Module):
    def __init__(self, inputs: int, hidden: int, outputs: int):
        super().__init__()
        self.model = nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class _TransformerMapper(nn.Module):
    def __init__(self, inputs: int, width: int, prefix_length: int, clip_length: int, layers: int):
        super().__init__()
        self.clip_length = clip_length
        self.transformer: Any = nn.Module()  # names the layers as the release does
        self.transformer.layers = nn.ModuleList(_MapperLayer(width) for _ in range(layers))
        self.linear = nn.Linear(inputs, clip_length * width)
        self.prefix_const = nn.Parameter(torch.randn(prefix_length, width))

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x).view(len(x), self.clip_length, -1)
        x = torch.cat([x, self.prefix_const.expand(len(x), -1, -1)], 1)
        for layer in self.transformer.layers:
            x = layer(x)
        return x[:, self.clip_length :]


class _MapperLayer(nn.Module):
    def __init__(self, width: int, heads: int = 8, mlp_ratio: int = 2):
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.attn = nn.ModuleDict(
            {
                "to_queries": nn.Linear(width, width, bias=False),
                "to_keys_values": nn.Linear(width, width * 2, bias=False),
                "project": nn.Linear(width, width),
            }
        )
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.ModuleDict(
            {"fc1": nn.Linear(width, width * mlp_ratio), "fc2": nn.Linear(width * mlp_ratio, width)}
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(x)
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.attn["to_queries"](h), *self.attn["to_keys_values"](h).chunk(2, -1))
        )
        x = x + self.attn["project"](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.mlp["fc2"](F.relu(self.mlp["fc1"](self.norm2(x))))


class ClipCapCaptioner(nn.Module):
    """A CLIP image encoder, `ClipCap`, and GPT-2's tokenizer. Captions end at the first full stop, as in training."""

    def __init__(
        self,
        visual: nn.Module,
        model: ClipCap,
        tokenizer: Any,
        image_size: int,
        *,
        beams: int = 1,
        max_tokens: int = 30,
    ):
        super().__init__()
        self.visual = visual
        self.model = model
        self.tokenizer = tokenizer
        self.image_size = image_size
        ends = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(".")]
        self.options: dict[str, Any] = {"num_beams": beams, "max_new_tokens": max_tokens, "do_sample": False}
        self.options |= {"eos_token_id": ends, "pad_token_id": tokenizer.eos_token_id}

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[str]:
        gpt = self.model.gpt
        pixels = normalize(resize(images.to(gpt.device), self.image_size, crop=True), CLIP_MEAN, CLIP_STD)
        prefix = self.model(self.visual(pixels.to(gpt.dtype)))
        mask = prefix.new_ones(prefix.shape[:2], dtype=torch.long)
        ids = gpt.generate(inputs_embeds=prefix, attention_mask=mask, **self.options)
        texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [strip_monochrome(text.split(".")[0].strip()) for text in texts]


def load_clipcap(folder: Path, config: str | None, options: dict) -> ClipCapCaptioner:
    from open_clip import create_model
    from transformers import GPT2Config, GPT2LMHeadModel, GPT2Tokenizer

    clip = read_safetensors(folder / "clip.safetensors", ("clip",), "the CLIP that the ClipCap was trained with")
    weights = read_safetensors(folder / "clipcap.safetensors", ("clipcap",), "a ClipCap with its GPT-2")
    for name in ("vocab.json", "merges.txt"):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} has no {name}; copy it there from the GPT-2 that the ClipCap was trained with")
    is_resnet = clip.get("visual.attnpool.positional_embedding", torch.empty(0)).shape == (82, 2560)
    config = config or ("RN50x4-quickgelu" if is_resnet else "ViT-B-32-quickgelu")
    try:
        visual = create_model(config, pretrained=None).visual
    except RuntimeError as error:
        raise ValueError(f"{config!r} is not a CLIP model of open_clip: {one_line(error)}") from error
    load_weights(
        visual, {key.removeprefix("visual."): value for key, value in clip.items() if key.startswith("visual.")}, folder
    )

    # all sizes but the heads' follow from the released weights; every GPT-2 has heads of 64 channels
    try:
        vocabulary, width = weights["gpt.transformer.wte.weight"].shape
        positions = len(weights["gpt.transformer.wpe.weight"])
        constants = weights.get("clip_project.prefix_const")
        if constants is None:
            clip_dim = weights["clip_project.model.0.weight"].shape[1]
            prefix_length, clip_length = len(weights["clip_project.model.2.weight"]) // width, 0
        else:
            outputs, clip_dim = weights["clip_project.linear.weight"].shape
            prefix_length, clip_length = len(constants), outputs // width
    except KeyError as error:
        raise ValueError(f"{folder / 'clipcap.safetensors'} has no {error}; expected a ClipCap with GPT-2") from error
    gpt = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=vocabulary,
            n_embd=width,
            n_positions=positions,
            n_head=max(1, width // 64),
            n_layer=_count(weights, r"gpt\.transformer\.h\.(\d+)\."),
        )
    )
    layers = _count(weights, r"clip_project\.transformer\.layers\.(\d+)\.")
    model = ClipCap(gpt, clip_dim, prefix_length, clip_length, layers)
    load_weights(model, weights, folder / "clipcap.safetensors")
    tokenizer = GPT2Tokenizer.from_pretrained(folder, local_files_only=True)
    image_size = visual.image_size
    return ClipCapCaptioner(
        visual, model, tokenizer, image_size[0] if isinstance(image_size, tuple) else image_size, **options
    )


def _count(weights: dict[str, Tensor], pattern: str) -> int:
    """The number of layers that the keys matching `pattern` belong to."""
    return len({match[1] for match in map(re.compile(pattern).match, weights) if match})
