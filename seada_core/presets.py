"""Every size and hyper-parameter, as frozen dataclasses: `mini` and `sd15`.

The rest of the code never checks which preset it runs: only these values differ.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from .settings import choice, setting

OPTIMIZERS = ("adamw", "adamw8bit", "sgd")  # see `train.memory.build_optimizer`

MOST_TOKENS = 4096  # of a text


@dataclass(frozen=True)
class TextConfig:
    """The semantic encoder SeEnc, a CLIP text model. Defaults: CLIP ViT-L/14's text tower, as in SD1.5."""

    vocab_size: int = setting(49408, "`mini` keeps only the tokens that its training captions use", high=2**20)
    length: int = setting(77, "L, tokens per caption", high=MOST_TOKENS)
    width: int = setting(768, "d, embedding width")
    layers: int = setting(12, high=128)
    heads: int = setting(12, high=1024)
    activation: str = setting("quick_gelu")


@dataclass(frozen=True)
class UNetConfig:
    """The denoising UNet, in diffusers' `UNet2DConditionModel` terms. Defaults: SD1.5."""

    channels: tuple[int, ...] = setting((320, 640, 1280, 1280))
    layers_per_block: int = setting(2, high=128)
    attention: tuple[bool, ...] = setting((True, True, True, False), "which resolutions have transformers")
    heads: int = setting(8, "attention heads at every resolution (SD1.5)", high=1024)
    in_channels: int = setting(4)
    context_dim: int = setting(768)
    groups: int = setting(32, high=1024)


@dataclass(frozen=True)
class VAEConfig:
    """The autoencoder of all latents. Defaults: Stable Diffusion 1.5's KL-f8; never trained here."""

    channels: tuple[int, ...] = setting((128, 256, 512, 512))
    layers_per_block: int = setting(2, high=128)
    latent_channels: int = setting(4)
    groups: int = setting(32, high=1024)
    scaling_factor: float = setting(0.18215)


@dataclass(frozen=True)
class AdapterConfig:
    """The semantic adapter, SeAda Eq. 2, 3, 5. `query` and `mlp` switch part (c) off for ablation."""

    length: int = setting(77, high=MOST_TOKENS)
    width: int = setting(768)
    mlp_ratio: int = setting(4, high=1024)
    scale: float | None = setting(None, "alpha of Eq. 3; None is sqrt(d)")
    projections: bool = setting(False)
    query: bool = setting(True, "the trainable embedding e_t and its attention")
    mlp: bool = setting(True)


@dataclass(frozen=True)
class ControlConfig:
    """Mapper, conditional encoder and RCA, after every decoder sub-block (`sites` "all") or every block ("blocks")."""

    condition_channels: int = setting(3)
    mapper_channels: tuple[int, ...] = setting((16, 32, 64))
    # not given in the paper; 4 channels are too few for a small model's features
    condition_latent: int = setting(4, "channels of c_f")
    recognition: bool = setting(False, "the mapper also takes a classifier's features of the picture")
    recognition_width: int = setting(128)
    recognition_blocks: int = setting(2, low=0, high=64)
    sites: str = choice("all", ("all", "blocks"))
    head_dim: int = setting(64, high=1024)
    rca: bool = setting(True)
    additive: bool = setting(False, "also add the residuals to the skips (PASD); literal SeAda does not")


@dataclass(frozen=True)
class HintConfig:
    """The hint encoder of CCD's learned modulation."""

    channels: tuple[int, ...] = setting((32, 64, 96), "stem widths at 1/2, 1/4, 1/8 of the picture")


@dataclass(frozen=True)
class AffinityConfig:
    """How far hints reach: see `models.affinity`."""

    width: int = setting(64)
    heads: int = setting(4, high=1024)
    dims: int = setting(16, "of a head's embeddings", high=1024)
    stem: int = setting(24, "width at 1/2 of the picture")
    size: int = setting(160, "short side of the photo that is embedded, px")


@dataclass(frozen=True)
class PeopleConfig:
    """People and what they wear: see `models.people`."""

    width: int = setting(64)
    size: int = setting(160, "short side of the photo that is looked at, px")


@dataclass(frozen=True)
class SceneryConfig:
    """Sky, water, grass and leaves: see `models.scenery`."""

    width: int = setting(64)
    size: int = setting(160, "short side of the photo that is looked at, px")


