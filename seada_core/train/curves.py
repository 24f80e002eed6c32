"""Curves and previews of a run: for TensorBoard where that is installed, else previews as PNG files."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ..files import atomic

MISSING = "curves need TensorBoard: pip install tensorboard; without it previews go to {folder} as PNG files"


class Curves:
    """Curves and previews of a stage while it trains; `losses.jsonl` has the losses in any case.

    Args:
        folder: of the stage; receives TensorBoard's event files or, without TensorBoard, `previews/NAME-STEP.png`, and
            a line on standard error says what to install.
    """

    def __init__(self, folder: Path):
        self.previews = folder / "previews"
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self.writer = None
            print(MISSING.format(folder=self.previews), file=sys.stderr)
        else:
            self.writer = SummaryWriter(folder)

    def scalars(self, group: str, values: Mapping[str, float], step: int) -> None:
        """A point of each value's curve `GROUP/NAME`."""
        if self.writer is not None:
            for name, value in values.items():
                self.writer.add_scalar(f"{group}/{name}", value, step)

    def pictures(self, previews: Mapping[str, Tensor], step: int) -> None:
        """Preview pictures by name, each (B, 3, H, W) in [0, 1]."""
        for name, pictures in previews.items():
            shown = pictures.float().clamp(0, 1).cpu()
            if self.writer is not None:
                self.writer.add_images(f"validation/{name}", shown, step)
            else:
                self._write(self.previews / f"{name}-{step:07}.png", shown)
        if self.writer is not None:
            self.writer.flush()

    @staticmethod
    def _write(path: Path, pictures: Tensor) -> None:
        """The pictures side by side."""
        path.parent.mkdir(parents=True, exist_ok=True)
        row = (torch.cat(list(pictures), -1) * 255).round().byte().permute(1, 2, 0)
        with atomic.opened(path, durable=False) as file:
            Image.fromarray(row.numpy()).save(file, "PNG")

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
