"""Every size and hyper-parameter, as frozen dataclasses: `mini` and `sd15`.

Nowhere else does the code ask which preset it runs: only these values differ.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field


@dataclass(frozen=True)
class TextConfig:
    """The semantic encoder SeEnc, a CLIP text model. Defaults: CLIP ViT-L/14's text tower, as in SD1.5."""

    vocab_size: int = 49408  # `mini` keeps only the tokens that its training captions use
    length: int = 77  # L, tokens per caption
    width: int = 768  # d, embedding width
    layers: int = 12
    heads: int = 12
    activation: str = "quick_gelu"


@dataclass(frozen=True)
class UNetConfig:
    """The denoising UNet, in diffusers' `UNet2DConditionModel` terms. Defaults: SD1.5."""

    channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int = 2
    attention: tuple[bool, ...] = (True, True, True, False)  # which resolutions have transformers
    heads: int = 8  # attention heads at every resolution (SD1.5)
    in_channels: int = 4
    context_dim: int = 768
    groups: int = 32


@dataclass(frozen=True)
class AdapterConfig:
    """The semantic adapter, SeAda Eq. 2, 3, 5. `query` and `mlp` switch part (c) off for ablation."""

    length: int = 77
    width: int = 768
    mlp_ratio: int = 4
    scale: float | None = None  # alpha of Eq. 3; None is sqrt(d)
    projections: bool = False
    query: bool = True  # the trainable embedding e_t and its attention
    mlp: bool = True


@dataclass(frozen=True)
class ControlConfig:
    """Mapper, conditional encoder and RCA. `sites`: "all" (after every decoder sub-block) or "blocks" (after each decoder block)."""

    condition_channels: int = 3
    mapper_channels: tuple[int, ...] = (16, 32, 64)
    sites: str = "all"
    head_dim: int = 64
    rca: bool = True
    additive: bool = False  # also add the residuals to the skips (PASD); literal SeAda does not


@dataclass(frozen=True)
class HintConfig:
    """The hint encoder of CCD's learned modulation."""

    channels: tuple[int, ...] = (32, 64, 96)  # stem widths at 1/2, 1/4, 1/8 of the picture


@dataclass(frozen=True)
class CodecConfig:
    """The luminance-aware VQ decoder, EDN Eq. 5."""

    latent_channels: int = 4
    codes: int = 1024  # K
    code_dim: int = 8
    channels: tuple[int, ...] = (24, 32, 64, 96)  # at 1, 1/2, 1/4, 1/8 of the picture
    blocks: tuple[int, ...] = (1, 1, 2, 3)


@dataclass(frozen=True)
class TokenConfig:
    """Mask-and-replace token diffusion, EDN Eq. 6."""

    codes: int = 1024  # K
    width: int = 192
    layers: int = 6
    heads: int = 6
    context_dim: int = 192
    steps: int = 100  # T
    gray_channels: int = 64
    auxiliary_weight: float = 5e-4


@dataclass(frozen=True)
class CaptionerConfig:
    """A CoCa (open_clip). Only the tiny one of `mini` is built from this; larger ones come from files."""

    image_size: int = 96
    vision_width: int = 192
    width: int = 192
    layers: int = 2
    heads: int = 4
    vocab_size: int = 4096
    length: int = 32
    embed_dim: int = 192


@dataclass(frozen=True)
class DiffusionConfig:
    """The noise schedule: SD1.5's scaled-linear betas; zero terminal SNR needs v-prediction."""

    train_steps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    prediction: str = "epsilon"  # or "v_prediction"
    zero_terminal_snr: bool = False


@dataclass(frozen=True)
class SamplingConfig:
    """What the pipeline does unless told otherwise."""

    steps: int = 50
    guidance: float = 5.0
    size: int = 512  # short side of the picture that is diffused, px


@dataclass(frozen=True)
class Preset:
    name: str
    text: TextConfig = field(default_factory=TextConfig)
    unet: UNetConfig = field(default_factory=UNetConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    control: ControlConfig = field(default_factory=ControlConfig)
    hint: HintConfig = field(default_factory=HintConfig)
    codec: CodecConfig = field(default_factory=CodecConfig)
    tokens: TokenConfig = field(default_factory=TokenConfig)
    captioner: CaptionerConfig = field(default_factory=CaptionerConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)


SD15 = Preset("sd15", tokens=TokenConfig(width=512, layers=12, heads=8, context_dim=768))

MINI = Preset(
    "mini",
    text=TextConfig(vocab_size=4096, length=32, width=192, layers=3, heads=4),
    unet=UNetConfig(
        channels=(64, 128, 256), layers_per_block=1, attention=(False, True, True), heads=4, context_dim=192
    ),
    adapter=AdapterConfig(length=32, width=192),
    control=ControlConfig(additive=True, head_dim=32),
    diffusion=DiffusionConfig(prediction="v_prediction", zero_terminal_snr=True),
    sampling=SamplingConfig(steps=20, guidance=2.0, size=192),
)

PRESETS = {preset.name: preset for preset in (MINI, SD15)}


def to_dict(config) -> dict:
    """A config as plain JSON-ready values."""
    return dataclasses.asdict(config)


def from_dict(cls, values: dict):
    """The inverse of `to_dict` for a flat config class: lists become tuples; unknown names raise TypeError."""
    return cls(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})
