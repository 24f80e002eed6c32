"""Stable Diffusion 1.5's own weights: a diffusers folder, a hub name, or a single file in the original (ldm) names."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import nn

from ..files import weight_headers
from ..files.weight_headers import CheckpointError, Header
from ..models.semantic_adapter import SemanticEncoder
from ..models.tokenizer import Tokenizer
from ..models.unet import UNet
from ..presets import SD15, DiffusionConfig, Preset, TextConfig, UNetConfig, VAEConfig
from .locations import find, folder_files, read_json
from .state_dicts import (
    PREFIXES,
    Report,
    Weights,
    as_they_are,
    load,
    old_vae_names,
    on_meta,
    text_names,
    unet_names,
    vae_names,
)
from .vae import build_vae, vae_config

COMPONENTS = ("unet", "text_encoder", "vae")


# --- folders ----------------------------------------------------------------------------------------------------------


def unet_config(config: dict, source: Path) -> UNetConfig:
    """The sizes of a diffusers UNet or ControlNet, from its config.json.

    Raises:
        CheckpointError: it is of another family than Stable Diffusion 1.
    """
    down = config.get("down_block_types", ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"])
    attention = tuple(block == "CrossAttnDownBlock2D" for block in down)
    heads = config.get("num_attention_heads") or config.get("attention_head_dim", 8)
    others = {
        "use_linear_projection": (False, None),
        "addition_embed_type": (None,),
        "class_embed_type": (None,),
        "encoder_hid_dim": (None,),
        "dual_cross_attention": (False, None),
        "only_cross_attention": (False, None),
        "transformer_layers_per_block": (1, None),
        "mid_block_type": ("UNetMidBlock2DCrossAttn",),
        "out_channels": (4,),
    }
    wrong = [f"{n} = {config[n]!r}" for n, allowed in others.items() if n in config and config[n] not in allowed]
    if not set(down) <= {"CrossAttnDownBlock2D", "DownBlock2D"}:
        wrong.append(f"down_block_types = {down}")
    if not isinstance(heads, int):
        wrong.append(f"attention_head_dim = {heads}")
    width = config.get("cross_attention_dim", 1280)
    if wrong or width in (1024, 2048):
        family = {1024: "Stable Diffusion 2", 2048: "Stable Diffusion XL"}.get(width, "another kind")
        problems = wrong or [f"cross_attention_dim = {width}"]
        raise CheckpointError(
            f"{source} is of {family} ({', '.join(problems)}); expected Stable Diffusion 1.5, whose texts are 768 wide"
        )
    return UNetConfig(
        tuple(config.get("block_out_channels", (320, 640, 1280, 1280))),
        config.get("layers_per_block", 2),
        attention,
        heads,
        config.get("in_channels", 4),
        width,
        config.get("norm_num_groups", 32),
    )


def _text_config(config: dict, source: Path) -> TextConfig:
    config = config.get("text_config", config)
    text = TextConfig(
        config.get("vocab_size", 49408),
        config.get("max_position_embeddings", 77),
        config.get("hidden_size", 512),
        config.get("num_hidden_layers", 12),
        config.get("num_attention_heads", 8),
        config.get("hidden_act", "quick_gelu"),
    )
    if text.vocab_size != TextConfig().vocab_size or config.get("intermediate_size", 4 * text.width) != 4 * text.width:
        raise CheckpointError(
            f"{source} is not CLIP's text model with its 49,408 tokens and an MLP 4 times as wide as its embeddings "
            f"(vocab_size {text.vocab_size}, intermediate_size {config.get('intermediate_size')})"
        )
    return text


def _diffusion_config(config: dict, source: Path) -> DiffusionConfig:
    if config.get("beta_schedule", "scaled_linear") != "scaled_linear" or config.get("trained_betas"):
        raise CheckpointError(f"{source} has the noise schedule {config.get('beta_schedule')!r}, not scaled_linear")
    default = DiffusionConfig()
    return DiffusionConfig(
        config.get("num_train_timesteps", default.train_steps),
        config.get("beta_start", default.beta_start),
        config.get("beta_end", default.beta_end),
        config.get("prediction_type", default.prediction),
        config.get("rescale_betas_zero_snr", default.zero_terminal_snr),
    )


# --- the whole --------------------------------------------------------------------------------------------------------


class Base:
    """Stable Diffusion 1.5 from the user's own files: its sizes, and its parts, each read when it is asked for.

    Args:
        path: a diffusers folder, a single file with the original names, or a hub name (see `find`).
        preset: the sizes of a single file, which does not record its own.
        vae: likewise.
        download: see `find`.
        ema: take a single file's averaged UNet.
    Raises:
        CheckpointError: nothing is there, or it is of another family or not a model.
    """

    def __init__(
        self,
        path: Path | str,
        preset: Preset = SD15,
        vae: VAEConfig | None = None,
        download: bool = False,
        ema: bool = False,
    ):
        self.path = find(path, download)
        self._ema = ema
        self._header: Header | None = None
        self._folders: dict[str, Path] = {}
        self.vae_config = vae or VAEConfig()
        if self.path.is_dir():
            self.preset = replace(preset, **self._read_folder())
        else:
            self._header = weight_headers.read_header(self.path)
            weight_headers.expect(self._header, ("checkpoint",), "a Stable Diffusion 1.5 checkpoint")
            self.preset = preset
        if self.preset.unet.in_channels != 4 or (self._header and self._inputs() != self.preset.unet.in_channels):
            raise CheckpointError(
                f"{self.path} takes {self._inputs() or self.preset.unet.in_channels} channels: it is an inpainting or "
                "instruction model; expected a plain Stable Diffusion 1.5, which takes 4"
            )

    def _inputs(self) -> int | None:
        """The input channels of a single file's UNet."""
        if self._header is None:
            return None
        return self._header.shapes.get("model.diffusion_model.input_blocks.0.0.weight", (0, 4))[1]

    def _read_folder(self) -> dict:
        index = self.path / "model_index.json"
        name = read_json(index).get("_class_name", "") if index.is_file() else "StableDiffusionPipeline"
        if not name.startswith("StableDiffusion") or re.match(r"StableDiffusion(XL|3)", name):
            raise CheckpointError(f"{self.path} is a {name}; expected a StableDiffusionPipeline of version 1.5")
        self._folders = {c: self.path / c for c in COMPONENTS if (self.path / c / "config.json").is_file()}
        if "unet" not in self._folders:
            alone = self.path / "config.json"
            found = read_json(alone).get("_class_name") or "model" if alone.is_file() else None
            what = f"holds a {found} alone" if found else "holds no unet/config.json"
            raise CheckpointError(f"{self.path} {what}; expected a diffusers folder with unet, text_encoder and more")
        configs = {c: read_json(folder / "config.json") for c, folder in self._folders.items()}
        sections: dict = {"unet": unet_config(configs["unet"], self._folders["unet"])}
        if "text_encoder" in configs:
            sections["text"] = _text_config(configs["text_encoder"], self._folders["text_encoder"])
        if "vae" in configs:
            self.vae_config = vae_config(configs["vae"], self._folders["vae"])
        scheduler = self.path / "scheduler" / "scheduler_config.json"
        if scheduler.is_file():
            sections["diffusion"] = _diffusion_config(read_json(scheduler), scheduler)
        return sections

    def has(self, component: str) -> bool:
        """Whether a component of `COMPONENTS` is there."""
        if self._header is None:
            return component in self._folders
        return self._header.has(PREFIXES[component])

    def left_out(self) -> Report:
        """What a single file holds besides the components."""
        report = Report("no part", str(self.path))
        own = [re.compile(PREFIXES[component]) for component in COMPONENTS]
        names = self._header.shapes if self._header else ()
        report.leave_out(name for name in names if not any(prefix.match(name) for prefix in own))
        return report

    def _weights(self, component: str) -> Weights:
        if not self.has(component):
            raise CheckpointError(f"{self.path} has no {component}; expected a whole Stable Diffusion 1.5")
        if self._header is None:
            folder = {"text_encoder": text_names, "vae": old_vae_names}
            return Weights(
                folder_files(self._folders[component]), component, folder.get(component, as_they_are), whole=True
            )
        if component == "unet":
            return self._unet_weights(self._header)
        return Weights(
            [self._header], component, text_names if component == "text_encoder" else vae_names(self.vae_config)
        )

    def _unet_weights(self, header: Header) -> Weights:
        convert = unet_names(self.preset.unet)
        if not self._ema:
            return Weights([header], "unet", convert)
        copies = {
            name: "model_ema." + "".join(name.split(".")[1:])
            for name in header.shapes
            if re.match(PREFIXES["unet"], name)
        }
        absent = [name for name in copies.values() if name not in header.shapes]
        if absent:
            raise CheckpointError(f"{self.path} has no averaged (EMA) UNet: {len(absent)} of its tensors are missing")
        weights = Weights([header], "unet", convert)
        weights.places = dict.fromkeys(copies.values(), header.path)
        weights.shapes = {name: header.shapes[name] for name in copies.values()}
        names = {copy: name for name, copy in copies.items()}
        weights.convert = lambda state: convert({names[name]: tensor for name, tensor in state.items()})
        return weights

    def _builder(self, part: str) -> Callable[[], nn.Module]:
        preset = self.preset
        if part == "unet":
            return lambda: UNet(preset.unet)
        if part == "vae":
            return lambda: build_vae(self.vae_config)
        return lambda: SemanticEncoder(preset.text, Tokenizer(preset.text.length))

    def load(self, part: str, strict: bool = True) -> tuple[nn.Module, Report]:
        """The part `unet` or `semantic_encoder`, or the `vae`, in float32 and evaluation mode; see `load`."""
        return load(part, self._builder(part), self._weights(_component(part)), strict)

    def report(self, part: str) -> Report:
        """How a part would fit, without its weights."""
        return self._weights(_component(part)).report(part, on_meta(self._builder(part)))


def require_same(base: Base, preset: Preset) -> None:
    """Raises CheckpointError where a base does not have the sizes and the noise schedule of a preset."""
    for section in ("unet", "text", "diffusion"):
        found, wanted = getattr(base.preset, section), getattr(preset, section)
        if found != wanted:
            raise CheckpointError(
                f"{base.path} is of another size than preset {preset.name}: {found}, expected {wanted}"
            )


def _component(part: str) -> str:
    return "text_encoder" if part == "semantic_encoder" else part
