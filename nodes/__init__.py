"""The pack's nodes: ComfyUI's types in, one call into seada_core, ComfyUI's types out."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import (
    captioner,
    ccd,
    colorize,
    controlnet_rca,
    folder,
    hints,
    loaders,
    masks,
    model_folders,
    painter,
    palettes,
    photo,
    reference,
    runs,
    semantic_adapter,
    templates,
    video,
    vq_decoder,
    words,
)

NODES: list[type[io.ComfyNode]] = [
    colorize.SeAdaColorize,
    photo.SeAdaLoadPhoto,
    photo.SeAdaSavePhoto,
    folder.SeAdaLoadFolder,
    loaders.SeAdaLoadModel,
    loaders.SeAdaLoadControlNetRCA,
    captioner.SeAdaCaptioner,
    semantic_adapter.SeAdaSemanticAdapter,
    controlnet_rca.SeAdaApplyControlNetRCA,
    hints.SeAdaHints,
    hints.SeAdaHintsFromImage,
    words.SeAdaHintsFromText,
    masks.SeAdaHintsFromMasks,
    reference.SeAdaHintsFromReference,
    hints.SeAdaPalette,
    palettes.SeAdaPaletteBank,
    hints.SeAdaPropagateHints,
    ccd.SeAdaCCD,
    vq_decoder.SeAdaEmptyLatent,
    vq_decoder.SeAdaVQDecode,
    vq_decoder.SeAdaMergeLuminance,
    video.SeAdaColorizeVideo,
    video.SeAdaSteadyColors,
]


class SeAdaExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> SeAdaExtension:
    model_folders.register_model_folder()
    painter.register()
    runs.register()
    templates.register()
    return SeAdaExtension()
