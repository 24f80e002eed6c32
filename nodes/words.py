"""Hints from words: finds the things that have a colour in a text."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io

from ..seada_core import steering
from ..seada_core.hints import grounding
from ..seada_core.hints.color_phrases import color_phrases, without_colors
from . import bridge, inputs, model_folders
from .hints import Hints, preview_all

if TYPE_CHECKING:
    from torch import Tensor

    from ..seada_core.hints.color_phrases import ColorPhrase

SOURCES = ("auto", *steering.FINDERS)


_patcher = lru_cache(maxsize=1)(bridge.patcher)  # one for as long as the model is kept


class SeAdaHintsFromText(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return bridge.schema(
            node_id="SeAdaHintsFromText",
            display_name="SeAda Hints from Text",
            category="SeAda/hints",
            search_aliases=["color words", "color by text", "prompt colors"],
            description='Finds the things to which a text gives a colour, such as "a red car", in the photo, and '
            "colours them through soft hints.",
            inputs=[
                inputs.photos(),
                io.String.Input(
                    "text",
                    default="a yellow fire hydrant on a green lawn",
                    multiline=True,
                    tooltip="Things and their colours, in plain English. Things without a colour are left to the "
                    "model.",
                ),
                io.Combo.Input(
                    "source",
                    options=[*SOURCES, *(name for name in model_folders.segmenters() if name not in SOURCES)],
                    default="auto",
                    tooltip="How things are found: recognition (the captioner's classifier), attention (the UNet's), "
                    "or a CLIPSeg folder in models/seada_segmenters. auto: whichever the model has, recognition first.",
                ),
                inputs.strength("How strongly the colours are applied to what was found. 0 turns them off.", 1.0),
                inputs.seed("Noise seed of the attention source; the other sources ignore it."),
                bridge.Seada.Input(
                    "seada",
                    optional=True,
                    tooltip="The model that looks for the things. Not connected: the embedded model.",
                ),
                inputs.earlier_hints(),
            ],
            outputs=[
                inputs.hints_output(),
                inputs.preview_output(),
                io.String.Output(
                    id="prompt",
                    display_name="STRING",
                    tooltip="The text as a prompt, without the colour words that became hints.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        text: str,
        source: str,
        strength: float,
        seed: int,
        seada: bridge.Bundle | None = None,
        hints: Hints | None = None,
    ) -> io.NodeOutput:
        with torch.inference_mode(False), torch.no_grad():
            photos, hints, warnings = bridge.gray(image), hints or Hints(), []
            if strength and color_phrases(text):
                found, phrases, missing = find(photos, text, source, seed, seada or bridge.bundle())
                text = without_colors(text, phrases)
                found[:, 2] *= strength
                hints = hints.softly(found)
                if missing:
                    warnings.append(f"{_names(missing)} could not be found in every photo: {_instead(photos, seada)}")
            elif strength:
                warnings.append('the text names no coloured thing; say which thing has which colour: "a red car"')
            return io.NodeOutput(hints, preview_all(photos, hints), text, ui=bridge.warned(warnings))


def find(
    photos: Tensor, text: str, source: str, seed: int, bundle: bridge.Bundle
) -> tuple[Tensor, list[ColorPhrase], list[ColorPhrase]]:
    """A text's soft hint map (B, 3, h, w) for photos (B, 1, H, W), the phrases that were found in every photo, and
    those that were not.

    Photos are processed one by one, so that any number fits in memory.

    Raises ValueError if none of the coloured things is found.
    """
    if source in SOURCES:
        name = steering.finder(bundle, source)
        bundle.load(*steering.FINDERS[name])
        finder: str | steering.ClipSeg = name
    else:
        clipseg = grounding.load_clipseg(model_folders.segmenter_path(source))
        bridge.load([_patcher(clipseg[0])])
        finder = clipseg
    show, maps, phrases, missing = bridge.progress(len(photos)), [], color_phrases(text), []
    for i, photo in enumerate(photos.split(1), 1):
        found, here, unseen = steering.word_hints(bundle, photo, text, finder, seed)
        phrases = [phrase for phrase in phrases if phrase in here]
        missing += [phrase for phrase in unseen if phrase not in missing]
        if found is None:
            raise ValueError(
                f"could not find {_names(missing)} in the photo: {_instead(photo, bundle)}; or put a CLIPSeg folder "
                "into models/seada_segmenters and choose it as source; or paint the colours with SeAda Hints"
            )
        maps.append(found)
        show(i, len(photos))
    return torch.cat(maps), phrases, missing


def _instead(photos: Tensor, bundle: bridge.Bundle | None) -> str:
    """What to try in place of words for things that the model does not find."""
    bundle = bundle or bridge.bundle()
    bundle.load(*steering.FINDERS["recognition"])
    names = steering.seen(bundle, photos[:1])
    return f"use another word, such as {', '.join(names)}, which it sees there" if names else "use a more common word"


def _names(phrases: list[ColorPhrase]) -> str:
    return ", ".join(repr(phrase.thing) for phrase in phrases)
