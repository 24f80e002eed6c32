"""The pack in a real ComfyUI: what it registers, and its nodes with good and bad input."""

import importlib.util
import json
from pathlib import Path

import pytest
from comfy_server import PromptError, colorize, full_graph, node
from graphs import POINT, ccd

ROOT = Path(__file__).resolve().parents[2]
NODES = [
    *("SeAdaApplyControlNetRCA", "SeAdaCCD", "SeAdaCaptioner", "SeAdaColorize", "SeAdaColorizeVideo"),
    *("SeAdaEmptyLatent", "SeAdaHints"),
    *("SeAdaHintsFromImage", "SeAdaHintsFromMasks", "SeAdaHintsFromReference", "SeAdaHintsFromText"),
    *("SeAdaLoadControlNetRCA", "SeAdaLoadFolder", "SeAdaLoadModel", "SeAdaLoadPhoto", "SeAdaMergeLuminance"),
    *("SeAdaPalette", "SeAdaPaletteBank", "SeAdaPropagateHints", "SeAdaSavePhoto", "SeAdaSemanticAdapter"),
    *("SeAdaSteadyColors", "SeAdaVQDecode"),
]
DIFFERENCE = "result = float((a - b).abs().max())"


def shown_inputs(info: dict) -> dict[str, dict]:
    """The options of a node's inputs by name, without those that ComfyUI fills in."""
    kinds = (kind for name, kind in info["input"].items() if name != "hidden")
    return {key: options for kind in kinds for key, (_, options) in kind.items()}


def test_outside_comfyui_the_pack_does_nothing():
    spec = importlib.util.spec_from_file_location("pack", ROOT / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert not hasattr(module, "comfy_entrypoint")


@pytest.mark.slow
def test_importing_the_pack_takes_little_more_time_than_compiling_it(comfy):
    """Both in one thread's time of one process, so that other jobs on the machine hardly count."""
    code = """
import importlib.util, pathlib, sys, time
spec = importlib.util.spec_from_file_location("again", ROOT + "/__init__.py", submodule_search_locations=[ROOT])
sys.modules["again"] = module = importlib.util.module_from_spec(spec)
start = time.thread_time()
spec.loader.exec_module(module)
importing = time.thread_time() - start
for file in [f for room in ("nodes", "seada_core") for f in pathlib.Path(ROOT, room).rglob("*.py")]:
    compile(file.read_text("utf-8"), str(file), "exec")
result = importing / (time.thread_time() - start - importing)
"""
    assert comfy.probe(code.replace("ROOT", repr(str(ROOT)))) < 3
    assert comfy.heavy_at_start == []


def test_every_node_and_each_of_its_sockets_is_explained(comfy):
    ours = {name: info for name, info in comfy.object_info.items() if name.startswith("SeAda")}
    assert sorted(ours) == NODES
    for name, info in ours.items():
        assert info["category"].split("/")[0] == "SeAda"
        assert info["description"] and info["display_name"]
        assert all(info["output_tooltips"])
        for key, options in shown_inputs(info).items():
            assert options.get("tooltip"), f"{name}.{key}"


def test_the_texts_generated_from_the_schemas_are_the_servers(comfy):
    english = json.loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text())
    for name in NODES:
        info, text = comfy.object_info[name], english[name]
        inputs = {key: options["tooltip"] for key, options in shown_inputs(info).items()}
        assert {key: field["tooltip"] for key, field in text["inputs"].items()} == inputs
        outputs = list(zip(info["output_name"], info["output_tooltips"]))
        assert [(field["name"], field["tooltip"]) for field in text["outputs"].values()] == outputs
        assert (text["display_name"], text["description"]) == (info["display_name"], info["description"])


def test_the_server_gives_the_help_pages_and_translations_to_its_page(comfy):
    for name in NODES:
        page = (ROOT / "web" / "docs" / f"{name}.md").read_text()
        assert comfy.read(f"/extensions/ComfyUI-SeAda/docs/{name}.md") == page
        chinese = ROOT / "web" / "docs" / name / "zh.md"
        assert comfy.read(f"/extensions/ComfyUI-SeAda/docs/{name}/zh.md") == chinese.read_text("utf-8")
        for key, options in shown_inputs(comfy.object_info[name]).items():
            assert f"- **{key}** (" in page and options["tooltip"] in page, f"{name}.{key}"
    assert set(comfy.get("/i18n")["zh"]["nodeDefs"]) >= set(NODES)


