"""Solvers against a case with a known solution and against diffusers; a shared controller; compiling; offloading."""

import math

import pytest
import torch

from seada_core.choices import SCHEDULERS
from seada_core.models import sampling
from seada_core.models.schedule import NoiseSchedule
from seada_core.pipeline import Colorizer
from seada_core.presets import MINI, SD15
from seada_core.weights.export import diffusers_scheduler
from seada_core.weights.part_files import SECTIONS


@pytest.fixture
def colorizer(tiny_model):
    return Colorizer.from_pretrained(str(tiny_model))


def gaussian(schedule, mean: torch.Tensor, deviation: float):
    """The optimal model of data from N(mean, deviation^2), and its ODE's exact solution from noise."""
    alphas = schedule.alphas_cumprod.double()
    v_prediction = schedule.prediction == "v_prediction"

    def model(x, t):
        a, s = alphas[t].sqrt(), (1 - alphas[t]).sqrt()
        x0 = mean + a * deviation**2 / (a**2 * deviation**2 + s**2) * (x - a * mean)
        # where a is 0, x is the noise
        eps = (x - a * x0) / s
        return (a * eps - s * x0 if v_prediction else eps).float()

    a, s = alphas[-1].sqrt(), (1 - alphas[-1]).sqrt()

    def exact(x):
        return mean + deviation * (x - a * mean) / (a**2 * deviation**2 + s**2).sqrt()

    return model, exact


@pytest.mark.parametrize("preset", [MINI, SD15], ids=lambda preset: preset.name)
def test_solvers_converge_to_the_exact_solution_higher_orders_faster(preset):
    schedule = NoiseSchedule(preset.diffusion)
    torch.manual_seed(0)
    noise, mean = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    model, exact = gaussian(schedule, mean.double(), 0.3)
    error = {}
    for name in SCHEDULERS:
        for steps in (1, 15, 50):
            result = sampling.sample(model, noise, schedule, steps, name)
            assert result.dtype == torch.float32
            error[name, steps] = (result - exact(noise)).pow(2).mean().sqrt().item()
    for name in SCHEDULERS:
        assert error[name, 50] < error[name, 15] < error[name, 1]
        # with one step, every solver returns the model's x0 estimate
        assert math.isclose(error[name, 1], error["ddim", 1], rel_tol=1e-2)
        # the last step to x0 is of first order for all, and most of the remaining error
        assert name == "ddim" or error[name, 15] < 0.95 * error["ddim", 15]
        assert name == "ddim" or error[name, 50] < 0.8 * error["ddim", 50]


@pytest.mark.parametrize("name", ["unipc", "dpm++"])
@pytest.mark.parametrize("preset", [MINI, SD15], ids=lambda preset: preset.name)
def test_solvers_given_x0_match_diffusers(name, preset):
    """Equal to diffusers' scheduler with the model's prediction type, which computes x0 itself."""
    import diffusers

    kind = {"unipc": diffusers.UniPCMultistepScheduler, "dpm++": diffusers.DPMSolverMultistepScheduler}[name]
    schedule = NoiseSchedule(preset.diffusion)
    theirs = kind.from_config(diffusers_scheduler(preset.diffusion).config, final_sigmas_type="zero")
    theirs.set_timesteps(7)
    torch.manual_seed(1)
    weight = torch.randn(4, 4) / 2

    def model(x, t):
        return torch.tanh(torch.einsum("ij, bjhw -> bihw", weight, x) + t / 1000)

    x = noise = torch.randn(2, 4, 8, 8)
    for t in theirs.timesteps:
        x = theirs.step(model(x, t.item()), t, x).prev_sample
    torch.testing.assert_close(sampling.sample(model, noise, schedule, 7, name), x, rtol=2e-3, atol=2e-3)


def test_corrections_pass_through_every_solver():
    schedule = NoiseSchedule(MINI.diffusion)
    noise = torch.randn(1, 4, 8, 8)
    for name in SCHEDULERS:
        result = sampling.sample(lambda x, t: x, noise, schedule, 5, name, correct=torch.zeros_like)
        torch.testing.assert_close(result, torch.zeros_like(noise), atol=1e-5, rtol=0)


def test_unknown_scheduler(colorizer):
    with pytest.raises(ValueError, match="unknown scheduler 'euler'; choose among ddim, unipc, dpm"):
        colorizer.chroma(torch.rand(1, 1, 64, 64), scheduler="euler")


