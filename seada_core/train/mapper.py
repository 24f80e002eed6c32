"""Stage mapper: the controller's mapper learns by itself which colours a grey photo has, its classifier with it."""

from __future__ import annotations

import copy

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..color import luminance, merge_chroma, rgb_to_ycbcr
from ..controlnet_rca import RecognizingMapper, recognize
from ..presets import Preset, TrainConfig
from . import film
from .diffusion import drop_channels
from .draws import Draws
from .stages import Stage

GROUP = 4  # of the classifier's seven, the first that learns: those at 1/16 and 1/32
SMALLEST_CROP = 0.64  # of a picture's side
OLD_SHARE = 0.6  # of the pictures, taken by an old film
KEEP_WEIGHT = 0.25


class MapperStage(Stage):
    """Two of c_f's channels are drawn to the colour of each 8x8 pixels; nothing is diffused, and no latent is needed.

    What frozen maps tell of a few thousand photos is soon learnt by heart. Here every picture is cropped and exposed
    anew each time, and the classifier's last groups learn, who have only seen colour pictures so far. `keep` holds
    c_f's other channels to what they were before the stage (in units of their variance): other parts build on them.

    Args:
        parts: controlnet_rca, of which only the mapper is trained.
        deviation: (2,), the unit of (Cb, Cr), see `probe.chroma_deviation`; None: 1.

    Raises:
        ValueError: the mapper has no channels for colour.
    """

    name = "mapper"

    def __init__(
        self, parts: dict[str, nn.Module], preset: Preset, config: TrainConfig, deviation: Tensor | None = None
    ):
        super().__init__()
        self.config = config
        self.controlnet_rca = parts["controlnet_rca"].requires_grad_(False)
        self.before = copy.deepcopy(self.mapper)
        self.mapper.requires_grad_(True)
        if isinstance(self.mapper, RecognizingMapper):
            self.mapper.classifier.unfreeze(GROUP)
        first, channels = preset.unet.in_channels, preset.control.condition_latent
        self.color = slice(first, first + 2)
        if channels < self.color.stop:
            raise ValueError(
                f"the mapper's {channels} channels have no room for colour: give --control.condition-latent "
                f"{self.color.stop} or more"
            )
        self.others = [k for k in range(channels) if k not in (first, first + 1)]
        self.register_buffer("deviation", (torch.ones(2) if deviation is None else deviation)[:, None, None])

    @property
    def mapper(self) -> nn.Module:
        return self.controlnet_rca.mapper

    def forward(self, batch: dict) -> dict[str, Tensor]:
        draws = Draws(batch["seeds"])
        rgb = augment(batch["rgb"], draws) if self.training else batch["rgb"]
        gray = luminance(rgb).expand_as(rgb)
        c_f = self._map(gray, draws).float()
        with torch.no_grad():
            before = self.before(gray).float()[:, self.others]
        wanted = F.avg_pool2d(rgb_to_ycbcr(rgb)[:, 1:], 8) / self.deviation
        chroma = (c_f[:, self.color] - wanted).pow(2).mean()
        keep = (c_f[:, self.others] - before).pow(2).mean() / before.var().clamp(min=1e-6)
        return {"chroma": chroma, "keep": keep, "loss": chroma + KEEP_WEIGHT * keep}

    def _map(self, gray: Tensor, draws: Draws) -> Tensor:
        if not isinstance(self.mapper, RecognizingMapper):
            return self.mapper(gray)
        maps = recognize(self.mapper.classifier, gray)
        return self.mapper(gray, drop_channels(maps, self.config.recognition_dropout if self.training else 0, draws))

    def preview(self, batch: dict) -> dict[str, Tensor]:
        """The grey photos in the mapper's colours; and the truth."""
        gray = luminance(batch["rgb"])
        chroma = self.mapper(gray.expand_as(batch["rgb"])).float()[:, self.color] * self.deviation
        chroma = F.interpolate(chroma, size=gray.shape[-2:], mode="bilinear")
        return {"mapped": merge_chroma(chroma, gray), "truth": batch["rgb"]}

    def parts(self) -> dict[str, nn.Module]:
        return {"controlnet_rca": self.controlnet_rca}


def augment(rgb: Tensor, draws: Draws) -> Tensor:
    """Pictures (B, 3, H, W) in [0, 1]: a square part of each at the same size, mirrored or not, some by an old film."""
    pictures = []
    for picture, values in zip(rgb, draws.uniform(6).tolist()):
        share = SMALLEST_CROP + (1 - SMALLEST_CROP) * values[0]
        height, width = (max(8, round(share * side)) for side in picture.shape[1:])
        top = int(values[1] * (picture.shape[1] - height + 1))
        left = int(values[2] * (picture.shape[2] - width + 1))
        part = picture[None, :, top : top + height, left : left + width].float()
        part = F.interpolate(part, picture.shape[1:], mode="bicubic", antialias=True)[0].clamp(0, 1)
        part = part.flip(-1) if values[3] < 0.5 else part
        if values[4] < OLD_SHARE:
            part = film.expose(part.cpu(), np.random.default_rng(int(values[5] * 2**32))).to(rgb.device)
        pictures.append(part)
    return torch.stack(pictures)