@dataclass(frozen=True)
class CodecConfig:
    """The luminance-aware VQ decoder, EDN Eq. 5. Tuples are by resolution: 1, 1/2, 1/4, 1/8 of the picture."""

    latent_channels: int = setting(4)
    codes: int = setting(1024, "K")
    code_dim: int = setting(
        4, "directions of the latent residual that the codebook distinguishes, at most `latent_channels`"
    )
    channels: tuple[int, ...] = setting((24, 64, 64, 64), "the decoder's widths; TAESD's are 64")
    blocks: tuple[int, ...] = setting((1, 3, 3, 5), "its residual blocks; TAESD's are 1, 3, 3, 3", low=0, high=64)
    gray_channels: tuple[int, ...] = setting((16, 32, 48, 64))
    gray_blocks: tuple[int, ...] = setting((0, 1, 1, 2), low=0, high=64)


@dataclass(frozen=True)
class TokenConfig:
    """Mask-and-replace token diffusion, EDN Eq. 6."""

    codes: int = setting(1024, "K")
    width: int = setting(192)
    layers: int = setting(6, high=128)
    heads: int = setting(6, high=1024)
    context_dim: int = setting(192)
    steps: int = setting(100, "T", high=100_000)
    gray_channels: int = setting(64, "of the decoder's grey features at 1/8: the last of codec.gray-channels")
    condition_dropout: float = setting(
        0.1, "text and z_c tokens are dropped this often, text alone as often again", low=0, high=1
    )
    auxiliary_weight: float = setting(5e-4)


@dataclass(frozen=True)
class CaptionerConfig:
    """A CoCa (open_clip). Only the tiny one of `mini` is built from this; larger ones come from files."""

    vocab_size: int = setting(
        4096, "at most: the tokenizer keeps only the tokens that its training captions use", high=2**20
    )
    length: int = setting(32, "tokens per caption", high=MOST_TOKENS)
    image_size: int = setting(96)
    recognition: bool = setting(False, "an ImageNet classifier as image encoder, in place of the next three")
    vision_channels: tuple[int, ...] = setting((32, 64, 128, 256), "at strides stem-stride, then twice that, ...")
    vision_blocks: tuple[int, ...] = setting((0, 1, 1, 1), "residual blocks at each", low=0, high=64)
    stem_stride: int = setting(4, high=1024)
    width: int = setting(128)
    text_layers: int = setting(1, high=128)
    decoder_layers: int = setting(2, high=128)
    heads: int = setting(4, high=1024)
    embed_dim: int = setting(128)


@dataclass(frozen=True)
class DiffusionConfig:
    """The noise schedule: SD1.5's scaled-linear betas; zero terminal SNR needs v-prediction."""

    train_steps: int = setting(1000, high=100_000)
    beta_start: float = setting(0.00085, low=0, high=1)
    beta_end: float = setting(0.012, low=0, high=1)
    prediction: str = choice("epsilon", ("epsilon", "v_prediction"))
    zero_terminal_snr: bool = setting(False)


@dataclass(frozen=True)
class SamplingConfig:
    """The pipeline's defaults."""

    steps: int = setting(50, high=100_000)
    guidance: float = setting(5.0, low=0, high=100)
    size: int = setting(512, "short side of the picture that is diffused, px", low=8, high=8192)
    saturation: float = setting(1.0, "factor on the model's chroma", low=0, high=10)
    purple: float = setting(1.0, "factor on the chroma of the model's purples, see `color.purple`", low=0, high=1)


MOST_STEPS = 10**9


