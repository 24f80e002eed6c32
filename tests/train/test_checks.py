"""Recipes that are refused before anything is computed, and steps in micro-batches."""

from dataclasses import replace

import pytest
from training import small_config

from seada_core.train.checks import TrainingError, check_recipe, micro_batches


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"batch": 3}, "batch of 3 cannot be shared among 2 processes"),
        ({"batch": 12, "micro_batch": 4}, "takes 6 pictures a step, not a multiple of --micro-batch 4"),
        ({"resolution": 100}, "--resolution must be a multiple of 8 px"),
        ({"crop": 72}, "--crop must be .* at most the resolution, 64 px, not 72"),
        ({"precision": "fp16"}, "fp16 needs a GPU"),
        ({"precision": "fp8"}, "--precision must be auto, no, bf16 or fp16, not fp8"),
        ({"frozen": "bf16"}, "--frozen bf16 needs autocast"),
        ({"lora": 4, "train_unet": True}, "either --lora or --train-unet"),
        ({"optimizer": "lion"}, "--optimizer must be adamw, adamw8bit or sgd"),
        ({"steps": 0}, "--steps must be at least 1"),
    ],
)
def test_recipes_that_cannot_work(changes, message):
    check_recipe(small_config(), 2, "cpu")
    with pytest.raises(TrainingError, match=message):
        check_recipe(replace(small_config(), **changes), 2, "cpu")


def test_micro_batches():
    assert micro_batches(small_config(), 1) == (2, 1)
    c = replace(small_config(), batch=32, micro_batch=8)
    assert [micro_batches(c, n) for n in (1, 2, 4, 8)] == [(8, 4), (8, 2), (8, 1), (4, 1)]
    with pytest.raises(TrainingError, match="2 by 2, so not 1 at once"):
        micro_batches(replace(c, batch=8), 8, multiple=2)
