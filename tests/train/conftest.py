"""Tiny parts of every kind for a stage, whose texts are those of `training.CAPTIONS`."""

import pytest
from tiny_models import make_tiny_parts
from training import CAPTIONS


@pytest.fixture
def tiny_parts():
    return make_tiny_parts(CAPTIONS)