def test_a_shared_controller_runs_once_with_the_prompt(colorizer):
    """Rows with text are unchanged; rows without use the same controller features."""
    torch.manual_seed(0)
    unet, control = colorizer.part("unet"), colorizer.part("controlnet_rca")
    x, context, uncond = torch.randn(2, 4, 8, 8), torch.randn(2, 16, 32), torch.randn(2, 16, 32)
    t, both = torch.tensor(500), torch.cat([context, uncond])
    c_f = control.condense(torch.rand(2, 3, 64, 64), (8, 8))
    rows = []
    hook = control.encoder.register_forward_hook(lambda module, given, maps: rows.append(len(given[0])))
    apart = sampling.predict(unet, control, x, t, both, c_f, 1.0, False, [])
    shared = sampling.predict(unet, control, x, t, both, c_f, 1.0, True, [])
    hook.remove()
    assert rows == [4, 2]
    torch.testing.assert_close(shared[:2], apart[:2])
    assert (shared[2:] - apart[2:]).abs().max() > 1e-4
    features = control.encode(x, t, context, strength=1.0, c_f=c_f)
    hooks = [lambda i, h: control.attend(i, h, features)]
    expected = sampling.denoise(unet, x, t, uncond, features.residuals, hooks)
    torch.testing.assert_close(shared[2:], expected)


@pytest.mark.slow
def test_a_step_is_one_graph_with_hooks_and_all(colorizer):
    """The compiled step has no graph break, is not recompiled for other photos' hooks, and computes the same."""
    from seada_core.files.hint_format import Hint

    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    gray = torch.rand(1, 1, 64, 64)
    options = {"prompt": "a dog", "steps": 3, "guidance": 3.0, "hints": [Hint(10, 10, "#c04040", 3)]}
    plain = colorizer.chroma(gray, **options), colorizer.chroma(1 - gray, **options)
    colorizer.graphs.compiled[sampling.predict] = torch.compile(sampling.predict, backend=backend, fullgraph=True)
    compiled = colorizer.chroma(gray, **options), colorizer.chroma(1 - gray, **options)
    for a, b in zip(plain, compiled):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    assert len(graphs) == 1


def test_compiling_without_a_compiler(colorizer, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ValueError, match=r"torch.compile needs a C\+\+ compiler .*apt install g\+\+"):
        colorizer.compile()
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match="looked for no-such-compiler"):
        colorizer.compile()


@pytest.mark.slow
def test_compiling_gives_the_same_colours_once_a_size(tiny_model, colorizer):
    """One graph of the step and one of the decoder, without a break, and nothing is compiled for a size seen before."""
    from torch._dynamo.utils import counters

    from seada_core.files.hint_format import Hint

    hints = [Hint(10, 10, "#c04040", 3)]
    options = {"prompt": "a dog", "guidance": 3.0, "hints": hints, "palette": ["#aa5533", "#336699"]}
    compiled = Colorizer.from_pretrained(str(tiny_model))
    compiled.compile()
    torch._dynamo.reset()
    counters.clear()
    graphs = []
    for size in ((64, 64), (64, 64), (64, 96), (64, 96), (64, 64)):
        gray = torch.rand(1, 1, *size)
        a, b = (c.chroma(gray, **options) for c in (colorizer, compiled))
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
        graphs.append(counters["stats"]["unique_graphs"])
    assert not counters["graph_break"]
    assert graphs == [2, 2, 4, 4, 4]


def test_offloading_moves_parts_to_the_device_only_for_use(tiny_model, monkeypatch):
    """With a fake device: moves are recorded, and every part must be moved there before it is used."""
    colorizer = Colorizer.from_pretrained(str(tiny_model))
    gray = torch.rand(1, 1, 64, 64)
    expected = colorizer.chroma(gray, prompt="a dog")
    names = {id(colorizer.part(name)): name for name in SECTIONS if colorizer.has(name)}
    here = set(names.values())
    colorizer.parts.device = "cpu:0"
    to = torch.nn.Module.to
    together = []

    def moved(module, device, *arguments, **options):
        (here.discard if device == "cpu" else here.add)(names[id(module)])
        together.append(frozenset(here))
        return to(module, device, *arguments, **options)

    monkeypatch.setattr(torch.nn.Module, "to", moved)
    colorizer.offload()
    assert not here
    assert torch.equal(colorizer.chroma(gray, prompt="a dog"), expected)
    assert not any({"unet", "semantic_encoder"} <= parts for parts in together)
    assert any({"unet", "controlnet_rca"} <= parts for parts in together)
    assert here <= {"unet", "controlnet_rca", "vq_decoder", "hint_encoder"}
