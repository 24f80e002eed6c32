"""SeAda Palette Bank in a real ComfyUI."""

import json

import pytest
from comfy_server import PromptError, colorize, node

from seada_core.hints import palettes

DIFFERENCE = "result = float((a - b).abs().max())"
LIGHTHOUSE = {
    "name": "Lamp room",
    "description": "a lighthouse keeper",
    "colors": [{"color": "#d0a030", "name": "oil lamp"}, {"color": "#203050", "name": "night"}],
}


def bank(**inputs) -> dict:
    """SeAdaPaletteBank on a photo; its SEADA_HINTS is ["bank", 0]."""
    settings = {"image": ["image", 0], "scheme": "automatic", "count": 1, "strength": 1.0, "caption": ""}
    return {"image": node("LoadImage", image="photo.png"), "bank": node("SeAdaPaletteBank", **settings | inputs)}


@pytest.fixture
def user_files(comfy):
    folder = comfy.base / "models" / "seada_palettes"
    folder.mkdir(exist_ok=True)
    yield folder
    for file in folder.iterdir():
        file.unlink()


def test_automatic_is_first_then_every_scheme(comfy):
    kind, options = comfy.object_info["SeAdaPaletteBank"]["input"]["required"]["scheme"]
    names = kind if isinstance(kind, list) else options["options"]
    assert names == ["automatic", *palettes.load_schemes()]


def test_a_caption_finds_schemes_which_are_joined_and_shown(comfy):
    code = "result = [list(a.palette), a.palette_strength, list(b.shape), c]"
    nodes = bank(caption="a steam train on a bridge", count=2, strength=0.5)
    found = [scheme for scheme, _ in palettes.retrieve("a steam train on a bridge", palettes.load_schemes(), count=2)]
    colors, strength, shape, name = comfy.probe(code, nodes, a=["bank", 0], b=["bank", 1], c=["bank", 2])
    assert colors == list(palettes.join(found))
    assert strength == 0.5
    assert shape == [1, *palettes.swatches(found).size[::-1], 3]
    assert name == " + ".join(scheme.name for scheme in found)


def test_without_a_caption_the_scheme_is_found_from_the_photo(comfy):
    nodes = bank()
    name = comfy.probe("result = a", nodes, a=["bank", 2])
    assert name in palettes.load_schemes()
    assert comfy.probe("result = a", bank(caption="qqq zzz"), a=["bank", 2]) == name  # near no scheme: it looks too


def test_earlier_hints_are_kept(comfy):
    nodes = bank(scheme="Dutch interior", hints=["palette", 0])
    nodes["palette"] = node("SeAdaPalette", colors="#123456", count=3, hints=["points", 0])
    points = '[{"x": 30, "y": 20, "color": "#d04020"}]'
    nodes["points"] = node("SeAdaHints", image=["image", 0], points=points, mask_color="#ffffff")
    nodes["more"] = node("SeAdaHints", image=["image", 0], points=points, mask_color="#ffffff", hints=["bank", 0])
    nodes["spread"] = node("SeAdaPropagateHints", image=["image", 0], hints=["more", 0])
    code = "result = [[list(h.palette), h.palette_strength, float(h.map.sum()) != 0] for h in (a, b)]"
    scheme = palettes.load_schemes()["Dutch interior"]
    expected = [["#123456", *scheme.colors], 1.0, True]
    assert comfy.probe(code, nodes, a=["bank", 0], b=["spread", 0]) == [expected] * 2


def test_a_scheme_moves_colours_and_strength_0_does_not(comfy):
    nodes = colorize() | bank(scheme="Arsenic green parlour")
    nodes["none"] = node("SeAdaPaletteBank", **nodes["bank"]["inputs"] | {"strength": 0.0})
    for source in ("bank", "none"):
        nodes[f"by {source}"] = node("SeAdaColorize", **nodes["color"]["inputs"] | {"hints": [source, 0]})
    assert comfy.probe(DIFFERENCE, nodes, a=["color", 0], b=["by none", 0]) == 0
    assert comfy.probe(DIFFERENCE, nodes, a=["color", 0], b=["by bank", 0]) > 1e-3


def test_ccd_follows_a_scheme(comfy):
    from comfy_server import full_graph

    nodes = full_graph() | bank(scheme="Arsenic green parlour", strength=4.0)
    weights = {"hint": 1.0, "palette": 0.3, "exposure": 0.0, "constancy": 0.0, "smoothness": 0.0, "modulation": 1.0}
    wires = {"model": ["control", 0], "image": ["image", 0], "seada": ["load", 1], "hints": ["bank", 0]}
    nodes["ccd"] = node("SeAdaCCD", **wires, **weights, scale=6.0, start=0.0, end=1.0)
    nodes["sample 2"] = node("KSampler", **nodes["sample"]["inputs"] | {"model": ["ccd", 0]})
    nodes["decode 2"] = node("SeAdaVQDecode", **nodes["decode"]["inputs"] | {"latent": ["sample 2", 0]})
    assert comfy.probe(DIFFERENCE, nodes, a=["decode", 0], b=["decode 2", 0]) > 1e-3


def test_user_files_are_there_without_a_restart(comfy, user_files):
    def names():
        kind, options = comfy.get("/object_info/SeAdaPaletteBank")["SeAdaPaletteBank"]["input"]["required"]["scheme"]
        return kind if isinstance(kind, list) else options["options"]

    nodes = bank(caption="a lighthouse keeper")
    before = comfy.probe("result = a", nodes, a=["bank", 2])
    (user_files / "mine.json").write_text(json.dumps({"schemes": [LIGHTHOUSE]}))
    assert names()[-1] == "Lamp room"
    assert comfy.probe("result = a", nodes, a=["bank", 2]) == "Lamp room" != before
    hostile = LIGHTHOUSE | {"name": "<script>alert(1)</script>"}
    (user_files / "bad.json").write_text(json.dumps({"schemes": [hostile]}))
    (user_files / "deep.json").write_text("[" * 100_000)
    assert names()[-1] == "Lamp room" and len(names()) == len(palettes.load_schemes()) + 2
    assert comfy.probe("result = list(a.palette)", bank(scheme="Lamp room"), a=["bank", 0]) == ["#d0a030", "#203050"]
    with pytest.raises(PromptError, match=r"deep\.json is not a JSON file"):
        comfy.run(bank(scheme="Deep") | {"show": node("PreviewImage", images=["bank", 1])})


@pytest.mark.parametrize("scheme", ["Nile jorney", "", 7])
def test_an_unknown_scheme_is_refused_with_names_like_it(comfy, scheme):
    with pytest.raises(PromptError, match="Nile journey" if scheme == "Nile jorney" else "no colour scheme"):
        comfy.queue(bank(scheme=scheme) | {"show": node("PreviewImage", images=["bank", 1])})


def test_without_a_captioner_the_error_says_what_to_do(comfy):
    nodes = bank()
    code = """
import sys
bridge = next(m for n, m in sys.modules.items() if n.endswith("nodes.bridge") and hasattr(m, "bundle"))
nodes = sys.modules[bridge.__name__.replace("bridge", "palettes")]
class Bare:
    folder = "here"
    def has(self, part): return False
kept, bridge.bundle = bridge.bundle, Bare
try:
    nodes.nearest(None, "", 1)
    result = "nothing"
except ValueError as error:
    result = str(error)
finally:
    bridge.bundle = kept
"""
    assert "no captioner.safetensors" in comfy.probe(code, nodes)
