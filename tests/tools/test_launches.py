"""What a GPU waits for: limits of operations and of waits, which a CPU can count."""

import pytest
import torch
from PIL import Image

from benchmarks.speed import launches
from seada_core.choices import SCHEDULERS
from seada_core.models.captured import Graphs
from seada_core.pipeline import Colorizer

PER_REPLAY = 16  # launches of a step beside its graph: inputs, guidance, the solver


@pytest.fixture(scope="module")
def small():
    return launches.small_colorizer()


def test_views_and_allocations_are_not_counted_and_waits_are():
    x = torch.rand(4, 4)
    assert launches.count(lambda: x.t()[:2]) == (0, 0)
    assert launches.count(lambda: torch.empty(3)) == (0, 0)
    assert launches.count(lambda: (x + 1) @ x) == (2, 0)
    assert launches.count(lambda: torch.relu_(x).cpu()) == (1, 1)
    assert launches.count(lambda: float(x.sum())) == (1, 1)
    assert launches.count(lambda: x.tolist()) == (0, 1)


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_step_has_fewer_operations_than_diffusers_and_no_waits(small, scheduler):
    colorizer, plain = small
    theirs, _ = launches.per_step(launches.diffusers_sampling(colorizer, plain, scheduler))
    for shared in (False, True):
        ours, waits = launches.per_step(launches.our_sampling(colorizer, scheduler=scheduler, shared_control=shared))
        assert ours <= 0.85 * theirs
        assert waits == 0


@pytest.mark.slow
def test_a_step_with_a_graph_is_a_handful_of_launches(small):
    colorizer, _ = small
    colorizer.graphs = Graphs(True, launches.Rehearsed)
    sample = launches.our_sampling(colorizer, scheduler="unipc")
    launches.per_step(sample)  # records
    ours, waits = launches.per_step(sample)
    colorizer.graphs = Graphs(False)
    assert 1 < ours <= PER_REPLAY
    assert waits == 0


@pytest.mark.slow
@pytest.mark.parametrize(("name", "limit"), [("its own caption", 0.9), ("no caption", 0.75)])
def test_a_photo_has_fewer_launches_than_before(name, limit):
    """A caption's words are chosen one after another, so its launches are as many as it is long."""
    model = Colorizer.from_pretrained("mini", "cpu")
    photo = Image.open(launches.PHOTO).convert("RGB").resize((600, 400))
    texts = {} if name == "its own caption" else {"prompt": ""}
    model(photo, **texts)  # loads the parts
    eager, _ = launches.count(lambda: model(photo, **texts))
    model.graphs = Graphs(True, launches.Rehearsed)
    for _ in range(2):
        model(photo, **texts)
    replayed, _ = launches.count(lambda: model(photo, **texts))
    assert eager <= limit * launches.BEFORE[name]
    assert replayed <= 0.2 * launches.BEFORE[name]
