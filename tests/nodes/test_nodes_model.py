"""MODEL in a real ComfyUI: the same UNet, patches without side effects, graphs that equal the headless pipeline."""

import pytest
import torch
from comfy_server import colorize, full_graph, node
from full_size_sd15 import SD15
from graphs import forget

from seada_core.pipeline import Colorizer


def probe_difference(comfy, nodes: dict, a: str, b: str) -> list[float]:
    """Mean and largest difference of two IMAGEs, in steps of 1/255."""
    code = "d = (a - b).abs() * 255; result = [float(d.mean()), float(d.max())]"
    return comfy.probe(code, nodes, a=[a, 0], b=[b, 0])


def latents(comfy, nodes: dict, *names: str) -> list[torch.Tensor]:
    """The samples of LATENT nodes, from the server's process."""
    path = comfy.base / "latents.pt"
    code = f"import torch; torch.save([x['samples'] for x in (a, b, c, d) if x is not None], {str(path)!r})"
    comfy.probe(code, nodes, **{letter: [name, 0] for letter, name in zip("abcd", names)})
    return torch.load(path)


# --- the UNet ---------------------------------------------------------------------------------------------------------

UNETS = """
import sys, torch
from importlib import import_module
pack = type(b).__module__.rsplit(".nodes.", 1)[0]
backbone = import_module(pack + ".seada_core.models.backbone")
config = b.preset.unet
generator = torch.Generator().manual_seed(0)
x = torch.randn(2, 4, 13, 17, generator=generator)  # odd at every level
context = torch.randn(2, 9, config.context_dim, generator=generator)
t = torch.tensor([999, 37])
ours = backbone.denoise(b.part("unet"), x, t, context)
import comfy.model_management
comfy.model_management.load_models_gpu([a])
theirs = a.model.diffusion_model(x, t, context=context)
result = [float((ours - theirs).abs().max()), float(ours.abs().max())]
"""


@pytest.mark.parametrize("model", [pytest.param("embedded", marks=pytest.mark.slow), "tiny"])
def test_model_is_comfyuis_unet_with_the_same_output(comfy, model):
    difference, scale = comfy.probe(
        UNETS, {"load": node("SeAdaLoadModel", model_name=model)}, a=["load", 0], b=["load", 1]
    )
    assert difference < 1e-5 * scale


def test_the_noise_schedule_is_the_same(comfy):
    code = """
import torch
ours = b.schedule.alphas_cumprod[:-1].double()
sigmas = a.get_model_object("model_sampling").sigmas.double()
result = float((ours - 1 / (1 + sigmas[:-1] ** 2)).abs().max())
"""
    nodes = {"load": node("SeAdaLoadModel", model_name="tiny")}
    assert comfy.probe(code, nodes, a=["load", 0], b=["load", 1]) < 1e-5


def test_a_lora_works_on_model(comfy):
    from safetensors.torch import save_file

    folder = comfy.base / "models" / "loras"
    folder.mkdir(exist_ok=True)
    name = "diffusion_model.output_blocks.2.0.in_layers.2"
    up, down = torch.full((32, 4, 1, 1), 0.1), torch.full((4, 96, 3, 3), 0.1)
    save_file({f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down}, folder / "some.safetensors")
    nodes = full_graph()
    nodes["lora"] = node("LoraLoaderModelOnly", model=["control", 0], lora_name="some.safetensors", strength_model=1.0)
    nodes["sample 2"] = node("KSampler", **nodes["sample"]["inputs"] | {"model": ["lora", 0]})
    without, with_lora = latents(comfy, nodes, "sample", "sample 2")
    assert (without - with_lora).abs().mean() > 1e-2


