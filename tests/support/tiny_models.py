"""Random parts at the smallest useful sizes."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import torch

from seada_core import presets
from seada_core.models.tokenizer import Tokenizer
from seada_core.weights import part_files

TOKENS = presets.TokenConfig(codes=1024, width=32, layers=1, heads=2, context_dim=32)


def make_tiny_parts(captions):
    """Random parts of all kinds but the captioner, of which no weight is zero; and their preset."""
    torch.manual_seed(0)
    preset = replace(make_tiny_preset(), tokens=TOKENS)
    tokenizer = Tokenizer.from_captions(captions, 16, 64)
    parts = {p: part_files.build(p, preset, tokenizer) for p in part_files.SECTIONS if p != "captioner"}
    for module in parts.values():
        for parameter in module.parameters():
            if parameter.abs().max() == 0:
                torch.nn.init.normal_(parameter, std=0.02)
    return parts, preset


def make_tiny_preset():
    """`mini`'s classes at the smallest useful sizes."""
    return replace(
        presets.MINI,
        name="tiny",
        text=presets.TextConfig(vocab_size=64, length=16, width=32, layers=1, heads=2),
        unet=presets.UNetConfig(
            channels=(32, 32, 64), layers_per_block=1, attention=(False, False, True), heads=2, context_dim=32, groups=8
        ),
        adapter=presets.AdapterConfig(length=16, width=32),
        control=presets.ControlConfig(additive=True, head_dim=16),
        hint=presets.HintConfig(channels=(8, 16, 16)),
        codec=replace(presets.MINI.codec, codes=TOKENS.codes),
        sampling=presets.SamplingConfig(steps=3, guidance=2.0, size=64),
    )


def write_tiny_model(folder: Path, preset, source: Path) -> None:
    """All parts of the tiny model, those that `tiny_model` lacks among them."""
    shutil.copytree(source, folder)
    captions = presets.CaptionerConfig(image_size=32, vision_channels=(8, 8, 8, 16), width=32, heads=2, embed_dim=16)
    preset = replace(preset, captioner=captions, tokens=TOKENS)
    tokenizer = Tokenizer.from_captions(["a photo of a dog on green grass, blue sky"], 16, 64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for part in ("captioner", "token_diffusion"):
            module = part_files.build(part, preset, tokenizer if part == "captioner" else None)
            part_files.save_part(folder / f"{part}.safetensors", part, preset, module)
        path = folder / "controlnet_rca.safetensors"
        control, _ = part_files.load_part(path, "controlnet_rca")
        torch.nn.init.normal_(control.encoder.conv_in.weight[:, 4:], std=0.2)  # an untrained one is blind
        part_files.save_part(path, "controlnet_rca", preset, control)