# --- colour in one node -----------------------------------------------------------------------------------------------


def test_the_photo_keeps_its_size_and_luminance(comfy):
    code = """
weights = a.new_tensor([0.299, 0.587, 0.114])
result = [list(a.shape), float(((a - b) @ weights).abs().max()), float((a - a.mean(-1, keepdim=True)).abs().max())]
"""
    shape, error, chroma = comfy.probe(code, colorize("odd.png"), a=["color", 0], b=["image", 0])
    assert shape == [1, 45, 67, 3]
    assert error < 1e-3
    assert chroma > 0.02


def test_a_batch_equals_single_pictures(comfy):
    nodes = colorize() | {"other": node("LoadImage", image="flipped.png")}
    nodes["both"] = node("ImageBatch", image1=["image", 0], image2=["other", 0])
    for name, source in (("color 2", "other"), ("color both", "both")):
        nodes[name] = node("SeAdaColorize", **nodes["color"]["inputs"] | {"image": [source, 0]})
    code = "result = [(c[0] == a[0]).all().item(), (c[1] == b[0]).all().item(), (a == b).all().item()]"
    wires = {"a": ["color", 0], "b": ["color 2", 0], "c": ["color both", 0]}
    assert comfy.probe(code, nodes, **wires) == [True, True, False]


def test_alpha_is_dropped(comfy):
    nodes = colorize() | {
        "rgba": node("Probe", code="import torch; out = torch.cat([a, a[..., :1]], -1)", a=["image", 0])
    }
    nodes["color 2"] = node("SeAdaColorize", **nodes["color"]["inputs"] | {"image": ["rgba", 0]})
    assert comfy.probe(DIFFERENCE, nodes, a=["color", 0], b=["color 2", 0]) == 0


def test_an_empty_prompt_uses_the_captioner(comfy):
    nodes = colorize(prompt="")
    nodes["caption"] = node(
        "SeAdaCaptioner", image=["image", 0], captioner="the model's own", beams=1, max_tokens=30, seada=["load", 1]
    )
    nodes["color 2"] = node("SeAdaColorize", **nodes["color"]["inputs"] | {"prompt": ["caption", 0]})
    assert comfy.probe(DIFFERENCE, nodes, a=["color", 0], b=["color 2", 0]) == 0


def test_one_caption_for_each_picture(comfy):
    nodes = colorize() | {"other": node("LoadImage", image="flipped.png")}
    nodes["both"] = node("ImageBatch", image1=["image", 0], image2=["other", 0])
    nodes["caption"] = node(
        "SeAdaCaptioner", image=["both", 0], captioner="the model's own", beams=1, max_tokens=30, seada=["load", 1]
    )
    nodes["show"] = node("PreviewAny", source=["caption", 0])
    captions = comfy.run({name: nodes[name] for name in ("load", "image", "other", "both", "caption", "show")})
    assert len(captions["show"]["text"]) == 2
    assert all(captions["show"]["text"])


def test_an_interrupted_prompt_stops_and_the_next_one_works(comfy):
    import time

    prompt = colorize(steps=1000) | {"save": node("PreviewImage", images=["color", 0])}
    queued = comfy.queue(prompt)
    while comfy.get("/queue")["queue_running"] == []:
        time.sleep(0.1)
    time.sleep(1)
    comfy.post("/interrupt", {})
    with pytest.raises(PromptError, match="interrupted"):
        comfy.wait(queued)
    assert comfy.run(colorize() | {"save": node("PreviewImage", images=["color", 0])})["save"]["images"]


# --- hints ------------------------------------------------------------------------------------------------------------


def test_a_hinted_place_has_the_hints_colour(comfy):
    nodes = colorize()
    nodes["hints"] = node("SeAdaHints", image=["image", 0], points=POINT, mask_color="#000000")
    nodes["color"]["inputs"]["hints"] = ["hints", 0]
    code = "result = (a[0, 18:22, 28:32].mean((0, 1)) - a[0, 18:22, 28:32].mean()).tolist()"
    red, green, blue = comfy.probe(code, nodes, a=["color", 0])
    assert red > 0.1 and green < red and blue < green