@dataclass(frozen=True)
class TrainConfig:
    """One stage's recipe. Defaults: the papers' optimiser (AdamW, beta 0.9 / 0.999, learning rate 1e-5, batch 32)."""

    steps: int = setting(20_000, high=MOST_STEPS)
    minutes: float = setting(
        0.0,
        "minutes that a stage trains for, validation and checkpoints included, however many steps these are; --steps "
        "is then the most, if given, and --decay a share of the time; 0: no limit",
    )
    batch: int = setting(32, "pictures per step, over all processes")
    micro_batch: int = setting(
        0, "pictures that a process takes at once, accumulating gradients; 0: its whole share of a step", low=0
    )
    resolution: int = setting(512, "pictures are resized and cropped to this square, px")
    crop: int = setting(512, "side of the square that a step trains on, px")
    lr: float = setting(1e-5, "learning rate")
    warmup: int = setting(0, "steps of linear warm-up", low=0, high=10**9)
    decay: float = setting(
        0.0, "last share of the steps (or minutes) in which the learning rate falls linearly to zero", high=1
    )
    weight_decay: float = setting(1e-2)
    betas: tuple[float, float] = setting((0.9, 0.999), "AdamW's", low=0, high=1)
    clip: float = setting(1.0, "largest gradient norm")
    ema: float = setting(0.9999, "decay of the averaged weights, which are what is exported; 0 keeps none", high=1)
    optimizer: str = choice("adamw", OPTIMIZERS, "adamw8bit needs bitsandbytes")
    precision: str = choice(
        "auto",
        ("auto", "no", "bf16", "fp16"),
        "autocast; what is trained stays in fp32. auto: bf16 where the device computes it, else no",
    )
    frozen: str = choice("fp32", ("fp32", "bf16"), "how weights that are not trained are kept")
    gradient_checkpointing: bool = setting(
        False, "blocks run again for the backward pass instead of keeping their activations"
    )
    cache_text: bool = setting(
        False, "where the text encoder is frozen, encode every caption once and keep the results on disk"
    )
    empty_prob: float = setting(0.1, "captions dropped, for classifier-free guidance", high=1)
    color_prob: float = setting(0.0, "colour captions in place of grey ones", high=1)
    generic_prob: float = setting(0.0, 'captions replaced by "colored photo" and the like (EDN)', high=1)
    train_unet: bool = setting(False, "also train the UNet where the paper freezes it")
    lora: int = setting(
        0, "rank of a LoRA on the attention of the UNet's decoder, trained where the UNet is frozen; 0: none", low=0
    )
    timestep_shift: float = setting(1.0, "above 1: more of the noisy timesteps")
    condition_weight: float = setting(0.0, "weight of |c_f - z_0|^2")
    representation_weight: float = setting(1.0, "of L_r in stage I (SeAda Eq. 5, 6), and of its like in stage decide")
    chroma_weight: float = setting(0.0, "weight of the error in the colour that x0 shows")
    perceptual_weight: float = setting(0.0, "weight of the error in a classifier's features of that colour")
    recognition_dropout: float = setting(
        0.0, "share of the classifier's channels that are hidden from a picture's mapper", high=0.99
    )
    last_timestep_share: float = setting(
        0.0, "share of a step's pictures at the last timestep, where one-step sampling starts", high=0.99
    )
    adversarial_weight: float = setting(0.0, "weight of passing for true colours, in stage decide")
    discriminator_lr: float = setting(2e-4, "the discriminator's learning rate, in stage decide")
    learn_classifier: float = setting(
        0.0,
        "the mapper's classifier learns in stage decide, at this share of the learning rate; 0: it is frozen",
        high=1,
    )
    seed: int = setting(0, low=0, high=2**63 - 1)
    checkpoint_every: int = setting(1000, "steps", high=10**9)
    validate_every: int = setting(1000, "steps", high=10**9)


