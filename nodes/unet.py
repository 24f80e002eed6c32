"""Loads a part file's UNet as a ComfyUI MODEL, and hooks into the UNet of any MODEL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.supported_models_base
import comfy.utils
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel, Upsample
from comfy.patcher_extension import WrappersMP
from torch import Tensor, nn

from ..seada_core.color.sizes import resize, size_of
from ..seada_core.files.weight_headers import CheckpointError
from ..seada_core.hints.maps import resize_hint_map
from ..seada_core.weights import part_files
from .bridge import DTYPES, check_shape, rows

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

    from ..seada_core.models.backbone import Hook
    from ..seada_core.presets import Preset, UNetConfig

LATENTS = "seada_latents"  # key in transformer_options

Sized = Callable[[tuple[int, int]], Tensor]  # pictures (n, C, 8h, 8w) for a latent of (h, w)


# --- the UNet of a part file ------------------------------------------------------------------------------------------


def unet_config(config: UNetConfig) -> dict:
    """A diffusers UNet's configuration as ComfyUI's."""
    base, depth = config.channels[0], [int(attention) for attention in config.attention]
    if any(channels % base or channels % 32 for channels in config.channels):
        raise CheckpointError(
            f"ComfyUI's UNet takes channels that are multiples of 32 and of the first, not {config.channels}"
        )
    return {
        "image_size": 32,
        "in_channels": config.in_channels,
        "out_channels": 4,
        "model_channels": base,
        "num_res_blocks": [config.layers_per_block] * len(config.channels),
        "channel_mult": [channels // base for channels in config.channels],
        "transformer_depth": [n for n in depth for _ in range(config.layers_per_block)],
        "transformer_depth_output": [n for n in depth for _ in range(config.layers_per_block + 1)],
        "transformer_depth_middle": 1,
        "num_heads": config.heads,
        "num_head_channels": -1,
        "use_spatial_transformer": True,
        "use_linear_in_transformer": False,
        "context_dim": config.context_dim,
        "adm_in_channels": None,
        "legacy": False,
    }


class SeAdaUNet(comfy.supported_models_base.BASE):
    """ComfyUI's description of a model: configuration, noise schedule, latent space."""

    unet_extra_config: ClassVar[dict] = {}
    latent_format = comfy.latent_formats.SD15
    supported_inference_dtypes: ClassVar[list[torch.dtype]] = DTYPES

    def __init__(self, preset: Preset):
        super().__init__(unet_config(preset.unet))
        self.diffusion = preset.diffusion
        self.sampling_settings = {
            "beta_schedule": "linear",  # linear in the square root, diffusers' "scaled_linear"
            "linear_start": self.diffusion.beta_start,
            "linear_end": self.diffusion.beta_end,
            "timesteps": self.diffusion.train_steps,
            "zsnr": self.diffusion.zero_terminal_snr,
        }

    def model_type(self, state_dict: dict, prefix: str = "") -> comfy.model_base.ModelType:
        types = comfy.model_base.ModelType
        return types.V_PREDICTION if self.diffusion.prediction == "v_prediction" else types.EPS


def load_unet(path: Path) -> ModelPatcher:
    """A `unet` part file as an ordinary MODEL, for ComfyUI's own samplers, LoRAs and previews.

    Raises:
        CheckpointError: see `part_files.read_part`; also for sizes that ComfyUI's UNet does not support.
    """
    preset, _, tensors = part_files.read_part(path, "unet")
    _check_widths(path, preset.unet, tensors)
    config = SeAdaUNet(preset)
    names = comfy.utils.unet_to_diffusers(config.unet_config)
    unknown = tensors.keys() - names.keys()
    if unknown:
        raise CheckpointError(f"{path} has weights that ComfyUI's UNet does not have, such as {min(unknown)}")
    weights = {names[name]: tensor for name, tensor in tensors.items()}

    device, offload = comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device()
    size = sum(tensor.numel() for tensor in weights.values())
    dtype = comfy.model_management.unet_dtype(model_params=size, supported_dtypes=config.supported_inference_dtypes)
    config.set_inference_dtype(
        dtype, comfy.model_management.unet_manual_cast(dtype, device, config.supported_inference_dtypes)
    )
    model = config.get_model(weights).to(offload)
    unet = model.diffusion_model
    missing = unet.state_dict().keys() - weights.keys()
    if missing:
        raise CheckpointError(f"{path} lacks weights of ComfyUI's UNet, such as {min(missing)}")
    model.load_model_weights(weights)
    for layer in unet.modules():
        if isinstance(layer, nn.GroupNorm):
            layer.num_groups = preset.unet.groups  # ComfyUI builds all of them with 32
    if device.type == "cpu":
        unet.to(memory_format=torch.channels_last)  # makes convolutions 4 times faster
    return comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=offload)


