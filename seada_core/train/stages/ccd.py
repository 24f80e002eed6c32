"""Stage ccd: the hint encoder learns to modulate a frozen, controlled UNet (EDN, learned modulation)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...color.spaces import luminance
from ...hints.maps import sample_point_hints, sample_superpixel_hints
from ..batches import Batch
from ..draws import Draws
from .diffusion import DiffusionStage, add_noise, pick_texts, sample_timesteps
from .registry import StageSetup


class CCDStage(DiffusionStage):
    """Only the hint encoder is trained; a quarter of a batch has revealed superpixels as hints, the rest few points.

    Parts: unet, semantic_encoder, semantic_adapter, controlnet_rca, hint_encoder.
    """

    def __init__(self, setup: StageSetup):
        super().__init__(setup)
        self.hint_encoder = setup.parts["hint_encoder"].requires_grad_(True)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        z, rgb = batch.latent, batch.rgb
        gray = luminance(rgb)
        draws = Draws(batch.seeds)
        with torch.no_grad():
            context = self.context(pick_texts(batch, self.config, draws))
            hints = self._hints(rgb, batch.places, draws)
        noise = draws.normal(z)
        t = sample_timesteps(batch.uniform, self.config, self.schedule.train_steps)
        z_t = add_noise(self.schedule, z, noise, t)
        features = self.hint_encoder.encode(gray, hints)
        hook = lambda i, h: self.hint_encoder.modulate(i, h, features)  # noqa: E731
        output = self.predict(z_t, t, context, gray.expand_as(rgb), batch.recognized, [hook]).float()
        return self.errors(output, z, noise, z_t, t, rgb)

    def _hints(self, rgb: Tensor, places: list[int], draws: Draws) -> Tensor:
        pictures = rgb.cpu().split(1)
        with torch.autocast("cpu", enabled=False):
            maps = [
                (sample_superpixel_hints if place % 4 == 0 else sample_point_hints)(picture, generator)
                for picture, place, generator in zip(pictures, places, draws.generators)
            ]
        return torch.cat(maps).to(rgb.device)

    def parts(self) -> dict[str, nn.Module]:
        return {"hint_encoder": self.hint_encoder}


def build(setup: StageSetup) -> CCDStage:
    return CCDStage(setup)
