"""Stage people: which pixels of a photo are people, and what they wear, from photos in which that is marked."""

from __future__ import annotations

from torch import Tensor, nn

from ...color.spaces import luminance
from ...models.affinity import CELL, classifier_maps
from ...models.people import people_loss
from ..batches import Batch
from ..sources import DataError
from .registry import StageSetup
from .stage import Stage, frozen_classifier


class PeopleStage(Stage):
    """Learns what `people_loss` says from the labels of grey photos; the classifier is frozen.

    Parts: controlnet_rca, people.

    Raises:
        DataError: the controller has no classifier, or a picture has no labels.
    """

    def __init__(self, setup: StageSetup):
        super().__init__()
        self.people = setup.parts["people"].requires_grad_(True)
        self.classifier = frozen_classifier(setup)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        if batch.labels is None:
            raise DataError('stage people needs photos whose people are marked: "labels" in each one\'s json')
        person, worn, skin = self.people(classifier_maps(luminance(batch.rgb), self.classifier))
        labels = batch.labels[:, CELL // 2 :: CELL, CELL // 2 :: CELL]
        known = labels < 255
        right = ((person[:, 0] > 0) == (labels > 0)) & known
        return {
            "loss": people_loss(person, worn, skin, labels),
            "predicted": right.sum() / known.sum().clamp_min(1),  # share of the cells whose person is right
        }

    def parts(self) -> dict[str, nn.Module]:
        return {"people": self.people}


def build(setup: StageSetup) -> PeopleStage:
    return PeopleStage(setup)
