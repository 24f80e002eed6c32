"""The noise schedule: the forward process z_t = sqrt(alpha_bar_t) z + sqrt(1 - alpha_bar_t) noise."""

from __future__ import annotations

import torch
from torch import Tensor

from ..presets import DiffusionConfig


class NoiseSchedule:
    """SD's betas, linear in their square roots, and trailing timesteps, so that sampling starts at the last one.

    The numbers are those of diffusers' `DDIMScheduler`, whose import takes seconds.

    Attributes:
        alphas_cumprod: alpha_bar_t (train_steps,) in float32. With zero terminal SNR (Lin et al. 2024, Algorithm 1) the
            last is 0.
    """

    def __init__(self, config: DiffusionConfig):
        self.train_steps, self.prediction = config.train_steps, config.prediction
        betas = torch.linspace(config.beta_start**0.5, config.beta_end**0.5, config.train_steps) ** 2
        if config.zero_terminal_snr:
            roots = torch.cumprod(1 - betas, dim=0).sqrt()
            first, last = roots[0].clone(), roots[-1].clone()
            alpha_bars = ((roots - last) * (first / (first - last))) ** 2
            betas = 1 - torch.cat([alpha_bars[:1], alpha_bars[1:] / alpha_bars[:-1]])
        self.alphas_cumprod = torch.cumprod(1 - betas, dim=0)

    def timesteps(self, steps: int) -> list[int]:
        """The timesteps of `steps` steps, from the noisiest down."""
        stride = self.train_steps / steps
        return [round(self.train_steps - i * stride) - 1 for i in range(steps)]

    def add_noise(self, z: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """z_t (B, 4, h, w) of latents and noise of that shape at timesteps (B,)."""
        signal, strength = self._signal_and_noise(z, t)
        return signal * z + strength * noise

    def velocity(self, z: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """v = sqrt(alpha_bar_t) noise - sqrt(1 - alpha_bar_t) z (Salimans and Ho 2022); shapes as for `add_noise`."""
        signal, strength = self._signal_and_noise(z, t)
        return signal * noise - strength * z

    def _signal_and_noise(self, z: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha_bar = self.alphas_cumprod.to(z)[t.to(z.device)].reshape(-1, 1, 1, 1)
        return alpha_bar**0.5, (1 - alpha_bar) ** 0.5