# --- the same picture as without ComfyUI ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "limit"), [(2, 0.02), *(pytest.param(*more, marks=pytest.mark.slow) for more in ((5, 0.02), (7, 1.0)))]
)
def test_the_embedded_graph_equals_the_headless_pipeline(comfy, steps, limit):
    """KSampler with ddim and simple uses our timesteps if the steps divide 1000; otherwise it rounds differently."""
    nodes = full_graph(model="embedded", steps=steps) | {
        "color": colorize(model="embedded", steps=steps)["color"],
    }
    mean, largest = probe_difference(comfy, nodes, "decode", "color")
    assert mean < limit
    assert largest < max(10 * limit, 1)
    path = comfy.base / "decoded.pt"
    comfy.probe(f"import torch; torch.save([a, b], {str(path)!r})", nodes, a=["image", 0], b=["decode", 0])
    photo, decoded = torch.load(path)
    headless = Colorizer.from_pretrained("mini")(photo.movedim(-1, 1), prompt="a dog", steps=steps, seed=1)
    assert (headless.movedim(1, -1) - decoded).abs().mean() * 255 < limit


def test_guidance_equals_cfg(comfy):
    nodes = full_graph(cfg=3.0, steps=4) | {"color": colorize(guidance=3.0, steps=4)["color"]}
    mean, _ = probe_difference(comfy, nodes, "decode", "color")
    assert mean < 0.01


def test_hints_through_ccd_equal_hints_in_the_pipeline(comfy):
    from graphs import POINT, ccd

    nodes = full_graph() | {"color": colorize(guidance=1, steps=2)["color"]}
    nodes["hints"] = node("SeAdaHints", image=["image", 0], points=POINT, mask_color="#000000")
    nodes["spread"] = node("SeAdaPropagateHints", image=["image", 0], hints=["hints", 0])
    nodes["ccd"] = ccd(model=["control", 0], image=["image", 0], hints=["spread", 0])
    nodes["color"]["inputs"]["hints"] = ["hints", 0]
    nodes["sample"]["inputs"]["model"] = ["ccd", 0]
    nodes["decode"]["inputs"]["hints"] = ["spread", 0]
    nodes["sample 2"] = node("KSampler", **nodes["sample"]["inputs"] | {"model": ["control", 0]})
    mean, _ = probe_difference(comfy, nodes, "decode", "color")
    assert mean < 0.2  # of 255: guidance makes rounding larger, as much as the random weights let it
    guided, free = latents(comfy, nodes, "sample", "sample 2")
    assert (guided - free).abs().mean() > 1e-3


def test_guidance_decodes_at_most_once_per_step_and_encodes_the_photo_once(comfy):
    from graphs import POINT, ccd

    code = """
decoder, calls = a.part("vq_decoder"), {}
decoder.calls = calls
def counted(name, function):
    def call(*values):
        calls[name] = calls.get(name, 0) + 1
        return function(*values)
    setattr(decoder, name, call)
for name in ("chroma", "gray_features", "cell_chroma"):
    counted(name, getattr(type(decoder), name).__get__(decoder))
out = a
"""
    graph = full_graph(steps=3)
    graph["hints"] = node("SeAdaHints", image=["image", 0], points=POINT, mask_color="#000000")
    graph["counted"] = node("Probe", code=code, a=["load", 1])
    end = """
decoder = a.part("vq_decoder")
result, _ = dict(decoder.calls), decoder.calls.clear()
"""
    found = {}
    for exposure, hint in ((0.0, 1.0), (0.2, 1.0), (0.2, 0.0)):
        guided = ccd(
            model=["control", 0], image=["image", 0], seada=["counted", 0], hints=["hints", 0], modulation=0.0,
            exposure=exposure, hint=hint,
        )  # fmt: skip
        nodes = graph | {"ccd": guided, "sample": node("KSampler", **graph["sample"]["inputs"] | {"model": ["ccd", 0]})}
        found[exposure, hint] = comfy.probe(end, nodes, a=["counted", 0], b=["sample", 0])
    assert found == {
        (0.0, 1.0): {"gray_features": 1, "cell_chroma": 12},
        (0.2, 1.0): {"gray_features": 1, "cell_chroma": 12, "chroma": 3},
        (0.2, 0.0): {"gray_features": 1, "chroma": 3},
    }
    code = "for name in ('chroma', 'gray_features', 'cell_chroma', 'calls'): delattr(a.part('vq_decoder'), name)"
    comfy.probe(code, graph, a=["counted", 0])


