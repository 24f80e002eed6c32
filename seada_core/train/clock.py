"""The time budget of a run: how long it has trained, over all the runs that it continues."""

from __future__ import annotations

from time import monotonic

import torch
from accelerate import Accelerator


class Clock:
    """Seconds of training, the same in all processes; validation and checkpoints are included.

    Args:
        minutes: the budget; 0: none.
        before: seconds that the run had trained for when it was interrupted.

    Attributes:
        seconds: as of the last `tick`.
    """

    def __init__(self, minutes: float = 0.0, before: float = 0.0):
        self.budget, self.before, self.seconds = 60 * minutes, before, before
        self.started = monotonic()

    def start(self) -> None:
        """What came before this moment is not counted."""
        self.started = monotonic()

    def tick(self, accelerator: Accelerator) -> None:
        """Read the clock: the mean of all processes', so that they agree on when to stop. They must all call it."""
        seconds = self.before + monotonic() - self.started
        if self.budget and accelerator.num_processes > 1:
            seconds = float(accelerator.reduce(torch.tensor(seconds, device=accelerator.device), "mean"))
        self.seconds = seconds

    @property
    def share(self) -> float:
        """The part of the budget that is used up, in [0, 1]; 0 where there is none."""
        return min(1.0, self.seconds / self.budget) if self.budget else 0.0

    @property
    def over(self) -> bool:
        """Whether the budget is used up."""
        return self.share == 1.0

    @property
    def left(self) -> float:
        """Minutes of the budget that are left."""
        return (1 - self.share) * self.budget / 60
