"""Stable Diffusion 1.5's own weights: a diffusers folder, a hub name, or a single file in the original (ldm) names."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from . import weightfiles
from .backbone import build_unet
from .presets import SD15, DiffusionConfig, Preset, TextConfig, UNetConfig, VAEConfig
from .tokenizer import Tokenizer
from .transfer import (
    PREFIXES,
    Report,
    Weights,
    as_they_are,
    controlnet_names,
    load,
    old_vae_names,
    on_meta,
    text_names,
    unet_names,
    vae_names,
)
from .weightfiles import CheckpointError, Header

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

    from .stock_controlnet import StockControlNet

COMPONENTS = ("unet", "text_encoder", "vae")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_HUB_FILES = {
    "allow_patterns": ["*.json", "unet/*", "text_encoder/*", "vae/*", "diffusion_pytorch_model*"],
    "ignore_patterns": ["*.bin", "*.ckpt", "*.msgpack", "*non_ema*"],
}


# --- folders ----------------------------------------------------------------------------------------------------------


def read_json(path: Path) -> dict:
    """A JSON object. Raises CheckpointError."""
    if not path.is_file():
        raise CheckpointError(f"no {path.name} in {path.parent}; expected a whole diffusers folder")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not readable: {error}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not readable: it holds no JSON object")
    return content


def folder_files(folder: Path) -> list[Header]:
    """The headers of a diffusers or transformers component: its safetensors file or shards; plain before fp16.

    Raises:
        CheckpointError: there is none, or it is not whole.
    """
    files = sorted(folder.glob("*.safetensors"))
    plain = [file for file in files if not re.search(r"\.(fp16|non_ema|bf16)[.-]", file.name)]
    chosen = plain or [file for file in files if ".fp16" in file.name] or files
    indices = [i for i in sorted(folder.glob("*.safetensors.index*.json")) if chosen and chosen[0].name[:5] in i.name]
    if indices and not (folder / "diffusion_pytorch_model.safetensors").is_file():
        named = sorted(set(read_json(indices[0]).get("weight_map", {}).values()))
        missing = [name for name in named if not (folder / name).is_file()]
        if missing:
            raise CheckpointError(f"{folder} lacks {missing[0]}, one of {len(named)} shards; download it again")
        chosen = [folder / name for name in named]
    elif chosen:
        chosen = chosen[:1]
    if not chosen:
        pickles = [file for file in sorted(folder.glob("*")) if file.suffix in weightfiles.PICKLES]
        if pickles:
            raise CheckpointError(weightfiles.pickle_text(pickles[0]))
        raise CheckpointError(f"{folder} holds no .safetensors file")
    return [weightfiles.read_header(file) for file in chosen]


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
        told = wrong or [f"cross_attention_dim = {width}"]
        raise CheckpointError(
            f"{source} is of {family} ({', '.join(told)}); expected Stable Diffusion 1.5, whose texts are 768 wide"
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


def vae_config(config: dict, source: Path) -> VAEConfig:
    """The sizes of a diffusers AutoencoderKL, from its config.json.

    Raises:
        CheckpointError: its latents are not Stable Diffusion 1.5's.
    """
    default = VAEConfig()
    found = VAEConfig(
        tuple(config.get("block_out_channels", (64,))),
        config.get("layers_per_block", 1),
        config.get("latent_channels", 4),
        config.get("norm_num_groups", 32),
        config.get("scaling_factor", default.scaling_factor),
    )
    latents = (found.latent_channels, len(found.channels), found.scaling_factor)
    if latents != (4, 4, default.scaling_factor) or config.get("shift_factor") or config.get("latents_mean"):
        raise CheckpointError(
            f"{source} makes latents with {latents[0]} channels at 1/{2 ** (latents[1] - 1)} of the picture, scaled by "
            f"{latents[2]}; expected Stable Diffusion 1.5's 4 channels at 1/8, scaled by {default.scaling_factor}"
        )
    return found


def find(path: Path | str, download: bool = False) -> Path:
    """Where weights lie: a path, or the hub name `owner/name` of a diffusers folder that lies in the hub's cache.

    `download`: fetch what is not there.

    Raises:
        CheckpointError: nothing is there.
    """
    if Path(path).exists():
        return Path(path)
    if not _HUB_NAME.fullmatch(str(path)):
        raise CheckpointError(f"{path} does not exist; expected a diffusers folder, a .safetensors file or a hub name")
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(str(path), **_HUB_FILES, local_files_only=not download)
    except (OSError, ValueError) as error:  # everything that the hub raises is one or the other
        reason = (
            f"it could not be downloaded: {str(error).splitlines()[0]}"
            if download
            else "as a hub name it is not in the local cache: give --download to fetch it, or a local path"
        )
        raise CheckpointError(f"{path} does not exist, and {reason}") from None
    return Path(folder)


# --- the whole --------------------------------------------------------------------------------------------------------


class Base:
    """Stable Diffusion 1.5 as somebody has it: its sizes, and its parts at the asking.

    Args:
        path: a diffusers folder, a single file with the original names, or a hub name (see `find`).
        preset: the sizes of a single file, which does not tell its own.
        vae: likewise.
        download: see `find`.
        ema: take a single file's averaged UNet.
    Raises:
        CheckpointError: nothing there, another family, or something else than a model.
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
            self._header = weightfiles.read_header(self.path)
            weightfiles.expect(self._header, ("checkpoint",), "a Stable Diffusion 1.5 checkpoint")
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
        """What a single file holds beside the components."""
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
            return self._unet_weights()
        return Weights(
            [self._header], component, text_names if component == "text_encoder" else vae_names(self.vae_config)
        )

    def _unet_weights(self) -> Weights:
        convert = unet_names(self.preset.unet)
        if not self._ema:
            return Weights([self._header], "unet", convert)
        copies = {
            name: "model_ema." + "".join(name.split(".")[1:])
            for name in self._header.shapes
            if re.match(PREFIXES["unet"], name)
        }
        absent = [name for name in copies.values() if name not in self._header.shapes]
        if absent:
            raise CheckpointError(f"{self.path} has no averaged (EMA) UNet: {len(absent)} of its tensors are missing")
        weights = Weights([self._header], "unet", convert)
        weights.places = dict.fromkeys(copies.values(), self._header.path)
        weights.shapes = {name: self._header.shapes[name] for name in copies.values()}
        names = {copy: name for name, copy in copies.items()}
        weights.convert = lambda state: convert({names[name]: tensor for name, tensor in state.items()})
        return weights

    def _builder(self, part: str) -> Callable[[], nn.Module]:
        from .semantic_adapter import SemanticEncoder

        preset = self.preset
        if part == "unet":
            return lambda: build_unet(preset.unet)
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
    """Raises CheckpointError where a base has not the sizes or the noise schedule of a preset."""
    for section in ("unet", "text", "diffusion"):
        found, wanted = getattr(base.preset, section), getattr(preset, section)
        if found != wanted:
            raise CheckpointError(
                f"{base.path} is of another size than preset {preset.name}: {found}, expected {wanted}"
            )