def test_token_diffusion_equals_the_pipelines(comfy):
    path = comfy.base / "tokens.pt"
    nodes = full_graph(token_steps=3)
    comfy.probe(f"import torch; torch.save([a, b], {str(path)!r})", nodes, a=["image", 0], b=["decode", 0])
    photo, decoded = torch.load(path)
    colorizer = Colorizer.from_pretrained(str(comfy.base / "models" / "seada" / "tiny"))
    headless = colorizer(photo.movedim(-1, 1), prompt="a dog", steps=2, guidance=1, seed=1, token_steps=3)
    assert (headless.movedim(1, -1) - decoded).abs().mean() * 255 < 1


def test_tiles_decode_to_the_same_picture(comfy):
    size = {"upscale_method": "bicubic", "width": 600, "height": 400, "crop": "disabled"}
    nodes = full_graph() | {"big": node("ImageScale", image=["image", 0], **size)}
    for name in ("control", "latent", "decode"):
        nodes[name]["inputs"]["image"] = ["big", 0]
    nodes["decode 2"] = node("SeAdaVQDecode", **nodes["decode"]["inputs"] | {"tiled": True})
    mean, largest = probe_difference(comfy, nodes, "decode", "decode 2")
    assert mean < 0.05
    assert largest < 2


def test_tiles_are_used_when_memory_is_short(comfy):
    code = """
decoder = a.part("vq_decoder")
whole = decoder.chroma
def short(z, gray, features=None):
    if gray.shape[-1] > 550:
        raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9999999999 bytes.")
    return whole(z, gray, features)
decoder.chroma = short
out = a
"""
    size = {"upscale_method": "bicubic", "width": 600, "height": 400, "crop": "disabled"}
    nodes = full_graph() | {"big": node("ImageScale", image=["image", 0], **size)}
    for name in ("control", "latent", "decode"):
        nodes[name]["inputs"]["image"] = ["big", 0]
    nodes["short"] = node("Probe", code=code, a=["load", 1])
    nodes["decode"]["inputs"]["seada"] = ["short", 0]
    shape = comfy.probe(
        "del a.part('vq_decoder').chroma; result = list(b.shape)", nodes, a=["short", 0], b=["decode", 0]
    )
    assert shape == [1, 400, 600, 3]


# --- patches leave no trace -------------------------------------------------------------------------------------------


def test_strength_0_is_bit_identical_to_no_node(comfy):
    from graphs import POINT, ccd

    nodes = full_graph()
    nodes["hints"] = node("SeAdaHints", image=["image", 0], points=POINT, mask_color="#000000")
    nodes["control"]["inputs"]["strength"] = 0.0
    nodes["ccd"] = ccd(model=["control", 0], image=["image", 0], scale=0.0, modulation=0.0, hints=["hints", 0])
    nodes["sample"]["inputs"]["model"] = ["ccd", 0]
    nodes["sample 2"] = node("KSampler", **nodes["sample"]["inputs"] | {"model": ["load", 0]})
    with_nodes, without = latents(comfy, nodes, "sample", "sample 2")
    assert torch.equal(with_nodes, without)


def test_a_clone_s_patches_never_touch_the_original_and_a_second_queue_gives_the_same(comfy):
    nodes = full_graph(cfg=2.0)
    nodes["sample 2"] = node("KSampler", **nodes["sample"]["inputs"] | {"model": ["load", 0]})
    patched, plain = latents(comfy, nodes, "sample", "sample 2")
    forget(comfy)
    (plain_alone,) = latents(comfy, nodes, "sample 2")
    forget(comfy)
    plain_first, patched_again = latents(comfy, nodes, "sample 2", "sample")
    assert torch.equal(plain, plain_alone) and torch.equal(plain, plain_first)
    assert torch.equal(patched, patched_again)
    assert not torch.equal(plain, patched)
    left = "result = sum(len(m._forward_hooks) for m in a.model.modules()) + len(a.wrappers) + len(a.object_patches)"
    assert comfy.probe(left, nodes, a=["load", 0]) == 0


