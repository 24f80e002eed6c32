"""Part files of a training run: where a stage's parts are found, and where they are written."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from ..files import atomic
from ..presets import Preset
from ..settings import to_dict
from ..weights import part_files
from .lora import lora_tensors, merge
from .stages.stage import Stage


def learns(module: nn.Module) -> bool:
    """Whether any parameter of a module is trained."""
    return any(p.requires_grad for p in module.parameters())


def find(part: str, folders: list[Path]) -> Path | None:
    """A part's file in the first folder that has one."""
    return next((f / f"{part}.safetensors" for f in folders if (f / f"{part}.safetensors").is_file()), None)


def check_sizes(file: Path, part: str, preset: Preset) -> None:
    """Raises CheckpointError where a part file was made with other sizes than the preset's; names them."""
    found = part_files.read_preset(file, part)
    differ = [
        f"--{section}.{name.replace('_', '-')} {value} there, {to_dict(getattr(preset, section))[name]} here"
        for section in part_files.SECTIONS[part]
        if section != "sampling"
        for name, value in to_dict(getattr(found, section)).items()
        if to_dict(getattr(preset, section))[name] != value
    ]
    if differ:
        raise part_files.CheckpointError(
            f"{file} was made with other sizes than this run: {'; '.join(differ)}. Give the sizes (or --preset) that "
            "it was made with, or another --out"
        )


def leave(out: Path, part: str, module: nn.Module, preset: Preset, folders: list[Path]) -> None:
    """A part file in `out` of a part that is not trained: the file that it came from, or a new one."""
    out.mkdir(parents=True, exist_ok=True)
    target, source = out / f"{part}.safetensors", find(part, folders)
    if source is None:
        part_files.save_part(target, part, preset, module)
        return
    try:
        os.link(source, target)  # part files are replaced, never written into
    except OSError:
        with atomic.replacing(target) as copy:
            shutil.copyfile(source, copy)


def export(
    out: Path,
    part: str,
    module: nn.Module,
    preset: Preset,
    tensors: dict | None,
    stage: Stage,
    lora_folder: Path,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a trained part's file; a UNet's with its LoRA merged, and the LoRA's own beside its UNet.

    tensors: the stage's state dict where `module` holds only a shard of it.
    dtype: of the part's file; a LoRA keeps its own.
    """
    out.mkdir(parents=True, exist_ok=True)
    if tensors is None:
        state = module.state_dict()
    else:
        prefix = next(name for name, found in stage.named_modules() if found is module) + "."
        state = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    lora = lora_tensors(state) if part == "unet" else {}
    if lora:
        with atomic.replacing(lora_folder / "unet_lora.safetensors") as temporary:
            save_file(lora, temporary, {"format": "pt", "ss_network_module": "networks.lora"})
        # onto the weights of the file: those here may be in bf16
        state = merge(part_files.read_part(lora_folder / "unet.safetensors", "unet")[2], lora)[0]
    part_files.write_part(out / f"{part}.safetensors", part, preset, getattr(module, "tokenizer", None), state, dtype)
