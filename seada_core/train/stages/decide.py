"""Stage decide: an adversarial term at the first timesteps of sampling makes the model commit to colours.

The squared error of an uncertain model is least for the mean of all likely colours, which is sepia. A discriminator of
the one-step colours over the photo's luminance makes the model choose one of them. The same term improves sampling with
few steps in general (adversarial diffusion distillation, Sauer et al. 2023).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...models.controlnet_rca import ControlNetRCA, recognize
from ...models.efficientnet import EfficientNetLite0
from ...models.semantic_adapter import SemanticAdapter, representation_loss
from ..batches import Batch
from ..discriminator import ProjectedDiscriminator, discriminator_loss, generator_loss
from ..perceptual import LEVELS, PerceptualLoss
from .diffusion import DiffusionStage
from .registry import StageSetup
from .stage import ParameterGroup


class DecideStage(DiffusionStage):
    """The diffusion loss of stage III, and a projected discriminator on the perceptual term's classifier.

    The text encoder and the adapter learn too, and grey captions are drawn to the colour captions of their photos after
    the adapter (`representation`, relative to the latter's size, weighted by `representation_weight`): colour captions
    that say what the photo shows make the model use words.

    The discriminator learns in the same step from detached colourings. With `learn_classifier` the mapper's classifier
    learns too: its maps are then computed in every step, and its part file is like any other.

    Parts: unet, semantic_encoder, semantic_adapter, controlnet_rca.
    """

    controlnet_rca: ControlNetRCA
    semantic_adapter: SemanticAdapter
    perceptual: PerceptualLoss  # the entry's `judges_colors`: the discriminator uses its classifier

    def __init__(self, setup: StageSetup):
        super().__init__(setup)
        self.discriminator = ProjectedDiscriminator([self.perceptual.classifier.widths[level] for level in LEVELS])
        if self.classifier is not None:
            self.classifier.learn()

    @property
    def classifier(self) -> EfficientNetLite0 | None:
        """The mapper's classifier, if it learns."""
        return getattr(self.controlnet_rca.mapper, "classifier", None) if self.config.learn_classifier else None

    def parameter_groups(self) -> list[ParameterGroup]:
        mine = {id(p) for p in self.discriminator.parameters()}
        slow = set() if self.classifier is None else {id(p) for p in self.classifier.parameters()}
        trained = [p for p in self.parameters() if p.requires_grad]
        groups: list[ParameterGroup] = [
            {"params": [p for p in trained if id(p) not in mine | slow]},
            {
                "params": [p for p in trained if id(p) in mine],
                "scale": self.config.discriminator_lr / self.config.lr,
                "betas": (0.0, 0.99),
                "weight_decay": 0.0,
            },
        ]
        if slow:
            learning = [p for p in trained if id(p) in slow]
            groups.append({"params": learning, "scale": self.config.learn_classifier})
        return groups

    def changing_buffers(self) -> list[Tensor]:
        return list(self.discriminator.buffers())

    def recognized(self, batch: Batch, gray: Tensor) -> list[Tensor] | None:
        if self.classifier is None:
            return batch.recognized
        return recognize(self.classifier, gray)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        terms = super().forward(batch)
        if self.config.representation_weight:
            (e_g, mask), (e_c, other) = (
                self.semantic_encoder(batch.captions),
                self.semantic_encoder(batch.color_captions),
            )
            e_r, e_c = self.semantic_adapter(e_g).float(), e_c.detach().float()
            drawn = representation_loss(e_r, e_c, mask | other) / e_c.square().mean()
            terms["representation"] = drawn
            terms["loss"] = terms["loss"] + self.config.representation_weight * drawn
        return terms

    def color_terms(self, shown: Tensor, wanted: Tensor, gray: Tensor, t: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        noisy = self.is_noisy(t)
        if not noisy.any():
            nothing = shown.sum() * 0 + sum(p.sum() * 0 for p in self.discriminator.parameters())
            return dict.fromkeys(("perceptual", "adversarial", "discriminator"), nothing), nothing
        ours, true = self.perceptual.look(shown[noisy], wanted[noisy], gray[noisy])
        with torch.autocast(gray.device.type, enabled=False):
            self.discriminator.requires_grad_(False)  # this term trains the colours alone
            logits = self.discriminator(ours)
            self.discriminator.requires_grad_(True)
            detached = [x.detach() for x in ours]
            discrimination = discriminator_loss(self.discriminator(detached), self.discriminator(true))
        terms = {
            "perceptual": self.mean_of_noisy(self.perceptual.distance(ours, true).sum(), t),
            "adversarial": self.mean_of_noisy(generator_loss(logits).sum(), t),
            "discriminator": discrimination,
        }
        weighted = self.config.perceptual_weight * terms["perceptual"]
        weighted = weighted + self.config.adversarial_weight * terms["adversarial"] + terms["discriminator"]
        return terms, weighted


def build(setup: StageSetup) -> DecideStage:
    return DecideStage(setup)