def test_two_windows_equal_the_whole(comfy):
    nodes = full_graph(steps=4)
    halves = [nodes["control"]["inputs"] | {"start": start, "end": end} for start, end in ((0.0, 0.5), (0.5, 1.0))]
    nodes["first"] = node("SeAdaApplyControlNetRCA", **halves[0])
    nodes["second"] = node("SeAdaApplyControlNetRCA", **halves[1] | {"model": ["first", 0]})
    for name, model in (("sample 2", "second"), ("sample 3", "first")):
        nodes[name] = node("KSampler", **nodes["sample"]["inputs"] | {"model": [model, 0]})
    whole, both, half = latents(comfy, nodes, "sample", "sample 2", "sample 3")
    assert torch.equal(whole, both)
    assert not torch.equal(whole, half)


def test_the_controller_maps_the_photo_once_per_sampling(comfy):
    """And again for another size; the picture does not change."""
    code = """
mapper, out = a.patcher.model.module.mapper, a
mapper.calls, forward = 0, mapper.forward
def count(*given):
    mapper.calls += 1
    return forward(*given)
mapper.forward = count
"""
    nodes = full_graph(cfg=2.0, steps=3)
    nodes["counted"] = node("Probe", code=code, a=["load_control", 0])
    nodes["control"]["inputs"]["control"] = ["counted", 0]
    nodes["large"] = node("SeAdaEmptyLatent", **nodes["latent"]["inputs"] | {"size": 128})
    for name, latent in (("sample 2", "large"), ("sample 3", "latent")):
        nodes[name] = node("KSampler", **nodes["sample"]["inputs"] | {"latent_image": [latent, 0]})
    nodes["sample 3"]["inputs"]["seed"] = 2
    end = "mapper = a.patcher.model.module.mapper; result = mapper.calls; del mapper.forward, mapper.calls"
    wires = {letter: [name, 0] for letter, name in zip("bcd", ("sample", "sample 2", "sample 3"))}
    assert comfy.probe(end, nodes, a=["counted", 0], **wires) in (2, 3)  # as the order of the samplers is


def test_each_latent_of_a_batch_uses_its_own_picture(comfy):
    nodes = full_graph(cfg=2.0) | {"other": node("LoadImage", image="flipped.png")}
    nodes["both"] = node("ImageBatch", image1=["image", 0], image2=["other", 0])
    nodes["twice"] = node("RepeatLatentBatch", samples=["latent", 0], amount=2)
    for name, pictures in (("both", "both"), ("first", "image")):
        control = nodes["control"]["inputs"] | {"image": [pictures, 0]}
        nodes[f"control {name}"] = node("SeAdaApplyControlNetRCA", **control)
        sample = nodes["sample"]["inputs"] | {"model": [f"control {name}", 0], "latent_image": ["twice", 0]}
        nodes[f"sample {name}"] = node("KSampler", **sample)
    both, first = latents(comfy, nodes, "sample both", "sample first")
    assert torch.allclose(both[0], first[0], atol=1e-4)
    assert (both[1] - first[1]).abs().mean() > 1e-3


AREAS = """
import torch
from importlib import import_module
unet = import_module(type(a).__module__.rsplit(".nodes.", 1)[0] + ".nodes.unet")
gray = torch.arange(64 * 96.0).view(1, 1, 64, 96)
whole = lambda size: gray
conds = [[{"uuid": 1, "area": (8, 6, 0, 6)}, {"uuid": 2}], [{"uuid": 3, "area": (8, 6, 0, 0)}]]
options = {unet.LATENTS: unet.Latents((8, 12), conds)}
left_and_right = unet.condition(whole, torch.zeros(2, 4, 8, 6), options | {"uuids": [3, 1]})
all_of_it = unet.condition(whole, torch.zeros(1, 4, 8, 12), options | {"uuids": [2]})
two_each = unet.condition(lambda size: torch.cat([gray, gray + 1]), torch.zeros(4, 4, 8, 12), {"uuids": [2, 2]})
result = [
    torch.equal(left_and_right, torch.cat([gray[..., :48], gray[..., 48:]])),
    torch.equal(all_of_it, gray),
    torch.equal(two_each, torch.cat([gray, gray + 1, gray, gray + 1])),
]
"""


def test_each_row_uses_its_part_of_the_photo(comfy):
    assert comfy.probe(AREAS, {"load": node("SeAdaLoadModel", model_name="tiny")}, a=["load", 1]) == [True] * 3


