"""Stage decoder: the luminance-aware VQ decoder learns the latents that the diffusion model predicts."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from ...color.spaces import luminance, rgb_to_ycbcr
from ..batches import Batch
from ..draws import Draws
from .codec import reconstruction, weighted
from .diffusion import DiffusionStage, pick_texts, predict_x0
from .registry import STAGES, StageSetup
from .stage import Stage


class DecoderStage(Stage):
    """The decoder is trained on the diffusion model's own latents; everything else is frozen.

    A latent that a small model predicts is smoother than a true one, and where its luminance is off, a decoder that was
    trained on true latents alone turns the error into a false colour. Half of a batch is decoded from x0 of one step
    from pure noise, the other half from its true latents, so that the decoder stays good at those; the loss is
    `CodecStage`'s. Codebook and grey encoder are frozen, so tokens keep their meaning.

    Parts: unet, semantic_encoder, semantic_adapter, controlnet_rca, vq_decoder.
    """

    def __init__(self, setup: StageSetup):
        super().__init__()
        self.config = setup.config
        self.diffusion = DiffusionStage(replace(setup, entry=STAGES["stage3"])).requires_grad_(False)
        self.codec = setup.parts["vq_decoder"].requires_grad_(False)
        self.codec.decoder.requires_grad_(True)

    @torch.no_grad()
    def first_step(self, batch: Batch) -> Tensor:
        """x0 (B, 4, h, w) as one sampling step from pure noise gives it."""
        draws = Draws(batch.seeds)
        gray, z = luminance(batch.rgb), draws.normal(batch.latent)
        schedule, first = self.diffusion.schedule, self.diffusion
        t = torch.full((len(z),), schedule.train_steps - 1, device=z.device)
        context = first.context(pick_texts(batch, self.config, draws))
        output = first.predict(z, t, context, gray.expand_as(batch.rgb), batch.recognized).float()
        return predict_x0(schedule, z, output, t)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        batch = batch.in_halves()
        half = len(batch.rgb) // 2
        target = rgb_to_ycbcr(batch.rgb)
        z = torch.cat([self.first_step(batch.rows(0, half)), batch.latent[half:]])
        _, mse, losses = reconstruction(self.codec.chroma(z, target[:, :1]).float(), target[:, 1:])
        losses["loss"] = weighted(losses)
        gray_mse = reconstruction(torch.zeros_like(target[:half, 1:]), target[:half, 1:])[1]
        losses["predicted"] = mse[:half].detach().mean() / gray_mse.mean()  # share of the error of plain grey
        losses["psnr"] = -10 * mse[half:].detach().mean().log10()
        return losses

    def preview(self, batch: Batch) -> dict[str, Tensor]:
        gray = luminance(batch.rgb)
        predicted = self.codec.decode(self.first_step(batch), gray)
        return {"one_step": predicted, "decode": self.codec.decode(batch.latent, gray)}

    def parts(self) -> dict[str, nn.Module]:
        return {"vq_decoder": self.codec}


def build(setup: StageSetup) -> DecoderStage:
    return DecoderStage(setup)
