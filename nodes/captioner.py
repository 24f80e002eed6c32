"""Captions of photos."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io

from ..seada_core.models.captioners import loading
from . import bridge, model_folders

if TYPE_CHECKING:
    from torch import Tensor

FROM_MODEL = "the model's own"


@lru_cache(maxsize=1)
def _load(name: str, beams: int, max_tokens: int):
    with torch.inference_mode(False):
        path = model_folders.captioner_path(name)
        return bridge.patcher(
            loading.load_captioner(loading.captioner_kind(path), path, beams=beams, max_tokens=max_tokens)
        )


class SeAdaCaptioner(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return bridge.schema(
            node_id="SeAdaCaptioner",
            display_name="SeAda Captioner",
            category="SeAda",
            search_aliases=["caption photo", "describe photo", "image to text"],
            description='Writes a caption for each photo, without words such as "black and white".',
            inputs=[
                io.Image.Input("image", tooltip="The photos to describe. Only their luminance is used."),
                io.Combo.Input(
                    "captioner",
                    options=[FROM_MODEL, *model_folders.captioners()],
                    default=FROM_MODEL,
                    tooltip="Which captioner to use: the model's own, or a CoCa file or a CoCa, BLIP, BLIP-2 or "
                    "ClipCap folder in models/seada_captioners. Nothing is downloaded.",
                ),
                io.Int.Input(
                    "beams",
                    default=1,
                    min=1,
                    max=16,
                    tooltip="Width of the beam search; try 4 for better captions. The model's own captioner ignores "
                    "it.",
                ),
                io.Int.Input(
                    "max_tokens",
                    default=30,
                    min=4,
                    max=76,
                    tooltip="Maximum length of a caption, in tokens. The model's own captioner ignores it.",
                ),
                bridge.Seada.Input(
                    "seada",
                    optional=True,
                    tooltip="The model whose own captioner is used. Not connected: the embedded model.",
                ),
            ],
            outputs=[
                io.String.Output(
                    id="captions", display_name="STRING", is_output_list=True, tooltip="One caption per photo."
                )
            ],
        )

    @classmethod
    def execute(
        cls, image: Tensor, captioner: str, beams: int, max_tokens: int, seada: bridge.Bundle | None = None
    ) -> io.NodeOutput:
        with torch.inference_mode(False):
            photos = bridge.gray(image)
            if captioner == FROM_MODEL:
                bundle = seada or bridge.bundle()
                if not bundle.has("captioner"):
                    raise ValueError(
                        f"{bundle.folder} has no captioner.safetensors; choose another captioner, or write the prompt"
                    )
                patcher = bundle.patcher("captioner")
            else:
                patcher = _load(captioner, beams, max_tokens)
            bridge.load([patcher])
            show = bridge.progress(len(photos))
            captions = []
            for i, photo in enumerate(photos.split(1), 1):
                captions += patcher.model.module(photo.expand(-1, 3, -1, -1).to(patcher.load_device))
                show(i, len(photos))
        return io.NodeOutput(captions)
