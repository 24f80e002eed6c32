"""What a training stage is: the modules of its step, which of them learn, and the loss of one batch."""

from __future__ import annotations

from torch import Tensor, nn


class Stage(nn.Module):
    """One stage of training, driven by `loop.fit`.

    Parameters with `requires_grad` are trained (and averaged by EMA); everything else is frozen. All randomness comes
    from torch's global generator, which the loop seeds anew for every step, so that a resumed run repeats exactly.
    """

    name: str

    def forward(self, batch: dict) -> dict[str, Tensor]:
        """Named loss terms of a batch; `loss` is the one to minimise.

        batch: `rgb` (B, 3, H, W) float in [0, 1]; `latent` (B, 4, H/8, W/8) scaled latents of `rgb`;
        `captions` and `color_captions`, lists of B strings (grey and colour descriptions).
        """
        raise NotImplementedError

    def preview(self, batch: dict) -> dict[str, Tensor]:
        """Pictures (B, 3, H, W) in [0, 1] to look at, by name; called without gradients, EMA weights in place."""
        return {}

    def parts(self) -> dict[str, nn.Module]:
        """What this stage exports: part name (a file name in a model folder) to module."""
        raise NotImplementedError
