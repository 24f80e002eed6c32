"""Every size and hyper-parameter, as frozen dataclasses: `mini` and `sd15`.

Nowhere else does the code ask which preset it runs: only these values differ.
"""

from __future__ import annotations

import dataclasses
import reprlib
from dataclasses import dataclass, field, replace
from typing import get_args, get_origin, get_type_hints

HINT_METHODS = ("modulation", "guidance", "propagation")  # see `Colorizer.chroma`
SCHEDULERS = ("ddim", "unipc", "dpm++")  # see `sampling.solver`


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
class VAEConfig:
    """The autoencoder whose latents everything works in. Defaults: Stable Diffusion 1.5's KL-f8; never trained here."""

    channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    latent_channels: int = 4
    groups: int = 32
    scaling_factor: float = 0.18215


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
    """Mapper, conditional encoder and RCA, after every decoder sub-block (`sites` "all") or every block ("blocks")."""

    condition_channels: int = 3
    mapper_channels: tuple[int, ...] = (16, 32, 64)
    condition_latent: int = 4  # channels of c_f; the paper names none, and four are few for a small model's eyes
    recognition: bool = False  # the mapper also sees a classifier's features of the picture, see `RecognizingMapper`
    recognition_size: int = 0  # which EfficientNet-Lite: 0, 1 or 2
    recognition_width: int = 128
    recognition_blocks: int = 2
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
    """The luminance-aware VQ decoder, EDN Eq. 5. Tuples are by resolution: 1, 1/2, 1/4, 1/8 of the picture."""

    latent_channels: int = 4
    codes: int = 1024  # K
    code_dim: int = 4  # directions of the latent residual that the codebook sees, at most `latent_channels`
    channels: tuple[int, ...] = (24, 64, 64, 64)  # the decoder's widths; TAESD's are 64
    blocks: tuple[int, ...] = (1, 3, 3, 5)  # its residual blocks; TAESD's are 1, 3, 3, 3
    gray_channels: tuple[int, ...] = (16, 32, 48, 64)
    gray_blocks: tuple[int, ...] = (0, 1, 1, 2)


@dataclass(frozen=True)
class TokenConfig:
    """Mask-and-replace token diffusion, EDN Eq. 6."""

    codes: int = 1024  # K
    width: int = 192
    layers: int = 6
    heads: int = 6
    context_dim: int = 192
    steps: int = 100  # T
    gray_channels: int = 64  # of the decoder's grey features at 1/8: the last of `CodecConfig.gray_channels`
    condition_dropout: float = 0.1  # text and z_c tokens dropped this often, text alone as often again
    auxiliary_weight: float = 5e-4


@dataclass(frozen=True)
class CaptionerConfig:
    """A CoCa (open_clip). Only the tiny one of `mini` is built from this; larger ones come from files."""

    vocab_size: int = 4096  # at most: the tokenizer keeps only the tokens that its training captions use
    length: int = 32  # tokens per caption
    image_size: int = 96
    recognition: bool = False  # an ImageNet classifier as image encoder, in place of the next three
    vision_channels: tuple[int, ...] = (32, 64, 128, 256)  # at strides stem_stride, then twice that, ...
    vision_blocks: tuple[int, ...] = (0, 1, 1, 1)  # residual blocks at each
    stem_stride: int = 4
    width: int = 128
    text_layers: int = 1
    decoder_layers: int = 2
    heads: int = 4
    embed_dim: int = 128


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
    saturation: float = 1.0  # factor on the model's chroma


