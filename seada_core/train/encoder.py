"""The latent encoder that caches are made with: TAESD, or a VAE of Stable Diffusion 1.5."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from safetensors.torch import load_file
from torch import Tensor

from ..files import weight_headers
from ..weights.locations import read_json
from ..weights.vae import load_vae
from .data import Encoder
from .precision import computes_bfloat16
from .sources import DataError


def load_encoder(path: str, device: torch.device | str = "cpu") -> Encoder:
    """SD1.5's latent encoder: TAESD's own encoder file or diffusers folder, or a VAE as `load_vae` takes it.

    Raises:
        DataError: the file or folder does not exist or holds another model.
    """
    file = Path(path)
    if not file.exists():
        raise DataError(f"no TAESD encoder file and no VAE at {path}")
    if file.is_file() and weight_headers.kind(weight_headers.read_header(file)).name not in ("vae", "checkpoint"):
        tiny = AutoencoderTiny()
        state = {f"layers.{name}": tensor.float() for name, tensor in load_file(file).items()}
        try:
            tiny.encoder.load_state_dict(state)
        except RuntimeError as error:
            raise DataError(f"{file} is not TAESD's encoder: {str(error).splitlines()[1].strip()}") from None
        encoder = tiny.encoder.to(device, memory_format=torch.channels_last).eval()
        return _half(device, lambda rgb: encoder(rgb.contiguous(memory_format=torch.channels_last) * 2 - 1))
    if (file / "config.json").is_file() and "Tiny" in read_json(file / "config.json")["_class_name"]:
        vae = AutoencoderTiny.from_pretrained(file, local_files_only=True).to(device).eval()
        return _half(device, lambda rgb: vae.encode(rgb * 2 - 1).latents)
    vae = load_vae(file)[0].to(device)
    return _half(device, lambda rgb: vae.encode(rgb * 2 - 1).latent_dist.mean * vae.config.scaling_factor)


def _half(device: torch.device | str, encoder: Encoder) -> Encoder:
    """Run in bfloat16 autocast where the device computes it: twice as fast, error 1e-4 of the latents' variance."""
    half = computes_bfloat16(device)

    def encode(rgb: Tensor) -> Tensor:
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=half):
            return encoder(rgb.to(device)).float()

    return encode
