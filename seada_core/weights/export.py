"""A model as a folder that diffusers' pipelines load, and part files of what those pipelines have no place for."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from safetensors.torch import save_file
from torch import nn

from . import part_files

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, DDIMScheduler, ModelMixin, UNet2DConditionModel
    from transformers import CLIPTextConfig

    from ..models.semantic_adapter import SemanticEncoder
    from ..models.unet import UNet
    from ..presets import DiffusionConfig
    from .parts import Parts

BESIDE = "seada"  # the folder of part files within the export
# why a part cannot be expressed
_REASONS = {
    "semantic_encoder": "its vocabulary is a reduced one, which CLIP's tokenizer cannot have",
    "semantic_adapter": "diffusers' pipelines have nothing between text encoder and UNet",
    "controlnet_rca": "a ControlNet of diffusers has another embedder, and no attention in the UNet's decoder",
    "hint_encoder": "diffusers' pipelines have no hints",
    "affinity": "diffusers' pipelines have no hints",
    "people": "diffusers' pipelines do not look for what a prompt names",
    "scenery": "diffusers' pipelines do not look for what a prompt names",
    "vq_decoder": "diffusers' pipelines decode without the photo",
    "token_diffusion": "diffusers' pipelines decode without the photo",
    "captioner": "it writes the prompt, and pipelines have no such part",
}


def export_diffusers(
    parts: Parts, out: Path, vae: AutoencoderKL | None = None, dtype: torch.dtype = torch.float32
) -> list[str]:
    """Write unet, text_encoder, tokenizer and scheduler, the `vae` where it is given, and a stock ControlNet where that
    is the controller; every other part that the model has of its own as part files in OUT/seada.

    With a VAE and CLIP's own vocabulary the folder is a StableDiffusionPipeline (or StableDiffusionControlNetPipeline).
    `Colorizer.from_pretrained(OUT/seada, base=OUT)` is the model again.

    Returns:
        a line for each part that is written as a part file, with the reason.
    Raises:
        CheckpointError: the model has no UNet or text encoder.
    """
    notes = []
    components: dict[str, list[str | None]] = {"safety_checker": [None, None], "feature_extractor": [None, None]}
    unet = diffusers_unet(cast("UNet", parts.load("unet")), parts.preset.sampling.size // 8)
    save_model(unet, out / "unet", dtype)
    components["unet"] = ["diffusers", "UNet2DConditionModel"]
    del unet

    diffusers_scheduler(parts.preset.diffusion).save_pretrained(out / "scheduler")
    components["scheduler"] = ["diffusers", "DDIMScheduler"]

    taken = {"unet"}  # parts that the pipeline has
    encoder = cast("SemanticEncoder", parts.load("semantic_encoder"))
    if encoder.tokenizer.vocabulary is None:
        _save_text_encoder(encoder, out / "text_encoder", dtype)
        save_tokenizer(encoder.tokenizer.length, out / "tokenizer")
        components["text_encoder"] = ["transformers", "CLIPTextModel"]
        components["tokenizer"] = ["transformers", "CLIPTokenizer"]
        taken.add("semantic_encoder")
    if vae is not None:
        save_model(vae, out / "vae", dtype)
        components["vae"] = ["diffusers", "AutoencoderKL"]
    name = "StableDiffusionPipeline"
    stock = parts.stock_control()
    if stock is not None:
        save_model(stock.load()[0].net, out / "controlnet", dtype)
        components["controlnet"] = ["diffusers", "ControlNetModel"]
        name = "StableDiffusionControlNetPipeline"
        taken.add("controlnet_rca")

    for part in part_files.SECTIONS:
        file = parts.file(part)
        if part in taken or file is None:
            continue
        (out / BESIDE).mkdir(exist_ok=True)
        module, preset = part_files.load_part(file, part)
        part_files.save_part(out / BESIDE / f"{part}.safetensors", part, preset, module, dtype)
        notes.append(f"{part} is a part file in {BESIDE}/: {_REASONS[part]}")
    lacking = [c for c in ("vae", "text_encoder", "tokenizer") if c not in components]
    if lacking:
        notes.append(f"no model_index.json: a pipeline needs {' and '.join(lacking)} too")
    else:
        _save_index(out, name, components)
    return notes


def diffusers_unet(unet: UNet, sample_size: int | None = None) -> UNet2DConditionModel:
    """The same UNet, sharing its weights, as diffusers' class; sample_size: cells, recorded in its config."""
    from accelerate import init_empty_weights
    from diffusers import UNet2DConditionModel

    config = unet.config
    with init_empty_weights(include_buffers=False):
        model = UNet2DConditionModel(
            sample_size=sample_size,
            in_channels=config.in_channels,
            out_channels=4,
            block_out_channels=config.channels,
            layers_per_block=config.layers_per_block,
            down_block_types=tuple("CrossAttnDownBlock2D" if attn else "DownBlock2D" for attn in config.attention),
            up_block_types=tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(config.attention)),
            attention_head_dim=config.heads,  # diffusers' misnomer: the number of heads
            cross_attention_dim=config.context_dim,
            norm_num_groups=config.groups,
        )
    model.load_state_dict(unet.state_dict(), assign=True)
    return model.train(unet.training)