def test_a_mask_gets_its_colour_and_hints_join(comfy):
    nodes = colorize() | {"mask": node("SolidMask", value=1.0, width=120, height=80)}
    nodes["first"] = node("SeAdaHints", image=["image", 0], points="[]", mask_color="#4060d0", mask=["mask", 0])
    nodes["both"] = node("SeAdaHints", image=["image", 0], points=POINT, mask_color="#000000", hints=["first", 0])
    code = "result = [(a.map[0, 2] == 1).all().item(), a.map[0, :2, 20, 30].tolist(), a.map[0, :2, 70, 100].tolist()]"
    everywhere, point, elsewhere = comfy.probe(code, nodes, a=["both", 0])
    assert everywhere
    assert point[1] > 0.2 > 0 > point[0]  # red: Cr up, Cb down
    assert elsewhere[0] > 0.2 > 0 > elsewhere[1]  # blue


def test_empty_hints_change_nothing(comfy):
    nodes = colorize()
    nodes["hints"] = node("SeAdaHints", image=["image", 0], points="[]", mask_color="#000000")
    nodes["color 2"] = node("SeAdaColorize", **nodes["color"]["inputs"] | {"hints": ["hints", 0]})
    assert comfy.probe(DIFFERENCE, nodes, a=["color", 0], b=["color 2", 0]) == 0


def test_a_reference_gives_the_share_of_superpixels_asked_for(comfy):
    nodes = colorize()
    nodes["hints"] = node("SeAdaHintsFromImage", reference=["image", 0], segments=50, share=0.4, seed=1)
    covered, shown = comfy.probe(
        "result = [float(a.map[:, 2].mean()), list(b.shape)]", nodes, a=["hints", 0], b=["hints", 1]
    )
    assert 0.2 < covered < 0.6
    assert shown == [1, 80, 120, 3]


def test_a_palette_attracts_colours(comfy):
    nodes = colorize() | {"palette": node("SeAdaPalette", colors="#2040e0", count=3)}
    nodes["color 2"] = node("SeAdaColorize", **nodes["color"]["inputs"] | {"hints": ["palette", 0]})
    code = """
def distance(x):  # to the nearer of blue and grey, in (b - y, r - y)
    y = (x @ x.new_tensor([0.299, 0.587, 0.114]))[..., None]
    chroma = (x - y)[..., [2, 0]]
    return min_distance(chroma)
def min_distance(chroma):
    import torch
    colors = torch.tensor([[0.878 - 0.272, 0.125 - 0.272], [0.0, 0.0]])
    return float((chroma[..., None, :] - colors).pow(2).sum(-1).amin(-1).mean())
result = [distance(a), distance(b)]
"""
    without, with_palette = comfy.probe(code, nodes, a=["color", 0], b=["color 2", 0])
    assert with_palette < without


def test_merge_luminance_takes_colour_from_one_and_all_else_from_the_other(comfy):
    nodes = colorize() | {"small": node("LoadImage", image="odd.png")}
    nodes["merge"] = node("SeAdaMergeLuminance", color=["small", 0], image=["image", 0])
    code = """
y = lambda x: x @ x.new_tensor([0.299, 0.587, 0.114])
result = [list(a.shape), float((y(a) - y(b)).abs().max()), float((a - b).abs().mean())]
"""
    shape, luminance, difference = comfy.probe(code, nodes, a=["merge", 0], b=["image", 0])
    assert shape == [1, 80, 120, 3]
    assert luminance < 1e-3
    assert difference < 0.02


# --- bad input --------------------------------------------------------------------------------------------------------


def _hints(**inputs) -> dict:
    settings = {"image": ["image", 0], "points": "[]", "mask_color": "#000000"}
    nodes = {"image": node("LoadImage", image="photo.png"), "mask": node("SolidMask", value=1.0, width=9, height=9)}
    nodes["hints"] = node("SeAdaHints", **settings | inputs)
    return nodes | {"show": node("PreviewImage", images=["hints", 1])}


def _graph(**changes) -> dict:
    nodes = full_graph()
    for name, inputs in changes.items():
        nodes[name]["inputs"] |= inputs
    return nodes | {"show": node("PreviewImage", images=["decode", 0])}