def _component(part: str) -> str:
    return "text_encoder" if part == "semantic_encoder" else part


# --- VAEs and ControlNets ---------------------------------------------------------------------------------------------


def build_vae(config: VAEConfig) -> AutoencoderKL:
    """A random VAE of Stable Diffusion 1.5's kind."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(config.channels),
        up_block_types=("UpDecoderBlock2D",) * len(config.channels),
        block_out_channels=config.channels,
        layers_per_block=config.layers_per_block,
        latent_channels=config.latent_channels,
        norm_num_groups=config.groups,
        scaling_factor=config.scaling_factor,
        sample_size=512,
    )


def open_vae(path: Path | str, config: VAEConfig | None = None, download: bool = False) -> tuple[Weights, VAEConfig]:
    """What `load_vae` loads, not yet read, and its sizes."""
    path = find(path, download)
    config = config or VAEConfig()
    if path.is_dir():
        folder = path if (path / "config.json").is_file() else path / "vae"
        described = read_json(folder / "config.json")
        if described.get("_class_name", "AutoencoderKL") != "AutoencoderKL":
            raise CheckpointError(f"{folder} holds a {described['_class_name']}, expected an AutoencoderKL")
        config = vae_config(described, folder)
        weights = Weights(folder_files(folder), "vae", old_vae_names, whole=True)
    else:
        header = weightfiles.read_header(path)
        weightfiles.expect(header, ("vae", "checkpoint"), "a VAE of Stable Diffusion 1.5")
        if header.shapes.get("decoder.conv_in.weight", (0, 4))[1] != 4:
            raise CheckpointError(
                f"{path} is a VAE with {header.shapes['decoder.conv_in.weight'][1]} latent channels, of a later model; "
                "expected Stable Diffusion 1.5's 4"
            )
        diffusers = header.has(r"encoder\.down_blocks\.")
        weights = Weights([header], "vae", old_vae_names if diffusers else vae_names(config))
        if not weights.shapes or (header.has(PREFIXES["unet"]) and not header.has(PREFIXES["vae"])):
            raise CheckpointError(f"{path} holds no VAE; give the file or folder of one")
    return weights, config


def load_vae(
    path: Path | str, config: VAEConfig | None = None, strict: bool = True, download: bool = False
) -> tuple[AutoencoderKL, Report]:
    """A VAE of Stable Diffusion 1.5's latents: a single file in original or diffusers' names, a checkpoint that holds
    one, or a diffusers folder, of the VAE or of the whole model. `config`: the sizes of a single file.

    Raises:
        CheckpointError: something else is there.
    """
    weights, config = open_vae(path, config, download)
    return load("vae", lambda: build_vae(config), weights, strict)


class StockWeights:
    """A stock ControlNet of Stable Diffusion 1.5 for grey photos, such as brightness or recolor, not yet read.

    Args:
        path: a diffusers folder, or a single file in original names (with or without `control_model`) or diffusers'.
        unet: of the base that it was made for.
    Raises:
        CheckpointError: something else, or one made for another UNet.
    """

    def __init__(self, path: Path | str, unet: UNetConfig = SD15.unet, download: bool = False):
        from .stock_controlnet import check_config

        self.unet, self.path = unet, find(path, download)
        what = "a ControlNet of Stable Diffusion 1.5"
        if self.path.is_dir():
            described = read_json(self.path / "config.json")
            if described.get("_class_name", "ControlNetModel") != "ControlNetModel":
                raise CheckpointError(f"{self.path} holds a {described['_class_name']}, expected {what}")
            check_config(described, self.path)
            found = unet_config(described, self.path)
            if found != unet:
                raise CheckpointError(f"{self.path} was made for another UNet: {found}, expected {unet}")
            self._weights = Weights(folder_files(self.path), "controlnet", as_they_are, whole=True)
        else:
            header = weightfiles.read_header(self.path)
            weightfiles.expect(header, ("controlnet",), what)
            self._weights = Weights([header], "controlnet", controlnet_names(unet))

    def _build(self) -> nn.Module:
        from .stock_controlnet import build_controlnet

        return build_controlnet(self.unet)

    def report(self) -> Report:
        """How the weights fit, without reading them."""
        return self._weights.report("controlnet", on_meta(self._build))

    def load(self, strict: bool = True) -> tuple[StockControlNet, Report]:
        """The ControlNet in float32 and evaluation mode; see `load`."""
        from .stock_controlnet import StockControlNet

        net, report = load("controlnet", self._build, self._weights, strict)
        return StockControlNet(net), report
