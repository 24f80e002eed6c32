"""Schedules of token diffusion."""

from __future__ import annotations

import pytest
import torch
from token_matrices import K, T, one_step
from torch import Tensor

from seada_core.models.token_diffusion import (
    TokenSchedule,
)


@pytest.fixture(scope="module")
def schedule() -> TokenSchedule:
    return TokenSchedule(K, T)


@pytest.fixture(scope="module")
def cumulative(schedule) -> list[Tensor]:
    matrices = [torch.eye(K + 1, dtype=torch.float64)]
    for t in range(1, T + 1):
        matrices.append(matrices[-1] @ one_step(schedule, t))
    return matrices
