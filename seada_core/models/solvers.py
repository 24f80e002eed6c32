"""Steps of DDIM, DPM-Solver++ and UniPC from x0 estimates, with every coefficient a number known before the loop.

diffusers' solvers compute them on the device at each step, some fifty operations, and wait for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from ..choices import SCHEDULERS

if TYPE_CHECKING:
    from .schedule import NoiseSchedule

Step = Callable[[Tensor, int, Tensor], Tensor]  # (x0, timestep t, x_t) -> x at the timestep after t

_LEAST_ALPHA_BAR = 2**-24  # diffusers' for the multistep solvers, which need its logarithm


def combine(*terms: tuple[float, Tensor]) -> Tensor:
    """The sum of factors times tensors; terms of factor 0 are skipped, so that they need not be finite."""
    (factor, total), *rest = [(factor, x) for factor, x in terms if factor] or terms[:1]
    if factor != 1:
        total = total * factor
    for factor, x in rest:
        total = total.add(x, alpha=factor)
    return total


def solver(name: str, schedule: NoiseSchedule, steps: int) -> Step:
    """The function that steps from each of the schedule's timesteps to the next, and from the last to x0.

    Args:
        name: "ddim" (Song et al. 2021, deterministic), "unipc" (UniPC-2 with B(h) = e^h - 1, Zhao et al. 2023) or
            "dpm++" (DPM-Solver++ 2M, Lu et al. 2022).
        schedule: the noise schedule.
    Raises:
        ValueError: no such solver.
    """
    if name not in SCHEDULERS:
        raise ValueError(f"unknown scheduler {name!r}; choose among {', '.join(SCHEDULERS)}")
    alpha_bars, timesteps = schedule.alphas_cumprod.tolist(), schedule.timesteps(steps)
    levels = [alpha_bars[t] for t in timesteps]
    if name == "ddim":
        return _DDIM(timesteps, levels).step
    kind: type[_DPMSolver | _UniPC] = _UniPC if name == "unipc" else _DPMSolver
    return kind(timesteps, [max(level, _LEAST_ALPHA_BAR) for level in levels]).step


class _Solver:
    """Signal and noise at each timestep and at the end, and half the logarithm of their squared ratio."""

    def __init__(self, timesteps: list[int], alpha_bars: list[float]):
        self.index = {t: i for i, t in enumerate(timesteps)}
        self.signal = [a**0.5 for a in alpha_bars] + [1.0]
        self.noise = [(1 - a) ** 0.5 for a in alpha_bars] + [0.0]

    def _first_order(self, i: int) -> tuple[float, float]:
        """The factors of x and x0 that step i's first-order part has, exact for a constant x0."""
        ratio = self.noise[i + 1] / self.noise[i]
        return ratio, self.signal[i + 1] - ratio * self.signal[i]


class _DDIM(_Solver):
    def step(self, x0: Tensor, t: int, x: Tensor) -> Tensor:
        kept, new = self._first_order(self.index[t])
        return combine((kept, x), (new, x0))


class _Multistep(_Solver):
    def __init__(self, timesteps: list[int], alpha_bars: list[float]):
        super().__init__(timesteps, alpha_bars)
        self.log_ratio = [math.log(a / s) if s else math.inf for a, s in zip(self.signal, self.noise)]
        self.before: list[Tensor] = []  # x0 of the steps before, the last one first

    def _growth(self, i: int) -> float:
        """h, by how much the logarithm grows in step i."""
        return self.log_ratio[i + 1] - self.log_ratio[i]

    def _remember(self, x0: Tensor) -> None:
        self.before = [x0, *self.before[:1]]

    def _predict(self, i: int, x0: Tensor, x: Tensor) -> Tensor:
        """A step of second order, or of first order at both ends: x0 is extrapolated half a step ahead."""
        kept, new = self._first_order(i)
        if not self.before or i + 2 == len(self.signal):
            return combine((kept, x), (new, x0))
        ahead = 0.5 * new * self._growth(i) / self._growth(i - 1)
        return combine((kept, x), (new + ahead, x0), (-ahead, self.before[0]))


class _DPMSolver(_Multistep):
    def step(self, x0: Tensor, t: int, x: Tensor) -> Tensor:
        result = self._predict(self.index[t], x0, x)
        self._remember(x0)
        return result


class _UniPC(_Multistep):
    """The same prediction, of x corrected by the x0 found there."""

    def step(self, x0: Tensor, t: int, x: Tensor) -> Tensor:
        i = self.index[t]
        if self.before:
            x = self._correct(i - 1, x0)
        result = self._predict(i, x0, x)
        self._remember(x0)
        self.last = x
        return result

    def _correct(self, i: int, found: Tensor) -> Tensor:
        """Step i once more, given the x0 that was found at its end."""
        (kept, new), h = self._first_order(i), self._growth(i)
        if len(self.before) == 1:
            return combine((kept, self.last), (0.5 * new, self.before[0]), (0.5 * new, found))
        # UniPC's equations for the factors of both differences: rho_1 + rho_2 = b_1, r rho_1 + rho_2 = b_2
        phi = math.expm1(-h)
        first = phi / -h - 1
        second = first / -h - 0.5
        b1, b2, r = first / phi, 2 * second / phi, -self._growth(i - 1) / h
        rho1 = (b2 - b1) / (r - 1)
        rho2 = b1 - rho1
        older, later = new * rho1 / r, new * rho2
        latest, earlier = self.before
        return combine((kept, self.last), (new - older - later, latest), (older, earlier), (later, found))
