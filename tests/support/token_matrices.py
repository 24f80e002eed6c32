"""Mask-and-replace diffusion written out as explicit (K + 1) x (K + 1) transition matrices, in float64."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from seada_core.models.token_diffusion import (
    TokenSchedule,
)
from seada_core.presets import TokenConfig

K, T = 7, 100


TINY = TokenConfig(codes=K, width=32, layers=2, heads=2, context_dim=12, steps=T, gray_channels=5)


def seeds(*numbers: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(n) for n in numbers]


@functools.cache
def one_step(schedule: TokenSchedule, t: int) -> Tensor:
    """Q_t[i, j] = q(x_t = j | x_{t-1} = i), written out from alpha_t, beta_t, gamma_t of the cumulative values."""
    k = schedule.num_codes
    alpha = (schedule.alpha_bar[t] / schedule.alpha_bar[t - 1]).item()
    gamma = 1 - ((1 - schedule.gamma_bar[t]) / (1 - schedule.gamma_bar[t - 1])).item()
    beta = (1 - alpha - gamma) / k
    rows = [[beta + alpha * (i == j) for j in range(k)] + [gamma] for i in range(k)]
    return torch.tensor([*rows, [0] * k + [1]], dtype=torch.float64)


def product(schedule: TokenSchedule, s: int, t: int) -> Tensor:
    """q(x_t | x_s), the product of single steps."""
    matrix = torch.eye(schedule.num_codes + 1, dtype=torch.float64)
    for step in range(s + 1, t + 1):
        matrix = matrix @ one_step(schedule, step)
    return matrix


def log_one_hot(codes: int) -> Tensor:
    """(codes, codes): row j is log of x_0 = j."""
    return torch.eye(codes, dtype=torch.float64).log()


def bayes(cumulative: list[Tensor], between: Tensor, s: int, t: int) -> Tensor:
    """q(x_s = k | x_t = m, x_0 = j) as (j, m, k), by Bayes on matrices."""
    joint = cumulative[s][:K, None, :] * between.T[None]  # q(k | j) q(m | k)
    return joint / cumulative[t][:K, :, None]
