"""BLIP and BLIP-2 captioners, from folders of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...errors import one_line
from ...files.weight_headers import PICKLES, pickle_text, read_header
from .caption_text import strip_monochrome
from .decoding import CLIP_MEAN, CLIP_STD, normalize, resize
from .reading import _read_config

if TYPE_CHECKING:
    from transformers import Blip2ForConditionalGeneration, BlipForConditionalGeneration


class BLIPCaptioner(nn.Module):
    """`BlipForConditionalGeneration` or `Blip2ForConditionalGeneration` of transformers, with its tokenizer."""

    def __init__(
        self,
        model: BlipForConditionalGeneration | Blip2ForConditionalGeneration,
        tokenizer: Any,
        *,
        mean: tuple[float, ...] = CLIP_MEAN,
        std: tuple[float, ...] = CLIP_STD,
        beams: int = 1,
        max_tokens: int = 30,
    ):
        super().__init__()
        self.model: Any = model
        self.tokenizer = tokenizer
        self.image_size = model.config.vision_config.image_size
        self.mean, self.std = mean, std
        self.options = {"num_beams": beams, "max_new_tokens": max_tokens, "do_sample": False}

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[str]:
        pixels = normalize(resize(images.to(self.model.device), self.image_size, crop=False), self.mean, self.std)
        ids = self.model.generate(pixel_values=pixels.to(self.model.dtype), **self.options)
        if self.model.config.model_type == "blip":
            ids = ids[:, 1:]  # the start token, which some copies of its tokenizer do not mark as special
        return [strip_monochrome(text) for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]


BLIP_HEAD = "text_decoder.cls.predictions.decoder.weight"


def _load_blip(kind: str, folder: Path, options: dict) -> BLIPCaptioner:
    import transformers

    model_class = {"blip": "BlipForConditionalGeneration", "blip2": "Blip2ForConditionalGeneration"}[kind]
    described = _read_config(folder / "config.json")
    weights = sorted(folder.glob("*.safetensors")), [file for file in folder.glob("*") if file.suffix in PICKLES]
    if not weights[0] and weights[1]:
        raise ValueError(pickle_text(min(weights[1])))
    for file in weights[0]:
        read_header(file)
    if kind.replace("2", "-2") != described.get("model_type"):
        raise ValueError(f"{folder} holds a {described.get('model_type')!r} model, not {kind}; give a {kind} folder")
    try:
        model, loaded = getattr(transformers, model_class).from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ValueError(f"no complete {kind} model with its tokenizer in {folder}: {one_line(error)}") from error
    missing = set(loaded["missing_keys"])
    if BLIP_HEAD in missing:  # newer files omit it: it is the word embeddings, which older transformers do not tie
        model.text_decoder.cls.predictions.decoder.weight = model.text_decoder.bert.embeddings.word_embeddings.weight
        missing.remove(BLIP_HEAD)
    if missing:
        raise ValueError(f"no complete {kind} model in {folder}: it lacks {len(missing)} weights, {min(missing)} first")
    if kind == "blip2" and model.config.image_token_index is None:
        raise ValueError(f"{folder}/config.json names no image_token_index; use a current copy of the BLIP-2 model")
    preprocessor = folder / "preprocessor_config.json"
    if preprocessor.is_file():
        pixels = _read_config(preprocessor)
        options = options | {"mean": tuple(pixels["image_mean"]), "std": tuple(pixels["image_std"])}
    return BLIPCaptioner(model, tokenizer, **options)
