"""Stage tokens: mask-and-replace diffusion learns to repair the tokens of an imperfect colour latent (EDN Eq. 6)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...color.spaces import luminance, rgb_to_ycbcr
from ...presets import TrainConfig
from ..batches import Batch
from ..draws import Draws
from .diffusion import pick_texts
from .registry import Parts, StageSetup
from .stage import Stage

# How a scaled SD1.5 latent moves with the mean (Cb, Cr) of its 8x8 pixels: least squares over TAESD latents of 48
# training photos and of the same photos with their chroma halved. It explains 23 to 56 % of each channel's
# variance, enough for a realistic corruption.
CHROMA_TO_LATENT = ((-1.63, 1.06), (-2.86, -0.35), (-0.55, -5.48), (-4.89, -1.31))


RIGHT = 0.25  # share of the first steps that are as they should be


def severities(draws: Draws) -> Tensor:
    """(B,) in [0, 1): 0 for `RIGHT` of the pictures, and small ones more often than large ones for the rest."""
    return ((draws.uniform() - RIGHT) / (1 - RIGHT)).clamp_min(0) ** 2


def corrupt(z: Tensor, rgb: Tensor, severity: Tensor, draws: Draws) -> Tensor:
    """A latent like those of the first diffusion step: right in structure, uncertain and uneven in colour.

    In this order: chroma blurred over 5x5 latent cells by up to `severity`, scaled by 1 - severity to 1 + severity / 4
    (a diffusion model mutes colours more often than it exaggerates them), and shifted by a smooth random drift of up to
    0.06 `severity` (rms, of chroma's [-0.5, 0.5]); the latent blurred over 3x3 cells by up to half of `severity`;
    Gaussian noise of up to 0.25 `severity`. Chroma moves the latent linearly, see `CHROMA_TO_LATENT`.

    z: (B, 4, h, w) of the true picture rgb (B, 3, H, W); severity: (B,) in [0, 1], 0 returns z unchanged.
    """
    batch, _, height, width = z.shape
    severity = severity.to(z)[:, None, None, None]
    chroma = F.adaptive_avg_pool2d(rgb_to_ycbcr(rgb)[:, 1:], (height, width)).to(z)

    def uniform() -> Tensor:
        return draws.uniform(1, 1, 1, device=z.device).to(z)

    def amount() -> Tensor:
        return severity * uniform()

    def blur(x: Tensor, size: int) -> Tensor:
        return F.avg_pool2d(F.pad(x, (size // 2,) * 4, mode="replicate"), size, stride=1)

    coarse = draws.normal(z.new_empty(batch, 2, height // 8 + 2, width // 8 + 2))
    drift = 0.06 * amount() * F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=True)
    changed = torch.lerp(chroma, blur(chroma, 5), amount())
    changed = changed * (1 + severity * (1.25 * uniform() - 1)) + drift
    z = z + torch.einsum("dc,bchw->bdhw", torch.tensor(CHROMA_TO_LATENT).to(z), changed - chroma)
    z = torch.lerp(z, blur(z, 3), amount() / 2)
    return z + 0.25 * amount() * draws.normal(z)


class TokensStage(Stage):
    """Token diffusion in the space of the frozen codec, conditioned on its grey features and the frozen text parts.

    A training pair: x0, the tokens of the true colour latent, and z_tokens, those of the same latent `corrupt`ed at a
    severity of each picture's own (`severities`), so that the network learns to trust a good first step and to repair a
    bad one. In the joint stage the first step itself makes z_tokens.

    Args:
        parts: vq_decoder, semantic_encoder, semantic_adapter, token_diffusion; only the last is trained.
    """

    def __init__(self, parts: Parts, config: TrainConfig):
        super().__init__()
        self.config = config
        self.codec = parts["vq_decoder"].requires_grad_(False)
        self.semantic_encoder = parts["semantic_encoder"].requires_grad_(False)
        self.semantic_adapter = parts["semantic_adapter"].requires_grad_(False)
        self.token_diffusion = parts["token_diffusion"].requires_grad_(True)
        wanted, found = self.token_diffusion.config, self.codec.config
        if (wanted.codes, wanted.gray_channels) != (found.codes, found.gray_channels[-1]):
            raise ValueError(
                f"token_diffusion is made for {wanted.codes} codes and {wanted.gray_channels} grey channels, but "
                f"vq_decoder has {found.codes} and {found.gray_channels[-1]}: set `tokens` to match `codec`"
            )

    @torch.no_grad()
    def pair(self, batch: Batch, draws: Draws) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x0 (B, N), z_tokens (B, N), grey features (B, C, h, w) and context (B, L, d) of a batch."""
        z, rgb = batch.latent, batch.rgb
        gray = luminance(rgb)
        with torch.autocast(z.device.type, enabled=False):  # in float32, as at inference: codes lie close together
            z = z.float()
            x0 = self.codec.encode_tokens(z, gray)
            z_tokens = self.codec.encode_tokens(corrupt(z, rgb, severities(draws).to(z.device), draws), gray)
            features = self.codec.gray_features(gray)[-1]
        context = self.semantic_adapter(self.semantic_encoder(pick_texts(batch, self.config, draws))[0])
        return x0, z_tokens, features, context

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        draws = Draws(batch.seeds)
        x0, z_tokens, features, context = self.pair(batch, draws)
        terms = self.token_diffusion.loss(x0, z_tokens, features, context, generators=draws.generators)
        return {**terms, "z_accuracy": (z_tokens == x0).float().mean()}

    def preview(self, batch: Batch) -> dict[str, Tensor]:
        """Decoded: the corrupted latent's tokens, the same refined by 20 steps of diffusion, and the true tokens."""
        x0, z_tokens, features, context = self.pair(batch, Draws(batch.seeds))
        generators = [torch.Generator().manual_seed(i) for i in range(len(x0))]
        steps = min(20, self.token_diffusion.config.steps)
        refined = self.token_diffusion.sample(z_tokens, features, context, steps, generators)
        gray = luminance(batch.rgb)
        tokens = {"first_step": z_tokens, "refined": refined, "codes": x0}
        return {name: self.codec.decode_tokens(t, gray) for name, t in tokens.items()}

    def changing_buffers(self) -> list[Tensor]:
        return list(self.token_diffusion.buffers())

    def parts(self) -> dict[str, nn.Module]:
        return {"token_diffusion": self.token_diffusion}


def build(setup: StageSetup) -> TokensStage:
    return TokensStage(setup.parts, setup.config)
