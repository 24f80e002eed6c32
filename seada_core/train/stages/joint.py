"""Stage joint: L_total = L_diff + 0.1 L_CCD + 0.6 L_VQ (EDN Eq. 1), all at once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...color.spaces import luminance
from ...models import ccd
from ..batches import Batch
from ..draws import Draws
from .diffusion import DiffusionStage, add_noise, pick_texts, predict_x0, sample_timesteps
from .registry import StageSetup

CCD_WEIGHT, VQ_WEIGHT = 0.1, 0.6


class JointStage(DiffusionStage):
    """Controller, adapter and token diffusion together; the codec stays frozen, since both others live in its space.

    L_CCD is taken on the decoded x0 of Eq. 3 and weighted by alpha_bar_t: at high noise x0 is a poor estimate. Token
    diffusion is conditioned on the tokens of that same x0, the colour latent that the first step produces.

    Parts: unet, semantic_encoder, semantic_adapter, controlnet_rca, vq_decoder, token_diffusion.
    """

    def __init__(self, setup: StageSetup):
        super().__init__(setup)
        self.vq_decoder = setup.parts["vq_decoder"].requires_grad_(False)
        self.token_diffusion = setup.parts["token_diffusion"].requires_grad_(True)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        z, rgb = batch.latent, batch.rgb
        gray = luminance(rgb)
        draws = Draws(batch.seeds)
        context = self.context(pick_texts(batch, self.config, draws))
        noise = draws.normal(z)
        t = sample_timesteps(batch.uniform, self.config, self.schedule.train_steps)
        z_t = add_noise(self.schedule, z, noise, t)
        output = self.predict(z_t, t, context, gray.expand_as(rgb), batch.recognized).float()
        diffusion = self.errors(output, z, noise, z_t, t, rgb)["loss"]
        x0 = predict_x0(self.schedule, z_t, output, t)
        alpha_bar = self.schedule.alphas_cumprod.to(z.device)[t]
        terms = ccd.losses(self.vq_decoder.decode(x0, gray).float(), gray)
        guidance = (ccd.weighted(terms) * alpha_bar).mean()

        with torch.no_grad():
            features = self.vq_decoder.gray_features(gray)[-1].float()
            tokens = self.vq_decoder.encode_tokens(z, gray)
            z_tokens = self.vq_decoder.encode_tokens(x0.detach(), gray)
        vq = self.token_diffusion.loss(tokens, z_tokens, features, context.float(), generators=draws.generators)["loss"]
        return {
            "diffusion": diffusion,
            "ccd": guidance,
            "vq": vq,
            "loss": diffusion + CCD_WEIGHT * guidance + VQ_WEIGHT * vq,
        }

    def changing_buffers(self) -> list[Tensor]:
        return list(self.token_diffusion.buffers())

    def parts(self) -> dict[str, nn.Module]:
        return {**super().parts(), "token_diffusion": self.token_diffusion}


def build(setup: StageSetup) -> JointStage:
    return JointStage(setup)