@dataclass(frozen=True)
class TrainConfig:
    """One stage's recipe. Defaults: the papers' optimiser (AdamW, beta 0.9 / 0.999, learning rate 1e-5, batch 32)."""

    steps: int = 20_000
    batch: int = 32  # pictures a step, over all processes
    micro_batch: int = 0  # pictures that a process takes at once, accumulating gradients; 0: its whole share of a step
    resolution: int = 512  # pictures are resized and cropped to this square, px
    crop: int = 512  # what a step sees of it, px
    lr: float = 1e-5
    warmup: int = 0  # steps of linear warm-up
    decay: float = 0.0  # last share of the steps in which the learning rate falls linearly to zero
    weight_decay: float = 1e-2
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float = 1.0  # largest gradient norm
    ema: float = 0.9999  # decay of the averaged weights, which are what is exported; 0 keeps none
    optimizer: str = "adamw"  # "adamw", "adamw8bit" (bitsandbytes) or "sgd"
    precision: str = "bf16"  # "no", "bf16" or "fp16" autocast; what is trained stays in fp32
    frozen: str = "fp32"  # "fp32" or "bf16": how weights that are not trained are kept
    gradient_checkpointing: bool = False  # blocks run again for the backward pass instead of being remembered
    cache_text: bool = False  # where the text encoder is frozen, encode every caption once and keep that on disk
    empty_prob: float = 0.1  # captions dropped, for classifier-free guidance
    color_prob: float = 0.0  # colour captions in place of grey ones
    generic_prob: float = 0.0  # captions replaced by "colored photo" and the like (EDN)
    train_unet: bool = False  # also train the UNet where the paper freezes it
    lora: int = 0  # rank of a LoRA on the attention of the UNet's decoder, trained where the UNet is frozen; 0: none
    timestep_shift: float = 1.0  # above 1: more of the noisy timesteps
    condition_weight: float = 0.0  # weight of |c_f - z_0|^2, see `DiffusionStage.errors`
    representation_weight: float = 1.0  # of L_r in stage I (SeAda Eq. 5, 6)
    chroma_weight: float = 0.0  # weight of the error in the colour that x0 shows, see `DiffusionStage.errors`
    perceptual_weight: float = 0.0  # weight of what a classifier makes of that colour, see `DiffusionStage.errors`
    recognition_dropout: float = 0.0  # share of the classifier's channels that a picture's mapper does not see
    seed: int = 0
    checkpoint_every: int = 1000
    validate_every: int = 1000


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
    training: dict[str, TrainConfig] = field(default_factory=dict)
    recipe: tuple[str, ...] = ()  # the stages that `train all` runs, in order


_SD15 = TrainConfig(micro_batch=8, frozen="bf16")

SD15 = Preset(
    "sd15",
    tokens=TokenConfig(width=512, layers=12, heads=8, context_dim=768),
    training={
        "captioner": _SD15,
        "codec": replace(_SD15, steps=44_000, crop=256),  # EDN, Table 3, as tokens' 42 000
        "base": replace(_SD15, train_unet=True),
        "mapper": _SD15,  # not in the recipe: for mappers with room for colour
        "control": _SD15,  # SeAda names no number for this one; it is outside of its 80 K
        "stage1": replace(_SD15, steps=20_000),
        "stage2": replace(_SD15, steps=50_000),
        "stage3": replace(_SD15, steps=10_000),
        "decoder": replace(_SD15, steps=5_000),
        "ccd": replace(_SD15, steps=50_000, generic_prob=0.5),
        "tokens": replace(_SD15, steps=42_000),
        "joint": replace(_SD15, steps=10_000),
    },
    # Stable Diffusion and a captioner are given
    recipe=("codec", "control", "stage1", "stage2", "stage3", "decoder", "ccd", "tokens", "joint"),
)

_MINI = TrainConfig(
    batch=64, resolution=96, crop=96, lr=6e-4, warmup=100, ema=0.999, empty_prob=0.3, color_prob=0.2,
    train_unet=True, timestep_shift=3.0, condition_weight=0.5, chroma_weight=1.0,
    checkpoint_every=100, validate_every=200,
)  # fmt: skip

