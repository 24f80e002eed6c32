"""Locates the things that a prompt names in a photo.

Three methods, best first: CLIPSeg, if the user has its files; the features of the embedded captioner's classifier, cell
by cell; the UNet's own cross-attention to the words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..color.sizes import size_of
from ..errors import one_line
from ..models.captioners.decoding import normalize
from ..models.classifier import cell_log_probabilities, class_name, class_words
from . import people
from .propagation import propagate

if TYPE_CHECKING:
    from transformers import CLIPSegForImageSegmentation

    from ..models.captioners.coca import CoCaCaptioner
    from ..models.unet import UNet

SIZES = (256, 384)  # sides of the classifier's input, px: cells of 1/8 and 1/12 of the photo
REFINED = 160  # long side at which regions are fitted to the photo's edges, px
NEAR = 0.8  # similarity from which a cell's embedding counts, where the picture's pooled one has unit length
PROBABLE = -1.5  # log-probability from which a cell's classes count
# Whether a thing is there at all, see `_present`. In 300 photos of val-001 whose class is known, 99.6 % of 249 things
# that are there are found, and 95 % of 108 everyday nouns for others refused; where a noun has no class, the text finds
# 87 % and refuses 91 %, of 539 nouns.
SIMILARITY = 0.22  # weight of the similarity beside the log-probability
BEST = 0.69  # weight of the best cell's similarity beside the picture's
PRESENT, PRESENT_BY_CLASS, PRESENT_BY_TEXT = -2.3, -2.5, 2.3  # the least: by both, and by one of them alone
SURE_BY_TEXT = 3.4  # the text's from which classes that say otherwise do not count
_banks: WeakKeyDictionary[CoCaCaptioner, Tensor] = WeakKeyDictionary()  # see `_bank`
BANK = 5  # every fifth of ImageNet's names: what a text's similarity is compared with
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


def _bank(captioner: CoCaCaptioner) -> Tensor:
    """Text embeddings (N, D), of unit length, of names of ImageNet's classes that a captioner knows."""
    if captioner not in _banks:
        names = [class_name(i) for i in range(0, len(class_words()), BANK)]
        _banks[captioner] = _texts(captioner, [name for name in names if captioner.tokenizer.knows(name)])
    return _banks[captioner]


def _texts(captioner: CoCaCaptioner, things: Sequence[str]) -> Tensor:
    """Text embeddings (N, D), of unit length, of things."""
    tokens = captioner.tokenizer([f"a photo of a {thing}" for thing in things])
    device = captioner.model.logit_scale.device
    return F.normalize(captioner.model._encode_text(tokens.to(device))[0].float(), dim=-1)


def _classes(things: Sequence[str], near: bool = False) -> list[list[int]]:
    """For each thing, ImageNet's classes that are of that kind; with `near`, those too that are seen with it."""
    words = [set(re.findall(r"[a-z]+", (s if near else s.split("|")[0]).lower())) for s in class_words()]
    return [[i for i, names in enumerate(words) if set(re.findall(r"[a-z]+", thing)) <= names] for thing in things]


class _Seen(NamedTuple):
    """What a captioner's classifier says of photos at one size."""

    near: Tensor  # (B, h w, N), similarity of the cells to things; the pictures' pooled embeddings have unit length
    standing: Tensor  # (B, N), similarity of the pictures to things: in deviations from its mean over other names
    best: Tensor  # (B, N), the same of the best cell
    log_probability: Tensor  # (B, 1000, h, w)


@torch.no_grad()
def _look(captioner: CoCaCaptioner, gray: Tensor, texts: Tensor, size: int) -> _Seen:
    tower: Any = captioner.model.visual
    square = F.interpolate(gray.expand(-1, 3, -1, -1), (size, size), mode="bilinear", antialias=True)
    maps = tower.classifier(square.contiguous(memory_format=torch.channels_last))[-1]
    cells = tower.projection(tower.head(maps.flatten(2).mT)).float()
    cells = cells / cells.mean(1, keepdim=True).norm(dim=-1, keepdim=True)
    near, others = cells @ texts.mT, cells @ _bank(captioner).to(cells).mT

    def standing(score: Callable[[Tensor], Tensor]) -> Tensor:
        deviation, mean = torch.std_mean(score(others), -1, keepdim=True)
        return (score(near) - mean) / deviation

    by_picture, by_cell = standing(lambda x: x.mean(1)), standing(lambda x: x.amax(1))
    return _Seen(near, by_picture, by_cell, cell_log_probabilities(maps).float())