def _check_widths(path: Path, config: UNetConfig, tensors: dict[str, Tensor]) -> None:
    """Raises CheckpointError if the configuration does not match the weights, before any memory is allocated for it."""
    widths = {"conv_in.weight": (config.channels[0], config.in_channels)}
    for i, channels in enumerate(config.channels):
        last = config.layers_per_block - 1
        widths[f"down_blocks.{i}.resnets.{last}.conv2.weight"] = (channels, channels)
        if i < len(config.attention) and config.attention[i]:
            attention = f"down_blocks.{i}.attentions.{last}.transformer_blocks.0.attn2.to_k.weight"
            widths[attention] = (channels, config.context_dim)
    for name, wanted in widths.items():
        found = tuple(tensors[name].shape[:2]) if name in tensors else "missing"
        if found != wanted:
            raise CheckpointError(f"{path} does not fit its own configuration: {name} is {found}, expected {wanted}")


# --- hooks in MODELs --------------------------------------------------------------------------------------------------


def check_unet(model: ModelPatcher, config: UNetConfig, what: str) -> None:
    """Raises ValueError if a MODEL's UNet does not have the architecture that a part was made for."""
    unet = model.get_model_object("diffusion_model")
    wanted = [channels for channels in reversed(config.channels) for _ in range(config.layers_per_block + 1)]
    if isinstance(unet, UNetModel):
        context = model.model.model_config.unet_config.get("context_dim")
        found = [block[0].out_channels for block in unet.output_blocks]
        if (found, context, unet.in_channels) == (wanted, config.context_dim, config.in_channels):
            return
        kind = f"a UNet with text {context} wide, {unet.in_channels} channels in and decoder channels {found}"
    else:
        kind = f"a {type(unet).__name__}"
    raise ValueError(
        f"{what} was made for a UNet with text {config.context_dim} wide, {config.in_channels} channels in and decoder "
        f"channels {wanted}; this MODEL is {kind}. Connect the MODEL that it was trained with: "
        "SeAda Load Model's for the embedded one, a Stable Diffusion 1.5 checkpoint's for SD1.5's"
    )


def check_latent_space(model: ModelPatcher, what: str) -> None:
    """Raises ValueError if a MODEL does not use SD1.5's latents."""
    latents = model.get_model_object("latent_format")
    if latents.latent_channels != 4 or latents.scale_factor != comfy.latent_formats.SD15().scale_factor:
        raise ValueError(
            f"{what} works on Stable Diffusion 1.5's latents, and this MODEL has {type(latents).__name__}'s; connect "
            "SeAda Load Model's MODEL or that of a Stable Diffusion 1.5 checkpoint"
        )


class Window:
    """The part of sampling from `start` to `end`, fractions as in ComfyUI's ControlNet nodes."""

    def __init__(self, model: ModelPatcher, start: float, end: float):
        if start > end:
            raise ValueError(f"start ({start}) must not be after end ({end})")
        sampling = model.get_model_object("model_sampling")
        self.first, self.last = sampling.percent_to_sigma(start), sampling.percent_to_sigma(end)

    def __contains__(self, sigma: Tensor) -> bool:
        return self.last <= float(sigma.max()) <= self.first


class Latents:
    """The latent of a step: its full (h, w), and the area (h, w, y, x) of conds that are limited to one."""

    def __init__(self, size: tuple[int, int], conds: list):
        self.size = size
        self.areas = {cond["uuid"]: cond["area"] for part in conds for cond in part or () if "area" in cond}


def _remember_latents(executor, model, conds, x_in, timestep, model_options):
    options = {**model_options.get("transformer_options", {}), LATENTS: Latents(tuple(x_in.shape[2:]), conds)}
    return executor(model, conds, x_in, timestep, {**model_options, "transformer_options": options})


