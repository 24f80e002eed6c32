"""Stage scenery: where sky, water, grass and leaves are in grey photos."""

from __future__ import annotations

from torch import Tensor, nn

from ...color.spaces import luminance
from ...models.affinity import classifier_maps
from ...models.scenery import scenery_loss
from ..batches import Batch
from ..scenery_labels import UNKNOWN, label_scenery
from .registry import StageSetup
from .stage import Stage, frozen_classifier


class SceneryStage(Stage):
    """Learns from grey photos what `label_scenery` finds in their colours and captions; the classifier is frozen.

    Parts: controlnet_rca, scenery.

    Raises:
        DataError: the controller has no classifier.
    """

    def __init__(self, setup: StageSetup):
        super().__init__()
        self.scenery = setup.parts["scenery"].requires_grad_(True)
        self.classifier = frozen_classifier(setup)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        labels = label_scenery(batch.rgb, batch.captions)
        logits = self.scenery(classifier_maps(luminance(batch.rgb), self.classifier))
        known = labels != UNKNOWN
        right = (logits.argmax(1) == labels) & known
        return {
            "loss": scenery_loss(logits, labels),
            "predicted": right.sum() / known.sum().clamp_min(1),  # share of the known cells that are right
        }

    def parts(self) -> dict[str, nn.Module]:
        return {"scenery": self.scenery}


def build(setup: StageSetup) -> SceneryStage:
    return SceneryStage(setup)
