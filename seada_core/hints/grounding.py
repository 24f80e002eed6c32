"""Locates the things that a prompt names in a photo.

Three methods, best first: CLIPSeg, if the user has its files; the features of the embedded captioner's classifier, cell
by cell; the UNet's own cross-attention to the words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..color.sizes import size_of
from ..errors import one_line
from ..models.captioners.decoding import normalize
from ..models.classifier import cell_log_probabilities, class_words
from .propagation import propagate

if TYPE_CHECKING:
    from transformers import CLIPSegForImageSegmentation

    from ..models.captioners.coca import CoCaCaptioner
    from ..models.unet import UNet

SIZES = (256, 384)  # sides of the classifier's input, px: cells of 1/8 and 1/12 of the photo
REFINED = 160  # long side at which regions are fitted to the photo's edges, px
# A thing is found if its best cell reaches one of these two. In 31 validation photos all labelled things are found, and
# 46 % of the other photos' labels, some of which are present too (python -m benchmarks.quality.words --names 40).
NEAR = 0.8  # similarity of a cell, where the picture's pooled embedding has unit length
PROBABLE = -1.5  # log-probability
CERTAIN = 0.25  # a score this far from 0.5 is a seed for the random walk


def refined_size(photo: tuple[int, int]) -> tuple[int, int]:
    """A photo's shape, at most `REFINED` px long."""
    scale = min(1.0, REFINED / max(photo))
    height, width = (max(1, round(side * scale)) for side in photo)
    return height, width


def refine(gray: Tensor, scores: Tensor) -> Tensor:
    """Coarse scores (B, N, h, w) in [0, 1] fitted to the edges of photos (B, 1, H, W): (B, N, h', w') in [0, 1].

    Clear scores are seeds for the thing or for the background, and seeds spread over similar pixels (random walks,
    Grady 2006, on the same graph as hint propagation). The result has `refined_size`.
    """
    size = refined_size(size_of(gray))
    photo = F.interpolate(gray, size, mode="bilinear", antialias=True)
    scores = F.interpolate(scores, size, mode="bilinear")
    refined = []
    for score in scores.unbind(1):
        value = score[:, None] - 0.5
        mask = ((value.abs() - CERTAIN) / (0.5 - CERTAIN)).clamp(0, 1)
        seeds = torch.cat([torch.where(mask > 0, value.sign() * 0.5, 0), torch.zeros_like(value), mask], 1)
        refined.append(propagate(photo, seeds, prior=0.0)[0][:, :1] + 0.5)
    return torch.cat(refined, dim=1).clamp(0, 1)


def _scaled(score: Tensor) -> Tensor:
    """(..., h, w) with each map scaled to [0, 1]."""
    low, high = score.amin((-2, -1), keepdim=True), score.amax((-2, -1), keepdim=True)
    return (score - low) / (high - low).clamp_min(1e-6)


@torch.no_grad()
def recognized_regions(captioner: CoCaCaptioner, gray: Tensor, things: Sequence[str]) -> Tensor:
    """Scores (B, N, h, w) of things by a captioner with a `RecognizingTower`; gray (B, 1, H, W) in [0, 1].

    The mean of two scores of each cell: the similarity of its embedding to the text's (CoCa pools linearly, so that a
    picture's similarity is the sum of its cells': class activation maps, Zhou et al. 2016, with words for classes), and
    the probability of ImageNet's classes of that name. A score that reaches its threshold in no cell is ignored; a
    thing that neither finds, or has a word for, scores 0 everywhere.
    """
    tower: Any = captioner.model.visual
    tokens = captioner.tokenizer([f"a photo of a {thing}" for thing in things]).to(gray.device)
    texts = F.normalize(captioner.model._encode_text(tokens)[0].float(), dim=-1)
    words = [set(re.findall(r"[a-z]+", names.lower())) for names in class_words()]
    classes = [[i for i, names in enumerate(words) if set(re.findall(r"[a-z]+", thing)) <= names] for thing in things]
    total, shape = gray.new_zeros(()), refined_size(size_of(gray))
    for size in SIZES:
        square = F.interpolate(gray.expand(-1, 3, -1, -1), (size, size), mode="bilinear", antialias=True)
        maps = tower.classifier(square.contiguous(memory_format=torch.channels_last))[-1]
        cells = tower.projection(tower.head(maps.flatten(2).mT)).float()
        cells = cells / cells.mean(1, keepdim=True).norm(dim=-1, keepdim=True)
        near = (cells @ texts.mT).mT.unflatten(2, maps.shape[-2:])
        log_probability = cell_log_probabilities(maps).to(near)
        scores = []
        for n, (here, thing) in enumerate(zip(classes, things)):
            candidates = [(near[:, n], NEAR)] if captioner.tokenizer.knows(thing) else []
            if here:
                candidates.append((log_probability[:, here].logsumexp(1).clamp_min(-8), PROBABLE))
            found = [(x.amax((1, 2), keepdim=True) >= threshold).to(x) for x, threshold in candidates]
            score = sum((_scaled(x) * f for (x, _), f in zip(candidates, found)), torch.zeros_like(near[:, n]))
            scores.append(score / sum(found, torch.zeros_like(score[:, :1, :1])).clamp_min(1))
        total = total + F.interpolate(torch.stack(scores, 1), shape, mode="bilinear")
    return total / len(SIZES)


