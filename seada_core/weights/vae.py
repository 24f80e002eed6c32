"""Stable Diffusion's autoencoder (KL-f8)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..files import weight_headers
from ..files.weight_headers import CheckpointError
from ..presets import VAEConfig
from .state_dicts import PREFIXES, Report, Weights, load, old_vae_names, vae_names

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

from .locations import find, folder_files, read_json


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
    """What `load_vae` loads, before it is read, and its sizes."""
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
        header = weight_headers.read_header(path)
        weight_headers.expect(header, ("vae", "checkpoint"), "a VAE of Stable Diffusion 1.5")
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
        CheckpointError: it is something else.
    """
    weights, config = open_vae(path, config, download)
    return load("vae", lambda: build_vae(config), weights, strict)