def diffusers_scheduler(config: DiffusionConfig) -> DDIMScheduler:
    """The noise schedule and a deterministic sampler as diffusers' class."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=config.train_steps,
        beta_start=config.beta_start,
        beta_end=config.beta_end,
        beta_schedule="scaled_linear",
        prediction_type=config.prediction,
        rescale_betas_zero_snr=config.zero_terminal_snr,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )


def text_config(encoder: SemanticEncoder) -> CLIPTextConfig:
    """The sizes of a text encoder as transformers describes them."""
    from transformers import CLIPTextConfig

    config, tokenizer = encoder.config, encoder.tokenizer
    return CLIPTextConfig(
        vocab_size=tokenizer.size,
        hidden_size=config.width,
        intermediate_size=config.width * 4,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        max_position_embeddings=config.length,
        hidden_act=config.activation,
        bos_token_id=tokenizer.start,
        eos_token_id=tokenizer.end,
        pad_token_id=tokenizer.pad,
    )


def save_model(module: ModelMixin, folder: Path, dtype: torch.dtype) -> None:
    """Write a model of diffusers as a folder, config.json and safetensors in `dtype`."""
    nn.Module.to(module, dtype).save_pretrained(folder, safe_serialization=True)


def _save_text_encoder(encoder: SemanticEncoder, folder: Path, dtype: torch.dtype) -> None:
    """With the names that every reader knows; transformers 5 writes others."""
    folder.mkdir(parents=True)
    config = text_config(encoder).to_dict() | {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model"}
    for name in ("dtype", "torch_dtype"):  # of this config; transformers renamed it
        config.pop(name, None)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    tensors = {
        "text_model." + name: tensor.to(dtype).contiguous()
        for name, tensor in encoder.model.state_dict().items()
        if tensor.is_floating_point()
    }
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def save_tokenizer(length: int, folder: Path) -> None:
    """CLIP's tokenizer as transformers reads it, of the vocabulary that open_clip carries."""
    from open_clip.tokenizer import SimpleTokenizer

    clip = SimpleTokenizer()
    start, end = "<|startoftext|>", "<|endoftext|>"
    special = {"<start_of_text>": start, "<end_of_text>": end}
    folder.mkdir(parents=True)
    vocabulary = {special.get(token, token): number for token, number in clip.encoder.items()}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    merges = "\n".join(" ".join(pair) for pair in clip.bpe_ranks)
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": length, "do_lower_case": True}
    config |= {"bos_token": start, "eos_token": end, "pad_token": end, "unk_token": end, "add_prefix_space": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2))


def _save_index(out: Path, name: str, components: dict) -> None:
    import diffusers

    release = re.sub(r"[^\d.].*", "", diffusers.__version__).rstrip(".")  # "0.36.0" of "0.36.0.dev0"
    index = {"_class_name": name, "_diffusers_version": release}
    index |= {"requires_safety_checker": False} | components
    (out / "model_index.json").write_text(json.dumps(index, indent=2))