def _margin(log_probability: Tensor, classes: Sequence[int]) -> Tensor:
    """Log-probability (B,) of the likeliest of some classes over the likeliest of all, of the mean cell."""
    likely = log_probability.flatten(2).logsumexp(2)  # not the sum over the classes: a dog has 120 of them
    return (likely[:, list(classes)].amax(1) - likely.amax(1)).clamp_min(-8)


def _present(seen: Sequence[_Seen], n: int, classes: Sequence[int], known: bool) -> Tensor:
    """Whether (B,), bool, thing n is in photos: by its classes against the likeliest one of the photo, and by the
    similarity of its text to the photo against other names'."""
    standing, best = (
        torch.stack([score[:, n] for score in scores]).mean(0)
        for scores in ([size.standing for size in seen], [size.best for size in seen])
    )
    text = standing + BEST * best if known else torch.full_like(standing, -torch.inf)
    if not classes:
        return text >= PRESENT_BY_TEXT
    margin = torch.stack([_margin(size.log_probability, classes) for size in seen]).mean(0)
    by_class = margin + SIMILARITY * standing >= PRESENT if known else margin >= PRESENT_BY_CLASS
    return by_class | (text >= SURE_BY_TEXT)


@torch.no_grad()
def recognized_regions(captioner: CoCaCaptioner, gray: Tensor, things: Sequence[str]) -> Tensor:
    """Scores (B, N, h, w) of things by a captioner with a `RecognizingTower`; gray (B, 1, H, W) in [0, 1].

    The mean of two scores of each cell: the similarity of its embedding to the text's (CoCa pools linearly, so that a
    picture's similarity is the sum of its cells': class activation maps, Zhou et al. 2016, with words for classes), and
    the probability of ImageNet's classes of that kind. Where only one of them reaches its threshold in some cell, it
    counts alone. What is not worn scores less where the classes of what people wear are likely: beside the people in
    their photos, a motorcycle's words are like its riders. A thing that is not in the photo, or that neither has a word
    for, scores 0 everywhere.
    """
    classes, known = _classes(things), [captioner.tokenizer.knows(thing) for thing in things]
    texts, worn = _texts(captioner, things), _classes(["worn"])[0]
    by_people = [
        people.kind_of(thing) is not None or not set(here).isdisjoint(worn) for thing, here in zip(things, classes)
    ]
    seen = [_look(captioner, gray, texts, size) for size in SIZES]
    total, shape = gray.new_zeros(()), refined_size(size_of(gray))
    for size in seen:
        grid, scores = size_of(size.log_probability), []
        dressed = size.log_probability[:, worn].logsumexp(1).exp()
        for n, (here, knows) in enumerate(zip(classes, known)):
            candidates = [(size.near[..., n].unflatten(1, grid), NEAR)] if knows else []
            if here:
                candidates.append((size.log_probability[:, here].logsumexp(1).clamp_min(-8), PROBABLE))
            clear = [(x.amax((1, 2), keepdim=True) >= threshold).to(x) for x, threshold in candidates]
            weights = [x + (sum(clear) == 0) for x in clear]
            score = sum((_scaled(x) * weight for (x, _), weight in zip(candidates, weights)), gray.new_zeros(1, *grid))
            score = score / sum(weights, gray.new_zeros(1)).clamp_min(1) * (1 - dressed * (not by_people[n]))
            scores.append(score.expand(len(gray), *grid))
        total = total + F.interpolate(torch.stack(scores, 1), shape, mode="bilinear")
    there = torch.stack([_present(seen, n, *thing) for n, thing in enumerate(zip(_classes(things, True), known))], 1)
    return total / len(SIZES) * there[:, :, None, None].to(total)


@torch.no_grad()
def likely_names(captioner: CoCaCaptioner, gray: Tensor, count: int = 3) -> list[str]:
    """Names of what a captioner with a `RecognizingTower` sees in a photo (1, 1, H, W), the likeliest first."""
    seen = [_look(captioner, gray, _bank(captioner)[:1], size).log_probability for size in SIZES]
    likely = torch.stack([cells.flatten(2).logsumexp(2)[0] for cells in seen]).mean(0)
    return [class_name(i) for i in likely.topk(count).indices.tolist()]


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
