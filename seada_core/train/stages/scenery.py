"""Stage scenery: where sky, water, grass and leaves are in grey photos."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ...color.spaces import luminance
from ...models.affinity import classifier_maps
from ...models.scenery import scenery_loss
from ..batches import Batch
from ..scenery_labels import UNKNOWN, label_scenery
from ..sources import DataError
from .registry import StageSetup
from .stage import Stage


class SceneryStage(Stage):
    """Learns from grey photos what `label_scenery` finds in their colours and captions; the classifier is frozen.

    Parts: controlnet_rca, scenery.

    Raises:
        DataError: the controller has no classifier.
    """

    def __init__(self, setup: StageSetup):
        super().__init__()
        self.scenery = setup.parts["scenery"].requires_grad_(True)
        control = setup.parts["controlnet_rca"].requires_grad_(False)
        self.classifier: Any = getattr(getattr(control, "mapper", None), "classifier", None)
        if self.classifier is None:
            raise DataError("stage scenery needs a controller whose mapper has a classifier (--control.recognition)")

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
