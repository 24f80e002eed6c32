"""Soft hints from words and from a reference picture: what a Colorizer's parts know, as colours of regions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from .color.sizes import diffusion_size, resize
from .color.spaces import rgb_to_ycbcr
from .files.hint_format import parse_color
from .hints import exemplar as reference_colors
from .hints import grounding
from .hints.color_phrases import ColorPhrase, color_phrases
from .hints.maps import over
from .models.classifier import classifier_of
from .options import ColorizeOptions
from .pipeline import Colorizer

ATTENTION_STEPS = 4  # sampling steps in which attention is listened to
WORD_WEIGHT = 0.95  # how much a word's colour counts where its thing surely is
FINDERS = {  # who finds things, and through which parts
    "recognition": ("captioner",),
    "attention": ("semantic_encoder", "semantic_adapter", "unet", "controlnet_rca"),
}
ClipSeg = tuple[nn.Module, object]  # the model and its tokenizer


def word_hints(
    colorizer: Colorizer, gray: Tensor, prompt: str, source: str | Path | ClipSeg = "auto", seed: int = 0
) -> tuple[Tensor | None, list[ColorPhrase], list[ColorPhrase]]:
    """The coloured things of a prompt as soft hints for grey photos (B, 1, H, W) in [0, 1].

    Args:
        source: who finds the things: "recognition" (the captioner's classifier), "attention" (the UNet's), "auto" (the
            first of these that the model has), a folder with CLIPSeg, or a CLIPSeg in memory.
        seed: of the noise in which the UNet's attention is listened to.
    Returns:
        a soft hint map (B, 3, h, w) or None, the phrases behind it, and those whose things nobody knows.
    Raises:
        ValueError: the model has nobody of that kind to ask.
    """
    phrases = color_phrases(prompt)
    if not phrases:
        return None, [], []
    scores = find_regions(colorizer, gray, prompt, [phrase.thing for phrase in phrases], source, seed)
    known = (scores.amax((0, 2, 3)) > 0).tolist()
    missing = [phrase for phrase, yes in zip(phrases, known) if not yes]
    phrases = [phrase for phrase, yes in zip(phrases, known) if yes]
    if not phrases:
        return None, [], missing
    masks = grounding.refine(gray.cpu(), scores[:, known].cpu())
    masks = (2.2 * masks - 0.4).clamp(0, 1)  # what is likelier than not is it; of what is in doubt less
    # where several things claim a pixel, the strongest has it
    masks = masks * (masks / masks.sum(1, keepdim=True).clamp_min(1)) * WORD_WEIGHT
    result = None
    for phrase, mask in zip(phrases, masks.split(1, dim=1)):
        chroma = rgb_to_ycbcr(torch.tensor(parse_color(phrase.color)).view(1, 3, 1, 1))[:, 1:]
        layer = torch.cat([chroma.expand(len(mask), -1, *mask.shape[-2:]), mask], dim=1)
        result = layer if result is None else over(layer, result)
    return result, phrases, missing


def reference_hints(colorizer: Colorizer, gray: Tensor, reference: Tensor) -> Tensor:
    """The colours of a picture (1 or B, 3, any H, any W) in [0, 1] as soft hints (B, 3, h, w), see `reference`.

    Raises ValueError where the model's captioner has no classifier to see what is alike.
    """
    classifier = classifier_of(colorizer.part("captioner")) if colorizer.has("captioner") else None
    if classifier is None:
        raise ValueError("this model's captioner has no classifier to see what is alike in two pictures; use mini")
    return reference_colors.reference_hints(classifier, gray, reference)


def finder(colorizer: Colorizer, source: str = "auto") -> str:
    """Who finds things with a model, a name of `FINDERS`. Raises ValueError where the model lacks what it takes."""
    sees = colorizer.has("captioner") and classifier_of(colorizer.part("captioner")) is not None
    if source == "auto":
        source = "recognition" if sees else "attention"
    if source == "recognition" and not sees:
        raise ValueError("this model's captioner has no classifier to find things with; use attention or CLIPSeg")
    if source == "attention" and not (colorizer.has("unet") and colorizer.has("semantic_encoder")):
        raise ValueError(
            f"{colorizer.folder} has no unet and semantic_encoder whose attention could find things; use CLIPSeg, or a "
            "whole model"
        )
    return source


def find_regions(
    colorizer: Colorizer, gray: Tensor, prompt: str, things: Sequence[str], source: str | Path | ClipSeg, seed: int
) -> Tensor:
    """Scores (B, N, h, w) in [0, 1] of where things are; see `word_hints` and `regions`."""
    if source not in ("auto", *FINDERS):
        model, tokenizer = source if isinstance(source, tuple) else grounding.load_clipseg(source)
        return grounding.clipseg_regions(model.to(colorizer.device), tokenizer, gray.to(colorizer.device), things)
    if finder(colorizer, source) == "recognition":
        return grounding.recognized_regions(colorizer.part("captioner"), gray.to(colorizer.device), things)
    small = resize(gray, diffusion_size(tuple(gray.shape[-2:]), colorizer.preset.sampling.size)).to(colorizer.device)
    tokenizer = colorizer.part("semantic_encoder").tokenizer
    words = tokenizer.encode(prompt)
    columns = [
        _positions(words, tokenizer.encode(thing), tokenizer.length) if tokenizer.knows(thing) else []
        for thing in things
    ]
    context = colorizer.context([prompt] * len(gray))
    with grounding.AttentionRegions(colorizer.part("unet"), columns) as heard:
        colorizer.sample(small, context, None, ColorizeOptions(steps=ATTENTION_STEPS, guidance=1.0, seed=seed))
    return heard.scores(tuple(side // 8 for side in small.shape[-2:]))


def _positions(text: list[int], part: list[int], length: int) -> list[int]:
    """Where a run of token ids lies in a text's, counted with the start token; none where it does not."""
    for start in range(len(text) - len(part) + 1):
        if part and text[start : start + len(part)] == part:
            return [i for i in range(start + 1, start + 1 + len(part)) if i < length - 1]
    return []