def condition(pictures: Sized, x: Tensor, options: dict) -> Tensor:
    """The part of the pictures that belongs to each row of a UNet's input, (rows, C, 8h, 8w).

    ComfyUI runs several conds in one batch or separately, and limits some to an area of the latent.

    Args:
        pictures: returns (n, C, 8h, 8w) for a latent of (h, w); n is 1 or the number of latents.
        x: the UNet's input (rows, C, h, w).
        options: its transformer_options.
    """
    latents = options.get(LATENTS)
    chunks = options.get("uuids") or options.get("cond_or_uncond") or [None]
    count = len(x) // len(chunks)
    size = size_of(x)
    whole = rows(pictures(latents.size if latents else size), count, "the condition")
    parts = []
    for chunk in chunks:
        area = latents.areas.get(chunk) if latents else None
        if area is None:
            parts.append(whole)
        else:
            top, left = area[len(area) // 2 :][-2:]
            parts.append(whole[..., 8 * top : 8 * (top + size[0]), 8 * left : 8 * (left + size[1])])
    return torch.cat(parts).to(x)


def sized(gray: Tensor) -> Sized:
    """Grey pictures (n, 1, H, W) at 8 times a latent's size; the last size is cached for the next step."""

    @lru_cache(maxsize=1)
    def at(latent: tuple[int, int]) -> Tensor:
        check_shape(latent, size_of(gray))
        return resize(gray, (latent[0] * 8, latent[1] * 8))

    return at


def sized_hints(hint_map: Tensor) -> Sized:
    """Like `sized`, for a hint map (n, 3, H, W)."""

    @lru_cache(maxsize=1)
    def at(latent: tuple[int, int]) -> Tensor:
        return resize_hint_map(hint_map, (latent[0] * 8, latent[1] * 8))

    return at


@contextmanager
def after_blocks(unet: UNetModel, hook: Hook) -> Iterator[None]:
    """Within the context, h = hook(i, h) after decoder sub-block i, before any upsampling."""
    handles = []
    try:
        for i, block in enumerate(unet.output_blocks):
            last = [layer for layer in block if not isinstance(layer, Upsample)][-1]
            handles.append(last.register_forward_hook(lambda _, __, h, i=i: hook(i, h)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _add_control(control: dict | None, residuals: list[Tensor] | None) -> dict | None:
    """ComfyUI's ControlNet outputs, plus residuals for the skips in order and then the middle block."""
    if residuals is None:
        return control
    joined = {name: list(values) for name, values in (control or {}).items()}
    for name, ours in (("output", residuals[:-1]), ("middle", residuals[-1:])):
        theirs = joined.get(name, [])
        theirs = [None] * (len(ours) - len(theirs)) + theirs
        joined[name] = [a if b is None else a + b for a, b in zip(ours, theirs)]
    return joined


Enter = Callable[[Tensor, Tensor, Tensor, dict], "tuple[list[Tensor] | None, Hook]"]


def wrap_unet(model: ModelPatcher, enter: Enter, parts: list[ModelPatcher], start: float, end: float) -> ModelPatcher:
    """A clone of MODEL whose decoder is changed by a part; the original and ComfyUI's classes are not modified.

    Args:
        enter: called once per UNet call: (x, timesteps, context, transformer_options) to residuals and the hook of
            `after_blocks`.
        parts: models to load together with this one.
        start, end: see `Window`.
    """
    window = Window(model, start, end)

    def wrapper(executor, x, timesteps, context=None, y=None, control=None, transformer_options=None, **others):
        options = transformer_options or {}
        if "sigmas" in options and options["sigmas"] not in window:
            return executor(x, timesteps, context, y, control, options, **others)
        residuals, hook = enter(x, timesteps, context, options)
        with after_blocks(executor.class_obj, hook):
            return executor(x, timesteps, context, y, _add_control(control, residuals), options, **others)

    patched = model.clone()
    key = f"seada-{id(wrapper)}"
    patched.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, LATENTS, _remember_latents)
    patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, key, wrapper)
    patched.set_additional_models(key, parts)
    return patched


def guide(
    model: ModelPatcher, correct: Callable[[Tensor], Tensor], parts: list[ModelPatcher], start: float, end: float
) -> ModelPatcher:
    """A clone of MODEL whose scaled x0 (B, 4, h, w) is passed through `correct` at every step from `start` to `end`."""
    window = Window(model, start, end)

    def post_cfg(args: dict) -> Tensor:
        return correct(args["denoised"]) if args["sigma"] in window else args["denoised"]

    patched = model.clone()
    patched.set_model_sampler_post_cfg_function(post_cfg)
    patched.set_additional_models(f"seada-{id(post_cfg)}", parts)
    return patched
