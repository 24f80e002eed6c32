"""The stage that trains `mini`'s captioner: CoCa's contrastive and captioning losses on grey pictures."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from ...color.spaces import luminance
from ...models.captioners.coca import TinyCoCa
from ..batches import Batch
from ..draws import Draws
from .registry import StageSetup
from .stage import Stage

MAX_TOKENS = 16  # one caption in ten is longer and is truncated: text is most of a step's cost


class CaptionerStage(Stage):
    """CoCa (Yu et al. 2022): contrastive + `caption_weight` times captioning, on luminance and a grey caption.

    Most captions are made from labels and repeat within a batch, so pictures with the same caption are positives of
    each other. CoCa weighs the terms 1 and 2.
    """

    def __init__(self, captioner: TinyCoCa, caption_weight: float = 2.0, label_smoothing: float = 0.1):
        super().__init__()
        self.captioner = captioner
        self.caption_weight = caption_weight
        self.label_smoothing = label_smoothing

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        captioner, tokenizer = self.captioner, self.captioner.tokenizer
        if captioner.config.recognition:
            images = batch.recognized[-1] if batch.recognized is not None else captioner.prepare(batch.rgb)
        else:
            images = luminance(batch.rgb)
            images = captioner.standardize(
                self._augment(images, Draws(batch.seeds)) if self.training else self._resize(images)
            )
        text = tokenizer(batch.captions).to(images.device)
        text = text[:, : min(MAX_TOKENS, int(tokenizer.mask(text).sum(1).max()))]

        with sdpa_kernel(SDPBackend.MATH):  # the CPU's fused backward pass takes longer than the rest of the step
            out = captioner.model(images, text)
        contrastive = contrastive_loss(out["image_features"], out["text_features"], text, out["logit_scale"])
        real = out["labels"] != tokenizer.pad
        caption = F.cross_entropy(
            out["logits"][real].float(), out["labels"][real], label_smoothing=self.label_smoothing
        )
        return {
            "contrastive": contrastive,
            "caption": caption,
            "loss": contrastive + self.caption_weight * caption,
        }

    def changing_buffers(self) -> list[Tensor]:
        norms = (module for module in self.captioner.modules() if isinstance(module, nn.BatchNorm2d))
        return [buffer for norm in norms for buffer in norm.buffers()]

    def parts(self) -> dict[str, nn.Module]:
        return {"captioner": self.captioner}

    def _resize(self, gray: Tensor) -> Tensor:
        size = (self.captioner.image_size, self.captioner.image_size)
        return F.interpolate(gray.float(), size, mode="bilinear", antialias=True)

    def _augment(self, gray: Tensor, draws: Draws) -> Tensor:
        """A random crop of 65 to 100 % of each side, resized; a random gamma of 0.6 to 1.6.

        Brightness and contrast need no augmentation: every picture is standardised afterwards.
        """
        batch = len(gray)
        scale = 0.65 + 0.35 * draws.uniform(1, device=gray.device)
        shift = (1 - scale) * (2 * draws.uniform(2, device=gray.device) - 1)
        theta = torch.cat([torch.diag_embed(scale.expand(-1, 2)), shift.unsqueeze(-1)], -1)
        size = [batch, 1, self.captioner.image_size, self.captioner.image_size]
        crops = F.grid_sample(gray.float(), F.affine_grid(theta, size, align_corners=False), align_corners=False)
        gamma = torch.exp2(1.4 * draws.uniform(1, 1, 1, device=gray.device) - 0.7)
        return crops.clamp(1e-4, 1) ** gamma


def contrastive_loss(image_features: Tensor, text_features: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """Symmetric InfoNCE of unit features (B, D), where equal rows of `text` (B, L) share the target evenly."""
    same = (text.unsqueeze(0) == text.unsqueeze(1)).all(-1).float()
    targets = same / same.sum(1, keepdim=True)
    logits = scale.clamp(max=100) * image_features.float() @ text_features.float().T
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2


def build(setup: StageSetup) -> CaptionerStage:
    return CaptionerStage(setup.parts["captioner"])