@dataclass(frozen=True)
class Preset:
    name: str
    text: TextConfig = field(default_factory=TextConfig)
    unet: UNetConfig = field(default_factory=UNetConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    control: ControlConfig = field(default_factory=ControlConfig)
    hint: HintConfig = field(default_factory=HintConfig)
    affinity: AffinityConfig = field(default_factory=AffinityConfig)
    people: PeopleConfig = field(default_factory=PeopleConfig)
    scenery: SceneryConfig = field(default_factory=SceneryConfig)
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
        "control": _SD15,  # not given in the SeAda paper, and not part of its 80 K steps
        "stage1": replace(_SD15, steps=20_000),
        "stage2": replace(_SD15, steps=50_000),
        "stage3": replace(_SD15, steps=10_000),
        # not in the papers, and not in the recipe below: for sampling in 1 to 4 steps
        "decide": replace(
            _SD15,
            steps=10_000,
            timestep_shift=3.0,
            last_timestep_share=0.5,
            chroma_weight=1.0,
            perceptual_weight=2.0,
            adversarial_weight=0.4,
            representation_weight=0.05,
        ),
        "decoder": replace(_SD15, steps=5_000),
        "ccd": replace(_SD15, steps=50_000, generic_prob=0.5),
        "affinity": replace(_SD15, steps=2_000, lr=1.5e-3),  # needs --control.recognition, and is not in the recipe
        # needs --control.recognition and photos with labels, and is not in the recipe
        "people": replace(_SD15, steps=2_000, lr=1e-3),
        "scenery": replace(_SD15, steps=2_000, lr=1e-3),  # needs --control.recognition, and is not in the recipe
        "tokens": replace(_SD15, steps=42_000),
        "joint": replace(_SD15, steps=10_000),
    },
    # Stable Diffusion and a captioner are not trained
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
        channels=(64, 128, 128), layers_per_block=1, attention=(False, True, True), heads=4, context_dim=192, groups=4
    ),
    adapter=AdapterConfig(length=32, width=192),
    control=ControlConfig(mapper_channels=(24, 48, 96), condition_latent=32, recognition=True, additive=True),
    diffusion=DiffusionConfig(prediction="v_prediction", zero_terminal_snr=True),
    codec=CodecConfig(codes=2048, channels=(24, 64, 96, 128), blocks=(1, 3, 3, 6)),
    tokens=TokenConfig(codes=2048, width=96, layers=4, heads=4),
    affinity=AffinityConfig(width=96, heads=6),
    captioner=CaptionerConfig(image_size=192, recognition=True),
    sampling=SamplingConfig(steps=1, guidance=1.0, size=192, saturation=1.2, purple=0.5),
    training={
        "captioner": replace(_MINI, steps=1500, batch=96, lr=1.5e-3, warmup=60, decay=0.9, ema=0.98, weight_decay=0.05),
        "codec": replace(
            # whole pictures: the receptive field is 90 px, and training only near borders oversaturates the interior
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
        "control": replace(_MINI, steps=600),
        "stage1": replace(_MINI, steps=60, lr=2e-4, train_unet=False),
        "stage2": replace(_MINI, steps=500),
        "stage3": replace(_MINI, steps=1700, decay=0.4),
        "decide": replace(
            _MINI,
            steps=1500,
            batch=32,
            resolution=144,
            crop=144,
            lr=2e-4,
            decay=0.5,
            weight_decay=0.05,
            empty_prob=0.3,
            color_prob=0.65,
            timestep_shift=5.0,
            perceptual_weight=2.0,
            recognition_dropout=0.1,
            last_timestep_share=0.5,
            adversarial_weight=0.5,
            representation_weight=0.05,
            learn_classifier=0.2,
        ),
        "decoder": replace(_MINI, steps=150, batch=16, lr=3e-4, warmup=10, decay=0.7),
        "ccd": replace(
            _MINI, steps=2500, batch=32, lr=1e-3, warmup=20, decay=0.7, ema=0.998, train_unet=False, generic_prob=0.5
        ),
        "affinity": replace(
            _MINI,
            steps=1200,
            batch=24,
            resolution=144,
            crop=144,
            lr=1.5e-3,
            warmup=50,
            decay=0.6,
            ema=0.998,
            train_unet=False,
            empty_prob=1.0,
        ),
        # needs photos with labels, and is not in the recipe
        "people": replace(
            _MINI, steps=3000, batch=24, resolution=144, crop=144, lr=2e-3, warmup=200, decay=0.6, ema=0.995
        ),
        "scenery": replace(
            _MINI, steps=1500, batch=24, resolution=144, crop=144, lr=2e-3, warmup=100, decay=0.6, ema=0.995
        ),
        "tokens": replace(_MINI, steps=450, batch=32, lr=1e-3, warmup=20, decay=0.7),
        "joint": replace(_MINI, steps=100, batch=16, lr=5e-5, warmup=10),
    },
    recipe=(
        "captioner",
        "codec",
        "base",
        "control",
        "stage1",
        "stage2",
        "stage3",
        "decide",
        "decoder",
        "ccd",
        "affinity",
        "scenery",
        "tokens",
        "joint",
    ),
)

PRESETS = {preset.name: preset for preset in (MINI, SD15)}
