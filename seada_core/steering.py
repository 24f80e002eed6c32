"""Soft hints from words and from a reference picture: colours of regions, found by the parts of a Colorizer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .color.sizes import DECODE_SIZE, decode_size, diffusion_size, resize, size_of
from .color.spaces import rgb_to_ycbcr
from .files.hint_format import parse_color
from .hints import exemplar as reference_colors
from .hints import grounding
from .hints.affinity import affinities_of
from .hints.color_phrases import ColorPhrase, color_phrases, contradictions
from .hints.maps import over
from .hints.people import nouns, people_finder
from .hints.scenery import scenery_finder
from .models.captioners.coca import classifier_of
from .options import ColorizeOptions
from .pipeline import Colorizer

if TYPE_CHECKING:
    from .models.captioners.coca import CoCaCaptioner

ATTENTION_STEPS = 4  # sampling steps whose attention is recorded
WORD_WEIGHT = 0.95  # the mask of a word's colour where its thing certainly is
BACKGROUNDS = frozenset(("background", "backdrop"))
UNKNOWN = 0.5  # share of a prompt's words that the model does not know from which that is said
FINDERS = {  # ways to find things, and the parts that each uses
    "recognition": ("captioner", "controlnet_rca", "affinity", "people", "scenery"),
    "attention": ("semantic_encoder", "semantic_adapter", "unet", "controlnet_rca", "affinity"),
}
ClipSeg = tuple[nn.Module, object]  # the model and its tokenizer


def word_hints(
    colorizer: Colorizer, gray: Tensor, prompt: str, source: str | Path | ClipSeg = "auto", seed: int = 0
) -> tuple[Tensor | None, list[ColorPhrase], list[ColorPhrase]]:
    """The coloured things of a prompt as soft hints for grey photos (B, 1, H, W) in [0, 1].

    Args:
        source: what finds the things: "recognition" (the captioner's classifier), "attention" (the UNet's), "auto" (the
            first of these that the model has), a folder with CLIPSeg, or a CLIPSeg in memory.
        seed: of the noise on which the UNet's attention is recorded.
    Returns:
        a soft hint map (B, 3, h, w) or None, its phrases, and the phrases whose things were not found.
    Raises:
        ValueError: the model lacks the parts that `source` uses.
    """
    phrases = color_phrases(prompt)
    if not phrases:
        return None, [], []
    things = [phrase.thing for phrase in phrases]
    masks = _masks(colorizer, gray, things, find_regions(colorizer, gray, prompt, things, source, seed), source)
    known = (masks.amax((0, 2, 3)) > 0).tolist()
    missing = [phrase for phrase, yes in zip(phrases, known) if not yes]
    phrases = [phrase for phrase, yes in zip(phrases, known) if yes]
    if not phrases:
        return None, [], missing
    masks = masks[:, known]
    # where things overlap, the likelier one gets the larger share of the pixel
    masks = masks * (masks / masks.sum(1, keepdim=True).clamp_min(1)) * WORD_WEIGHT
    result = None
    for phrase, mask in zip(phrases, masks.split(1, dim=1)):
        chroma = rgb_to_ycbcr(torch.tensor(parse_color(phrase.color)).view(1, 3, 1, 1))[:, 1:]
        layer = torch.cat([chroma.expand(len(mask), -1, *mask.shape[-2:]), mask], dim=1)
        result = layer if result is None else over(layer, result)
    return result, phrases, missing


def _masks(
    colorizer: Colorizer, gray: Tensor, things: Sequence[str], scores: Tensor, source: str | Path | ClipSeg
) -> Tensor:
    """The regions (B, N, h, w) in [0, 1] of things, on the CPU; 0 everywhere for what was not found.

    They come from scores (B, N, any h, any w), or those of the part that knows scenery; of people and what they wear,
    from the part that knows these. A background is what neither people nor the other things cover.
    """
    here = resize(gray, decode_size(size_of(gray), DECODE_SIZE)).to(colorizer.device)
    recognizes = source in ("auto", *FINDERS) and finder(colorizer, str(source)) == "recognition"
    people = people_finder(colorizer.has, colorizer.part) if recognizes else None
    scenery = scenery_finder(colorizer.has, colorizer.part) if recognizes else None
    if scenery is not None:
        theirs = F.interpolate(scenery.scores(here, things).to(scores), size_of(scores), mode="bilinear")
        scores = torch.where(theirs.amax((2, 3), keepdim=True) > 0, theirs, scores)
    own = None
    if people is not None:
        own, everyone, perhaps = people.regions(here, things)
        scores = scores * (1 - F.interpolate(everyone, size_of(scores), mode="bilinear").to(scores))
    affinities = affinities_of(colorizer.has, colorizer.part)
    if affinities is None:
        masks = (2.2 * grounding.refine(gray.cpu(), scores.cpu()) - 0.4).clamp(0, 1)  # doubtful pixels count less
    else:
        seen = affinities.look(here)
        masks = torch.cat([affinities.region(here, score, seen) for score in scores.split(1, dim=1)], 1).cpu()
    if own is not None:
        own = F.interpolate(own.cpu(), size_of(masks), mode="bilinear")
        masks = torch.where(own.amax((2, 3), keepdim=True) > 0, own, masks)
    behind = torch.tensor([not BACKGROUNDS.isdisjoint(nouns(thing)) for thing in things])
    if recognizes and behind.any():
        front = torch.cat([masks[:, ~behind], torch.zeros_like(masks[:, :1])], 1).amax(1, keepdim=True)
        if people is not None:
            front = front.maximum(F.interpolate(perhaps.cpu(), size_of(front), mode="bilinear"))
        masks[:, behind] = (1 - front) * (front.amax((2, 3), keepdim=True) > 0)
    return masks


def prompt_notices(colorizer: Colorizer, prompt: str) -> list[str]:
    """What of a prompt does not count, in words: a second colour of a thing, and a language that is not known."""
    found = [
        f"the prompt gives {thing} two colours, {first} and {second}: {first} counts"
        for thing, first, second in contradictions(prompt)
    ]
    words = re.findall(r"[^\W\d_]+", prompt.lower())
    tokenizer = colorizer.part("semantic_encoder").tokenizer
    unknown = [word for word in words if not word.isascii() or not tokenizer.knows(word)]
    if len(unknown) > UNKNOWN * len(words):
        named = ", ".join(dict.fromkeys(unknown[:5]))
        found.append(f"the model was trained with English texts and does not know {named}; write the prompt in English")
    return found


def reference_hints(colorizer: Colorizer, gray: Tensor, reference: Tensor) -> Tensor:
    """The colours of a picture (1 or B, 3, any H, any W) in [0, 1] as soft hints (B, 3, h, w), see `reference`.

    Raises ValueError where the model's captioner has no classifier.
    """
    classifier = classifier_of(colorizer.part("captioner")) if colorizer.has("captioner") else None
    if classifier is None:
        raise ValueError("this model's captioner has no classifier to match two pictures by; use mini")
    return reference_colors.reference_hints(classifier, gray, reference)


def finder(colorizer: Colorizer, source: str = "auto") -> str:
    """The name in `FINDERS` of what finds things. Raises ValueError where the model lacks the parts for it."""
    recognizes = colorizer.has("captioner") and classifier_of(colorizer.part("captioner")) is not None
    if source == "auto":
        source = "recognition" if recognizes else "attention"
    if source == "recognition" and not recognizes:
        raise ValueError("this model's captioner has no classifier to find things with; use attention or CLIPSeg")
    if source == "attention" and not (colorizer.has("unet") and colorizer.has("semantic_encoder")):
        raise ValueError(
            f"{colorizer.folder} has no unet and semantic_encoder whose attention could find things; use CLIPSeg, or a "
            "whole model"
        )
    return source


def unseen(colorizer: Colorizer, gray: Tensor, things: Sequence[str]) -> str:
    """What is said of things that were not found in a photo (1, 1, H, W), with what they could be."""
    text, names = f"the model sees no {' or '.join(things)} in it", seen(colorizer, gray)
    return f"{text}; it sees {', '.join(names)}" if names else text


def seen(colorizer: Colorizer, gray: Tensor) -> list[str]:
    """Names of what the model most likely sees in a photo (1, 1, H, W); none where its captioner has no classifier."""
    if not colorizer.has("captioner") or classifier_of(colorizer.part("captioner")) is None:
        return []
    return grounding.likely_names(cast("CoCaCaptioner", colorizer.part("captioner")), gray.to(colorizer.device))


def find_regions(
    colorizer: Colorizer, gray: Tensor, prompt: str, things: Sequence[str], source: str | Path | ClipSeg, seed: int
) -> Tensor:
    """Scores (B, N, h, w) in [0, 1] of where things are; see `word_hints`."""
    if source not in ("auto", *FINDERS):
        model, tokenizer = source if isinstance(source, tuple) else grounding.load_clipseg(source)
        return grounding.clipseg_regions(model.to(colorizer.device), tokenizer, gray.to(colorizer.device), things)
    if finder(colorizer, source) == "recognition":
        captioner = cast("CoCaCaptioner", colorizer.part("captioner"))  # the only kind with a classifier
        return grounding.recognized_regions(captioner, gray.to(colorizer.device), things)
    small = resize(gray, diffusion_size(size_of(gray), colorizer.preset.sampling.size)).to(colorizer.device)
    clip = colorizer.part("semantic_encoder").tokenizer
    words = clip.encode(prompt)
    columns = [_positions(words, clip.encode(thing), clip.length) if clip.knows(thing) else [] for thing in things]
    context = colorizer.context([prompt] * len(gray))
    with grounding.AttentionRegions(colorizer.part("unet"), columns) as attention:
        options = ColorizeOptions(steps=ATTENTION_STEPS, guidance=1.0, seed=seed)
        colorizer.sample(small, context, None, options, plain=True)
    height, width = size_of(small)
    return attention.scores((height // 8, width // 8))


def _positions(text: list[int], part: list[int], length: int) -> list[int]:
    """The positions of a run of token ids in a text's, counted with the start token; none where it is not in there."""
    for start in range(len(text) - len(part) + 1):
        if part and text[start : start + len(part)] == part:
            return [i for i in range(start + 1, start + 1 + len(part)) if i < length - 1]
    return []
