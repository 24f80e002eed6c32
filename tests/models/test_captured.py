"""CUDA graphs, rehearsed on the CPU, where recorded operations alone are replayed; and on CUDA."""

import copy
import warnings

import pytest
import torch
from torch import nn

from benchmarks.speed.launches import Rehearsed
from seada_core.files.hint_format import Hint
from seada_core.models.captured import MOST_GRAPHS, Captured, Graphs
from seada_core.pipeline import Colorizer

SIZES = ((64, 64), (64, 96), (64, 64), (64, 64), (64, 96), (64, 96), (64, 64))
OPTIONS = [
    pytest.param(
        {"prompt": "a dog", "guidance": 2.0, "hints": [Hint(10, 10, "#c04040", 3)], "strength": 0.5},
        marks=pytest.mark.slow,
    ),
    {"prompt": "a dog"},
    pytest.param(
        {"prompt": "a dog", "guidance": 3.0, "scheduler": "unipc", "shared_control": True}, marks=pytest.mark.slow
    ),
    pytest.param({"prompt": "a dog", "palette": ["#aa5533", "#336699"], "steps": 2}, marks=pytest.mark.slow),
]


@pytest.fixture
def colorizer(tiny_model):
    return Colorizer.from_pretrained(str(tiny_model), device="cpu")


def photos(device: str = "cpu") -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(1, 1, *size, generator=generator).to(device) for size in SIZES]


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS[:2], ids=str)
def test_replays_in_inference_mode(colorizer, options):
    """What is recorded must not be made of inference tensors, which nothing may write to later."""
    with torch.inference_mode():
        expected = [colorizer.chroma(gray, **options) for gray in photos()]
        colorizer.graphs = Graphs(True, Rehearsed)
        found = [colorizer.chroma(gray, **options) for gray in photos()[:4]]
    found += [colorizer.chroma(gray, **options) for gray in photos()[4:]]
    for a, b in zip(found, expected):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_replays_compute_the_same_for_every_size(colorizer, options):
    expected = [colorizer.chroma(gray, **options) for gray in photos()]
    colorizer.graphs = Graphs(True, Rehearsed)
    for gray, chroma in zip(photos(), expected):
        torch.testing.assert_close(colorizer.chroma(gray, **options), chroma, rtol=1e-4, atol=1e-4)
    by_name = {captured.function.__name__: captured for _, captured in colorizer.graphs.captured.values()}
    guided = {"move_x0": 2} if "hints" in options or "palette" in options else {}
    assert not any(captured.failed for captured in by_name.values())
    recorded = {name: len(captured.graphs) for name, captured in by_name.items()}
    assert recorded == {"embed": 1, "condense": 2, "fix_parts": 1, "predict": 2, "decode": 2, **guided}


def test_a_shape_is_recorded_when_it_comes_again():
    calls = []

    def double(x, factor):
        calls.append(tuple(x.shape))
        return [x * factor]

    captured = Rehearsed(double)
    with torch.no_grad():
        for n in (2, 2, 3, 2, 2):
            x = torch.rand(n)
            assert torch.equal(captured(x, 2.0)[0], x * 2)
        assert calls.count((3,)) == 1
        before = len(calls)
        results = [captured(torch.full((2,), float(i)), 2.0)[0] for i in range(3)]
        assert len(calls) == before  # replayed
        assert [r[0].item() for r in results] == [0, 2, 4]  # results are copies
        x = torch.zeros(2)
        for i in range(3):
            assert captured(x.fill_(i), 2.0)[0][0] == 2 * i  # changed in place
        captured(torch.ones(2), 3.0)  # another number: another graph
        assert len(calls) == before + 1
    assert captured(torch.ones(2, requires_grad=True), 2.0)[0].requires_grad  # with gradients: not captured


def test_few_graphs_are_kept_and_those_that_made_room_are_not_recorded_soon_again():
    captured = Rehearsed(torch.neg)
    with torch.no_grad():
        for _ in range(5):
            for n in range(1, MOST_GRAPHS + 3):
                assert torch.equal(captured(torch.ones(n)), -torch.ones(n))
    assert len(captured.graphs) == MOST_GRAPHS
    assert captured.due[next(iter(captured.due))] == 16