def test_areas_and_masks_sample(comfy):
    nodes = full_graph(cfg=2.0) | {"other": node("SeAdaSemanticAdapter", seada=["load", 1], text="sky", strength=1.0)}
    area = {"width": 64, "height": 64, "x": 32, "y": 0, "strength": 1.0}
    nodes["right"] = node("ConditioningSetArea", conditioning=["other", 0], **area)
    nodes["joined"] = node("ConditioningCombine", conditioning_1=["text", 0], conditioning_2=["right", 0])
    nodes["sample 2"] = node("KSampler", **nodes["sample"]["inputs"] | {"positive": ["joined", 0]})
    plain, with_area = latents(comfy, nodes, "sample", "sample 2")
    assert torch.isfinite(with_area).all()
    assert (plain - with_area)[..., 6:].abs().mean() > 10 * (plain - with_area)[..., :2].abs().mean()


def test_gradients_pass_weights_that_were_moved_in_inference_mode(comfy):
    """On a GPU ComfyUI moves weights inside inference mode; here they are cloned in inference mode instead."""
    from graphs import POINT, ccd

    code = """
import torch
decoder = a.patcher("vq_decoder").model
for layer in decoder.modules():
    for name, parameter in list(layer.named_parameters(recurse=False)):
        layer.register_parameter(name, torch.nn.Parameter(parameter.clone(), requires_grad=False))
assert next(decoder.parameters()).is_inference()
out = a
"""
    nodes = full_graph()
    nodes["moved"] = node("Probe", code=code, a=["load", 1])
    nodes["hints"] = node("SeAdaHints", image=["image", 0], points=POINT, mask_color="#000000")
    nodes["ccd"] = ccd(model=["load", 0], image=["image", 0], seada=["moved", 0], hints=["hints", 0])
    nodes["sample"]["inputs"]["model"] = ["ccd", 0]
    (guided,) = latents(comfy, nodes, "sample")
    assert torch.isfinite(guided).all()


@pytest.mark.slow
def test_a_full_size_sd15_model_goes_through_the_patches(comfy, tmp_path):
    """Random weights at SD1.5's sizes: control, CCD, stock CLIP with the adapter, VQ decoding."""
    from graphs import POINT, ccd

    from seada_core import presets
    from seada_core.weights import part_files

    folder = comfy.base / "models" / "seada" / "adapter"
    folder.mkdir(exist_ok=True)
    for part in ("semantic_encoder", "semantic_adapter"):
        module = part_files.build(part, presets.SD15)
        part_files.save_part(folder / f"{part}.safetensors", part, presets.SD15, module)
    nodes = full_graph(model="embedded", cfg=2.0)
    nodes["sd15"] = node("Probe", code=SD15, a=["load", 1])
    for name in ("model", "clip", "control"):
        nodes[name] = node("Probe", code=f"out = a[{name!r}]", a=["sd15", 0])
    nodes["adapter"] = node("SeAdaLoadModel", model_name="adapter")
    for name in ("text", "empty"):
        nodes[name]["inputs"] |= {"seada": ["adapter", 1], "clip": ["clip", 0]}
    nodes["apply"] = node(
        "SeAdaApplyControlNetRCA",
        **{"model": ["model", 0], "control": ["control", 0], "image": ["image", 0], "strength": 1.0},
        **{"start": 0.0, "end": 1.0},
    )
    nodes["hints"] = node("SeAdaHints", image=["image", 0], points=POINT, mask_color="#000000")
    nodes["ccd"] = ccd(model=["apply", 0], image=["image", 0], hints=["hints", 0], modulation=0.0)
    nodes["latent"]["inputs"]["size"] = 256
    nodes["sample"]["inputs"]["model"] = ["ccd", 0]
    shape, finite, changed = comfy.probe(
        "result = [list(a.shape), bool(a.isfinite().all()), float((a - b).abs().mean())]",
        nodes, a=["decode", 0], b=["image", 0],
    )  # fmt: skip
    assert shape == [1, 80, 120, 3]
    assert finite and changed > 1e-3