MINI = Preset(
    "mini",
    text=TextConfig(vocab_size=4096, length=32, width=192, layers=3, heads=4),
    unet=UNetConfig(
        channels=(64, 128, 128), layers_per_block=1, attention=(False, False, True), heads=4, context_dim=192, groups=4
    ),
    adapter=AdapterConfig(length=32, width=192),
    control=ControlConfig(mapper_channels=(24, 48, 96), condition_latent=32, recognition=True, additive=True),
    diffusion=DiffusionConfig(prediction="v_prediction", zero_terminal_snr=True),
    tokens=TokenConfig(width=96, layers=4, heads=4),
    captioner=CaptionerConfig(image_size=192, recognition=True),
    sampling=SamplingConfig(steps=1, guidance=1.0, size=144, saturation=1.4),
    training={
        "captioner": replace(_MINI, steps=1500, batch=96, lr=1.5e-3, warmup=60, decay=0.9, ema=0.98, weight_decay=0.05),
        "codec": replace(
            # whole pictures: the decoder looks 90 px around, and one that only knows borders overstates colour inside
            _MINI,
            steps=6000,
            batch=8,
            resolution=144,
            crop=144,
            lr=4e-4,
            warmup=50,
            decay=1.0,
            ema=0.998,
            validate_every=500,
        ),
        "base": replace(_MINI, steps=100),
        "mapper": replace(
            _MINI,
            steps=2000,
            batch=32,
            resolution=144,
            crop=144,
            lr=3e-4,
            decay=1.0,
            ema=0.998,
            weight_decay=0.05,
            recognition_dropout=0.25,
        ),
        "control": replace(_MINI, steps=600),
        "stage1": replace(_MINI, steps=60, lr=2e-4, train_unet=False),
        "stage2": replace(_MINI, steps=500),
        "stage3": replace(_MINI, steps=1700, decay=0.4),
        "decoder": replace(_MINI, steps=150, batch=16, lr=3e-4, warmup=10, decay=0.7),
        "ccd": replace(
            _MINI, steps=2500, batch=32, lr=1e-3, warmup=20, decay=0.7, ema=0.998, train_unet=False, generic_prob=0.5
        ),
        "tokens": replace(_MINI, steps=450, batch=32, lr=1e-3, warmup=20, decay=0.7),
        "joint": replace(_MINI, steps=100, batch=16, lr=5e-5, warmup=10),
    },
    recipe=(
        "captioner",
        "codec",
        "base",
        "mapper",
        "control",
        "stage1",
        "stage2",
        "stage3",
        "decoder",
        "ccd",
        "tokens",
        "joint",
    ),
)

PRESETS = {preset.name: preset for preset in (MINI, SD15)}


def to_dict(config) -> dict:
    """A config as plain JSON-ready values."""
    return dataclasses.asdict(config)


def from_dict(cls, values: dict):
    """The inverse of `to_dict` for a flat config class, of values that nobody vouches for: lists become tuples.

    Raises:
        TypeError: unknown names, or values of another type.
        ValueError: values that no model has, see `LIMITS`.
    """
    if not isinstance(values, dict):
        raise TypeError(f"{cls.__name__} is {reprlib.repr(values)}, expected an object")
    kinds = get_type_hints(cls)
    unknown = sorted(values.keys() - kinds.keys())
    if unknown:
        raise TypeError(f"{cls.__name__} has no field {reprlib.repr(unknown[0])}")
    return cls(**{name: _checked(name, kinds[name], value) for name, value in values.items()})


SEQUENCE = 16  # most entries of a tuple
LIMIT = 2**16  # of every whole number but these
LIMITS = {
    "vocab_size": (1, 2**20),
    "length": (1, 4096),
    **dict.fromkeys(("layers", "layers_per_block", "text_layers", "decoder_layers"), (1, 128)),
    **dict.fromkeys(("blocks", "gray_blocks", "vision_blocks", "recognition_blocks"), (0, 64)),
    **dict.fromkeys(("heads", "groups", "head_dim", "stem_stride", "mlp_ratio"), (1, 1024)),
    "recognition_size": (0, 2),
    "train_steps": (1, 100_000),
    "steps": (1, 100_000),
    "size": (8, 8192),
    "guidance": (0, 100),
    "saturation": (0, 10),
    **dict.fromkeys(("beta_start", "beta_end", "condition_dropout"), (0, 1)),
}
CHOICES = {"prediction": ("epsilon", "v_prediction"), "sites": ("all", "blocks")}


def _checked(name: str, kind, value):
    """A field's value of its type, within its limits."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is tuple:
        if not isinstance(value, list | tuple) or not 1 <= len(value) <= SEQUENCE:
            raise TypeError(f"{name} is {reprlib.repr(value)}, expected 1 to {SEQUENCE} values")
        return tuple(_checked(name, inner[0], entry) for entry in value)
    if type(None) in inner:
        return None if value is None else _checked(name, inner[0], value)
    if isinstance(value, bool) != (kind is bool) or not isinstance(value, int | float if kind is float else kind):
        raise TypeError(f"{name} is {reprlib.repr(value)}, expected {kind.__name__}")
    if kind in (int, float):
        low, high = LIMITS.get(name, (kind is int, LIMIT))
        if not low <= value <= high:
            raise ValueError(f"{name} is {reprlib.repr(value)}, expected {low:d} to {high}")
    if value not in CHOICES.get(name, (value,)):
        raise ValueError(f"{name} is {reprlib.repr(value)}, expected one of {', '.join(CHOICES[name])}")
    return value
