"""Part files: one safetensors file a part, with metadata that says which part it is and how to build it."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from . import presets
from .presets import Preset
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterable

VERSION = "1"
EMBEDDED = Path(__file__).parent / "embedded"
# part -> the preset's sections that its file records
SECTIONS = {
    "unet": ("unet", "diffusion", "sampling"),
    "semantic_encoder": ("text",),
    "semantic_adapter": ("adapter",),
    "controlnet_rca": ("unet", "control"),
    "hint_encoder": ("unet", "hint"),
    "vq_decoder": ("codec",),
    "token_diffusion": ("tokens",),
    "captioner": ("captioner",),
}


class CheckpointError(ValueError):
    """A part file is missing, of another kind, or broken; the message says which and what to do."""


def build(part: str, preset: Preset, tokenizer: Tokenizer | None = None) -> nn.Module:
    """A part with random weights. Parts around the UNet are built for a UNet of the preset's sizes."""
    from . import backbone

    if part == "unet":
        return backbone.build_unet(preset.unet)
    if part == "semantic_encoder":
        from .semantic_adapter import SemanticEncoder

        return SemanticEncoder(preset.text, tokenizer)
    if part == "semantic_adapter":
        from .semantic_adapter import SemanticAdapter

        return SemanticAdapter(preset.adapter)
    if part == "controlnet_rca":
        from .controlnet_rca import ControlNetRCA

        return ControlNetRCA(backbone.build_unet(preset.unet), preset.control)
    if part == "hint_encoder":
        from .ccd import HintEncoder

        return HintEncoder(backbone.build_unet(preset.unet), preset.hint)
    if part == "vq_decoder":
        from .vq_decoder import VQDecoder

        return VQDecoder(preset.codec)
    if part == "token_diffusion":
        from .token_diffusion import TokenDiffusion

        return TokenDiffusion(preset.tokens)
    if part == "captioner":
        from .captioner import TinyCoCa

        return TinyCoCa(preset.captioner, tokenizer)
    raise CheckpointError(f"unknown part {part!r}; the parts are {', '.join(SECTIONS)}")


def save_part(path: Path, part: str, preset: Preset, module: nn.Module, dtype: torch.dtype = torch.float32) -> None:
    """Write a part file, atomically. Floating tensors are stored as `dtype`, others as they are."""
    from safetensors.torch import save_file

    config = {section: presets.to_dict(getattr(preset, section)) for section in SECTIONS[part]}
    tokenizer = getattr(module, "tokenizer", None)
    if tokenizer is not None:
        config["vocabulary"] = tokenizer.vocabulary
        config["length"] = tokenizer.length
    metadata = {
        "format": "pt",
        "seada.part": part,
        "seada.preset": preset.name,
        "seada.version": VERSION,
        "seada.config": json.dumps(config),
    }
    tensors = {
        name: (tensor.to(dtype) if tensor.is_floating_point() else tensor).contiguous().cpu()
        for name, tensor in module.state_dict().items()
    }
    temporary = path.with_name(f".{path.name}.part")
    try:
        save_file(tensors, temporary, metadata)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _opened(path: Path, part: str):
    """The open safetensors file of a part and its metadata; every way in which it can be wrong is a CheckpointError."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise CheckpointError(f"no {part} file: {path} does not exist")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            found = metadata.get("seada.part")
            if found is None:
                raise CheckpointError(f"{path} is not a SeAda part file (its metadata has no seada.part)")
            if found != part:
                raise CheckpointError(f"{path} holds the part {found!r}, expected {part!r}")
            if metadata.get("seada.version") != VERSION:
                raise CheckpointError(
                    f"{path} has format version {metadata.get('seada.version')}, this program reads {VERSION}; "
                    "use the release that wrote it, or convert it there"
                )
            yield file, metadata
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from None


def _config(path: Path, part: str, metadata: dict[str, str]) -> tuple[Preset, Tokenizer | None]:
    try:
        config = json.loads(metadata["seada.config"])
        sections = {name: presets.from_dict(type(getattr(presets.SD15, name)), config[name]) for name in SECTIONS[part]}
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} has a broken seada.config: {error}") from None
    tokenizer = Tokenizer(config["length"], config["vocabulary"]) if "length" in config else None
    return Preset(metadata.get("seada.preset", "custom"), **sections), tokenizer


def read_preset(path: Path, part: str) -> Preset:
    """The preset of a part file (only the part's sections are meaningful), without reading its weights.

    Raises:
        CheckpointError: no such file, not safetensors, another part or version.
    """
    with _opened(Path(path), part) as (_, metadata):
        return _config(path, part, metadata)[0]


def read_part(path: Path, part: str) -> tuple[Preset, Tokenizer | None, dict[str, Tensor]]:
    """The preset (only the part's sections are meaningful), tokenizer and float32 tensors of a part file.

    Raises:
        CheckpointError: no such file, not safetensors, another part or version, or weights that are not finite.
    """
    path = Path(path)
    with _opened(path, part) as (file, metadata):
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            tensors[name] = tensor.float()
            if not torch.isfinite(tensors[name]).all():
                raise CheckpointError(f"{path} is damaged: {name} has values that are not finite")
    return *_config(path, part, metadata), tensors


def load_part(path: Path, part: str) -> tuple[nn.Module, Preset]:
    """Build a part from its file, in evaluation mode and float32; and the preset sections that it was built from.

    Raises:
        CheckpointError: see `read_part`; also tensors that do not fit the recorded configuration.
    """
    preset, tokenizer, tensors = read_part(path, part)
    module = build(part, preset, tokenizer)
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(
            f"{path} does not fit its own configuration: {str(error).splitlines()[-1].strip()}"
        ) from None
    return module.eval().requires_grad_(False), preset


def model_folder(model: str) -> Path:
    """The folder of part files that `model` names: "mini" is the embedded model, anything else a path.

    Raises:
        CheckpointError: neither.
    """
    if model == "mini":
        return EMBEDDED
    if Path(model).is_dir():
        return Path(model)
    raise CheckpointError(f'unknown model {model!r}: use "mini" (the embedded model) or a folder of part files')


def convert(source: Path, target: Path, dtype: torch.dtype, parts: Iterable[str] = tuple(SECTIONS)) -> None:
    """Copy the part files of a folder to another, stored as `dtype`."""
    target.mkdir(parents=True, exist_ok=True)
    for part in parts:
        file = source / f"{part}.safetensors"
        if file.is_file():
            module, preset = load_part(file, part)
            save_part(target / file.name, part, preset, module, dtype)