class AttentionRegions:
    """`with AttentionRegions(unet, columns) as regions:` records the UNet's cross-attention while it samples.

    columns: for each of N things, the positions of its tokens in the context. The map of a thing is its tokens' share
    of the attention, averaged over heads, layers and calls (Hertz et al. 2022).
    """

    def __init__(self, unet: UNet, columns: Sequence[Sequence[int]]):
        self.unet, self.columns = unet, columns
        self.maps: list[Tensor] = []  # (B, cells, N) of each layer and call, at the end of the context

    def __enter__(self) -> AttentionRegions:
        attentions: list[Any] = [m.attn2 for m in self.unet.modules() if getattr(m, "attn2", None) is not None]
        self.queries: list[tuple[Any, Tensor]] = []
        self.keys: dict[Any, Tensor] = {}  # the text's, which sampling may compute once for all steps
        self.handles = []
        for attention in attentions:
            for layer, record in ((attention.to_q, self._add_query), (attention.to_k, self.keys.__setitem__)):
                self.handles.append(
                    layer.register_forward_hook(lambda _, __, out, of=attention, record=record: record(of, out))
                )
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()
        self.maps = [self._shares(attention, query) for attention, query in self.queries if attention in self.keys]

    def _add_query(self, attention: Any, query: Tensor) -> None:
        self.queries.append((attention, query))

    def _shares(self, attention: Any, query: Tensor) -> Tensor:
        query, key = (x.unflatten(-1, (attention.heads, -1)).transpose(1, 2) for x in (query, self.keys[attention]))
        weights = (query @ key.mT * attention.scale).softmax(-1).mean(1).float()
        return torch.stack([weights[..., list(c)].mean(-1) if c else weights[..., 0] * 0 for c in self.columns], -1)

    def scores(self, size: tuple[int, int]) -> Tensor:
        """(B, N, h, w) at the latents' size (h, w), each map from 0 to 1."""
        resized = []
        for weights in self.maps:
            grid = next(g for g in _halves(size) if g[0] * g[1] == weights.shape[1])
            resized.append(F.interpolate(weights.mT.unflatten(2, grid), size, mode="bilinear"))
        return _scaled(torch.stack(resized).mean(0))


def _halves(size: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """The grids of a UNet's levels: the latents' own, half of it, and so on, rounded up."""
    while True:
        yield size
        size = (-(-size[0] // 2), -(-size[1] // 2))


@lru_cache(maxsize=1)
def load_clipseg(folder: str | Path) -> tuple[nn.Module, object]:
    """CLIPSeg and its tokenizer from a transformers folder, cached; nothing is downloaded.

    Raises ValueError if the folder is missing or holds something else.
    """
    import transformers

    try:
        model = transformers.CLIPSegForImageSegmentation.from_pretrained(
            folder, local_files_only=True, use_safetensors=True
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        problem = f"no complete CLIPSeg model with its tokenizer in {folder}"
        raise ValueError(f"{problem}: {one_line(error)}") from error
    return model.eval(), tokenizer


@torch.no_grad()
def clipseg_regions(model: CLIPSegForImageSegmentation, tokenizer: Any, gray: Tensor, things: Sequence[str]) -> Tensor:
    """Scores (B, N, h, w) by CLIPSeg (Lüddecke and Ecker 2022); gray (B, 1, H, W) in [0, 1]."""
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # CLIPSeg's preprocessor's
    side = model.config.vision_config.image_size
    square = F.interpolate(gray.expand(-1, 3, -1, -1), (side, side), mode="bicubic", antialias=True).clamp(0, 1)
    longest = model.config.text_config.max_position_embeddings
    text = tokenizer(list(things), padding=True, truncation=True, max_length=longest, return_tensors="pt")
    text = text.to(gray.device)
    pixels = normalize(square, mean, std).repeat_interleave(len(things), 0)
    text = {name: ids.repeat(len(gray), 1) for name, ids in text.items() if name in ("input_ids", "attention_mask")}
    logits = model(pixel_values=pixels, **text).logits
    return logits.float().sigmoid().view(len(gray), len(things), *logits.shape[-2:])