NOT_LISTED = "'nowhere.*' not in "  # newer ComfyUIs check the list before they call the node


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (_hints(points="{"), "points is not JSON"),
        (_hints(points='[{"x": 1}]'), "points, hint 1 has no color"),
        (_hints(points=POINT.replace("30", "300")), "lies outside the photo, which is 120 wide"),
        (_hints(points=POINT.replace("#d04020", "reddish")), "expected a CSS colour"),
        (_hints(mask=["mask", 0]), "the mask is 9 x 9 and the picture 120 x 80"),
        (_graph(load_control={"control_name": "tiny/unet.safetensors"}), "holds the part 'unet', expected"),
        (_graph(load_control={"control_name": "embedded"}), "with text 192 wide.*this MODEL is a UNet with"),
        (
            _graph(load_control={"control_name": "nowhere.safetensors"}),
            f"no file nowhere.*put it there, or choose|{NOT_LISTED}",
        ),
        (_graph(load={"model_name": "nowhere"}), f"no folder nowhere.*put part files there, or choose|{NOT_LISTED}"),
        (_graph(control={"start": 0.9, "end": 0.1}), "must not be after end"),
        (_graph(decode={"token_steps": 999}), "bigger than max"),
        (
            {**_graph(latent={"image": ["tall", 0]}), "tall": node("LoadImage", image="tall.png")},
            "a different shape",
        ),
    ],
)  # fmt: skip
def test_bad_input_gets_a_plain_message(comfy, prompt, message):
    with pytest.raises(PromptError, match=message):
        comfy.run(prompt)


def test_pictures_and_latents_of_other_numbers_get_a_plain_message(comfy):
    nodes = _graph() | {"other": node("LoadImage", image="flipped.png")}
    nodes["both"] = node("ImageBatch", image1=["image", 0], image2=["other", 0])
    nodes["three"] = node("RepeatLatentBatch", samples=["latent", 0], amount=3)
    nodes["sample"]["inputs"]["latent_image"] = ["three", 0]
    nodes["control"]["inputs"]["image"] = ["both", 0]
    with pytest.raises(PromptError, match="2 pictures, expected 1 or 3"):
        comfy.run(nodes)


FLUX = """
import comfy.model_patcher, torch
class Flux(torch.nn.Module): pass
model = torch.nn.Module()
model.diffusion_model = Flux()
out = comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))
"""
SDXL = (
    "import comfy.latent_formats; out = a.clone(); out.add_object_patch('latent_format', comfy.latent_formats.SDXL())"
)


def test_other_kinds_of_model_get_a_plain_message(comfy):
    nodes = _graph() | {"flux": node("Probe", code=FLUX), "sdxl": node("Probe", code=SDXL, a=["load", 0])}
    nodes["control"]["inputs"]["model"] = ["flux", 0]
    with pytest.raises(PromptError, match=r"this MODEL is a Flux\. Connect the MODEL that it was trained with"):
        comfy.run(nodes)
    nodes["control"]["inputs"]["model"] = ["load", 0]
    nodes["ccd"] = ccd(model=["sdxl", 0], image=["image", 0])
    nodes["sample"]["inputs"]["model"] = ["ccd", 0]
    with pytest.raises(PromptError, match=r"works on Stable Diffusion 1\.5's latents, and this MODEL has SDXL's"):
        comfy.run(nodes)


def test_a_folder_without_a_unet_serves_as_parts_beside_another_model(comfy, tiny_model):
    import shutil

    folder = comfy.base / "models" / "seada" / "parts"
    folder.mkdir(exist_ok=True)
    shutil.copy(tiny_model / "vq_decoder.safetensors", folder)
    nodes = full_graph() | {"parts": node("SeAdaLoadModel", model_name="parts")}
    nodes["decode"]["inputs"]["seada"] = ["parts", 1]
    assert comfy.probe("result = list(a.shape)", nodes, a=["decode", 0]) == [1, 80, 120, 3]
    nodes["control"]["inputs"]["model"] = ["parts", 0]
    blocked = comfy.run(nodes | {"show": node("PreviewImage", images=["decode", 0])})
    assert "show" not in blocked  # ComfyUI shows the reason only in the page
    with pytest.raises(PromptError, match="SeAda Colorize needs a whole model"):
        comfy.probe("", colorize(model="parts"), a=["color", 0])


def test_the_search_finds_nodes_by_what_people_call_them(comfy):
    found = comfy.object_info["SeAdaColorize"].get("search_aliases")
    if found is None:
        pytest.skip("this ComfyUI does not search by other names")
    assert {"deoldify", "black and white", "b&w", "colorization", "recolor", "old photo"} <= set(found)