def test_weights_may_change_in_place_and_graphs_of_moved_ones_are_dropped():
    layer, x = nn.Linear(3, 3), torch.rand(2, 3)
    graphs = Graphs(True, Rehearsed)

    def apply(layer, x):
        return layer(x)

    with torch.no_grad():
        for _ in range(3):
            captured = graphs(apply, layer)
            captured(layer, x)
        assert captured.graphs
        layer.weight.mul_(2)
        assert graphs(apply, layer) is captured
        torch.testing.assert_close(captured(layer, x), layer(x))
        layer.weight = copy.deepcopy(layer.weight)
        assert graphs(apply, layer) is not captured


def test_a_failed_recording_warns_once_and_runs_as_usual():
    def busy(x):
        return x * x.sum().item()

    captured, x = Rehearsed(busy), torch.ones(3)
    with torch.no_grad(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(4):
            assert torch.equal(captured(x), 3 * x)
    assert len(caught) == 1
    assert str(caught[0].message).startswith("no CUDA graph of busy, so it runs slower: ")


def test_weights_elsewhere_are_not_recorded_and_those_that_come_back_are():
    layer = nn.Linear(2, 2)
    graphs = Graphs(True, Rehearsed)

    def apply(module, x):
        return module(x)

    assert graphs(apply, layer.to("meta")) is apply
    assert not graphs.captured
    layer = layer.to_empty(device="cpu")
    assert isinstance(graphs(apply, layer), Captured)
    graphs.drop()
    assert not graphs.captured


def test_hooks_run_in_plain_sampling(colorizer):
    """Attention is recorded by hooks, which a replay would skip."""
    from seada_core.steering import find_regions

    gray = torch.rand(1, 1, 64, 64)
    expected = find_regions(colorizer, gray, "a dog", ["dog"], "attention", 0)
    colorizer.graphs = Graphs(True, Rehearsed)
    for _ in range(3):
        assert torch.equal(find_regions(colorizer, gray, "a dog", ["dog"], "attention", 0), expected)


@pytest.mark.slow
def test_captions_are_the_same():
    colorizer = Colorizer.from_pretrained("mini", device="cpu")
    gray = photos()[0]
    expected = colorizer.caption(gray)
    colorizer.graphs = Graphs(True, Rehearsed)
    assert [colorizer.caption(gray) for _ in range(3)] == [expected] * 3
    by_name = {captured.function.__name__: captured for _, captured in colorizer.graphs.captured.values()}
    assert all(by_name[name].graphs for name in ("_encode_images", "_next_logits"))


def test_graphs_are_for_small_models_on_cuda(tiny_model, colorizer):
    assert not colorizer.graphs.on
    assert not Colorizer.from_pretrained(str(tiny_model), device="cpu", graphs=True).graphs.on
    if torch.cuda.is_available():
        assert Colorizer.from_pretrained(str(tiny_model), device="cuda").graphs.on
        assert not Colorizer.from_pretrained(str(tiny_model), device="cuda", graphs=False).graphs.on


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("model", ["tiny", "mini"])
def test_captured_on_cuda_equals_eager(tiny_model, model, options):
    name = str(tiny_model) if model == "tiny" else model
    eager = Colorizer.from_pretrained(name, device="cuda", graphs=False)
    graphs = Colorizer.from_pretrained(name, device="cuda", graphs=True)
    for gray in photos("cuda"):
        expected, found = (c.chroma(gray, **options) for c in (eager, graphs))
        torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)
    for width in range(72, 80 + 8 * MOST_GRAPHS, 8):  # other sizes drop the graphs of these
        for _ in range(2):
            graphs.chroma(torch.rand(1, 1, 64, width, device="cuda"), **options)
    for gray in photos("cuda"):
        expected, found = (c.chroma(gray, **options) for c in (eager, graphs))
        torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)
    for _, captured in graphs.graphs.captured.values():
        assert type(captured) is Captured
        assert not captured.failed and captured.graphs, captured.function.__name__
    for parameter in graphs.part("unet").parameters():
        parameter.data.mul_(0.9)
    for parameter in eager.part("unet").parameters():
        parameter.data.mul_(0.9)
    gray = photos("cuda")[0]
    torch.testing.assert_close(graphs.chroma(gray, **options), eager.chroma(gray, **options), rtol=2e-3, atol=2e-3)
