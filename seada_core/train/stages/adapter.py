"""Stage I: the semantic adapter and the text encoder learn to encode grey captions as colour captions (SeAda)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from ...models.semantic_adapter import SemanticAdapter, representation_loss
from ..batches import Batch
from ..draws import Draws
from .diffusion import DiffusionStage, add_noise, sample_timesteps
from .registry import StageSetup


class AdapterStage(DiffusionStage):
    """Part (a): diffusion on the colour photo as the condition. Part (b): the representation loss between grey captions
    and colour captions, which a frozen copy of the text encoder encodes. Eq. 6 is their sum.

    Parts: unet, semantic_encoder, controlnet_rca, semantic_adapter.
    """

    semantic_adapter: SemanticAdapter

    def __init__(self, setup: StageSetup):
        super().__init__(setup)
        self.color_encoder = copy.deepcopy(self.semantic_encoder).requires_grad_(False)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        draws = Draws(batch.seeds)
        e_g, mask = self.semantic_encoder(batch.captions)
        with torch.no_grad():
            e_c, color_mask = self.color_encoder(batch.color_captions)
        terms = {"representation": representation_loss(e_g.float(), e_c.float(), mask | color_mask)}
        keep = (draws.uniform(1, 1, device=e_g.device) >= self.config.empty_prob).to(e_g.dtype)
        context = self.semantic_adapter(keep * e_g + (1 - keep) * self.semantic_encoder([""])[0])
        z, rgb = batch.latent, batch.rgb
        noise = draws.normal(z)
        t = sample_timesteps(batch.uniform, self.config, self.schedule.train_steps)
        z_t = add_noise(self.schedule, z, noise, t)
        output = self.predict(z_t, t, context, rgb).float()
        terms |= self.errors(output, z, noise, z_t, t, rgb)
        # Eq. 6, as printed
        terms["loss"] = self.config.representation_weight * terms["representation"] + 0.5 * terms["loss"]
        return terms


def build(setup: StageSetup) -> AdapterStage:
    return AdapterStage(setup)
