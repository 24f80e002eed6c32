"""SeAda Hints from Text and SeAda Hints from Reference in a real ComfyUI."""

import pytest
from clipseg import tiny_clipseg
from comfy_server import PromptError, colorize, full_graph, node

DIFFERENCE = "result = float((a - b).abs().max())"
SOFT = "result = [list(a.soft.shape), float(a.soft[:, 2].max()), list(b.shape), a.map is None]"
# mean chroma (b - y, r - y) inside the cup
CUP = """
def chroma(x):
    y = (x @ x.new_tensor([0.299, 0.587, 0.114]))[..., None]
    return (x - y)[0, 20:30, 45:60][..., [2, 0]].mean((0, 1)).tolist()
result = [chroma(x) for x in (a, b, c) if x is not None]
"""


def words(text: str = "a red cup on a blue table", model: str = "embedded", **inputs) -> dict:
    """SeAdaHintsFromText on a photo of a cup; its SEADA_HINTS is ["words", 0]."""
    settings = {"image": ["image", 0], "text": text, "source": "auto", "strength": 1.0, "seed": 0}
    return {
        "image": node("LoadImage", image="photo.png"),
        "load": node("SeAdaLoadModel", model_name=model),
        "words": node("SeAdaHintsFromText", **settings | {"seada": ["load", 1]} | inputs),
    }


def reference(**inputs) -> dict:
    """SeAdaHintsFromReference; its SEADA_HINTS is ["reference", 0]."""
    warm = "import torch; out = a * torch.tensor([1.0, 0.8, 0.5])"
    settings = {"image": ["image", 0], "reference": ["warm", 0], "strength": 1.0}
    return {
        "image": node("LoadImage", image="photo.png"),
        "flipped": node("LoadImage", image="flipped.png"),
        "warm": node("Probe", code=warm, a=["flipped", 0]),
        "reference": node("SeAdaHintsFromReference", **settings | inputs),
    }


def batch(nodes: dict) -> dict:
    """With two photos as one batch, ["both", 0]."""
    both = node("ImageBatch", image1=["image", 0], image2=["other", 0])
    return nodes | {"other": node("LoadImage", image="flipped.png"), "both": both}


# --- words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("source", "model"), [("auto", "embedded"), ("recognition", "embedded"), ("auto", "tiny")])
def test_words_become_soft_hints(comfy, source, model):
    text = "a red cup" if model == "embedded" else "a red dog on green grass"
    nodes = words(text, model, source=source)
    shape, top, shown, no_points = comfy.probe(SOFT, nodes, a=["words", 0], b=["words", 1])
    assert (shape[0], shape[1], shown, no_points) == (1, 3, [1, 80, 120, 3], True)
    assert 0.3 < top <= 0.95
    plain = "a cup" if model == "embedded" else "a dog on grass"
    assert comfy.probe("result = a", nodes, a=["words", 2]) == plain


def test_the_thing_takes_its_colour_in_one_node(comfy):
    nodes = colorize(model="embedded") | words("a red cup")
    nodes["blue"] = node("SeAdaHintsFromText", **nodes["words"]["inputs"] | {"text": "a blue cup"})
    for name in ("words", "blue"):
        nodes[f"by {name}"] = node("SeAdaColorize", **nodes["color"]["inputs"] | {"hints": [name, 0]})
    without, red, blue = comfy.probe(CUP, nodes, a=["color", 0], b=["by words", 0], c=["by blue", 0])
    assert red[1] > without[1] + 0.1 and red[1] > red[0] + 0.1
    assert blue[0] > without[0] + 0.1 and blue[0] > blue[1] + 0.1


@pytest.mark.slow
def test_the_thing_takes_its_colour_in_the_full_graph(comfy):
    """CCD ignores soft hints; VQ Decode applies them."""
    nodes = full_graph(model="embedded") | words("a red cup")
    weights = {"hint": 1.0, "palette": 0.3, "exposure": 0.0, "constancy": 0.0, "smoothness": 0.0, "modulation": 1.0}
    wires = {"model": ["control", 0], "image": ["image", 0], "seada": ["load", 1], "hints": ["words", 0]}
    nodes["ccd"] = node("SeAdaCCD", **wires, **weights, scale=6.0, start=0.0, end=1.0)
    nodes["sample 2"] = node("KSampler", **nodes["sample"]["inputs"] | {"model": ["ccd", 0]})
    nodes["by ccd"] = node("SeAdaVQDecode", **nodes["decode"]["inputs"] | {"latent": ["sample 2", 0]})
    nodes["by both"] = node("SeAdaVQDecode", **nodes["by ccd"]["inputs"] | {"hints": ["words", 0]})
    without, by_ccd, by_both = comfy.probe(CUP, nodes, a=["decode", 0], b=["by ccd", 0], c=["by both", 0])
    assert by_ccd == without
    assert by_both[1] > without[1] + 0.1 and by_both[1] > by_both[0] + 0.1


def test_a_point_wins_over_words(comfy):
    nodes = colorize(model="embedded") | words("a red cup")
    point = '[{"x": 52, "y": 25, "color": "#3060c0", "radius": 7}]'
    nodes["point"] = node("SeAdaHints", image=["image", 0], points=point, mask_color="#000000", hints=["words", 0])
    nodes["spread"] = node("SeAdaPropagateHints", image=["image", 0], hints=["point", 0])
    for name in ("point", "spread"):
        nodes[f"by {name}"] = node("SeAdaColorize", **nodes["color"]["inputs"] | {"hints": [name, 0]})
    for blue, red in comfy.probe(CUP, nodes, a=["by point", 0], b=["by spread", 0]):
        assert blue > 0.1 > 0 > red
    spread, shown = comfy.probe(
        "result = [float(a.soft.sum()), list(b.shape)]", nodes, a=["spread", 0], b=["spread", 1]
    )
    assert spread != 0 and shown == [1, 80, 120, 3]


@pytest.mark.parametrize(("text", "model"), [("a red cup", "embedded"), ("a red dog", "tiny")])
def test_a_batch_equals_single_photos(comfy, text, model):
    nodes = batch(words(text, model))
    for name in ("other", "both"):
        nodes[f"by {name}"] = node("SeAdaHintsFromText", **nodes["words"]["inputs"] | {"image": [name, 0]})
    code = "result = [float((c.soft[i] - x.soft[0]).abs().max()) for i, x in enumerate((a, b))] + [list(d.shape)]"
    wires = {"a": ["words", 0], "b": ["by other", 0], "c": ["by both", 0], "d": ["by both", 1]}
    assert comfy.probe(code, nodes, **wires) == [0, 0, [2, 80, 120, 3]]
    nodes["color"] = node("SeAdaColorize", **colorize(model=model)["color"]["inputs"] | {"image": ["both", 0]})
    nodes["color"]["inputs"]["hints"] = ["by both", 0]
    assert comfy.probe("result = list(a.shape)", nodes, a=["color", 0]) == [2, 80, 120, 3]


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"strength": 0.0}, {"text": "a cup on a table"}, {"text": ""}])
def test_no_strength_and_no_colours_change_nothing(comfy, change):
    nodes = colorize(model="embedded") | words(**change)
    nodes["by words"] = node("SeAdaColorize", **nodes["color"]["inputs"] | {"hints": ["words", 0]})
    assert comfy.probe(DIFFERENCE, nodes, a=["color", 0], b=["by words", 0]) == 0


def test_strength_scales_and_earlier_hints_stay(comfy):
    nodes = words("a red cup", hints=["palette", 0]) | {"palette": node("SeAdaPalette", colors="#123456", count=3)}
    nodes["half"] = node("SeAdaHintsFromText", **nodes["words"]["inputs"] | {"strength": 0.5})
    code = "result = [float((b.soft[:, 2] - a.soft[:, 2] / 2).abs().max()), list(a.palette)]"
    assert comfy.probe(code, nodes, a=["words", 0], b=["half", 0]) == [0, ["#123456"]]


def test_unknown_things_are_named(comfy):
    nodes = words("a red cup beside a purple zorblat")
    assert comfy.probe("result = a.soft is not None", nodes, a=["words", 0])
    assert "SeAda: 'zorblat' could not be found in every photo" in comfy.log.read_text()
    with pytest.raises(
        PromptError, match=r"could not find 'zorblat' in the photo: use another word, such as .*CLIPSeg.*SeAda Hints"
    ):
        comfy.run(words("a purple zorblat") | {"show": node("PreviewImage", images=["words", 1])})
    with pytest.raises(PromptError, match="could not find 'zorblat'"):
        attention = words("a purple zorblat", "tiny", source="attention")
        comfy.run(attention | {"show": node("PreviewImage", images=["words", 1])})


def test_recognition_without_a_classifier_is_refused(comfy):
    show = {"show": node("PreviewImage", images=["words", 1])}
    with pytest.raises(PromptError, match="no classifier to find things with; use attention or CLIPSeg"):
        comfy.run(words("a red dog", "tiny", source="recognition") | show)


def test_clipseg_folders_are_listed_and_find_things(comfy):
    folder = comfy.base / "models" / "seada_segmenters"
    tiny_clipseg(folder / "clipseg")
    for name, text in (("other", '{"model_type": "clip"}'), ("broken", "{"), ("deep", "[" * 100_000)):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(text)
    info = comfy.get("/object_info/SeAdaHintsFromText")["SeAdaHintsFromText"]["input"]["required"]["source"]
    names = info[0] if isinstance(info[0], list) else info[1]["options"]
    assert names == ["auto", "recognition", "attention", "clipseg"]
    nodes = words("a red zorblat", source="clipseg")
    shape, top, shown, _ = comfy.probe(SOFT, nodes, a=["words", 0], b=["words", 1])
    assert (shape[:2], shown) == ([1, 3], [1, 80, 120, 3])
    assert top <= 0.95


# --- a reference picture ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_reference_transfers_its_colours(comfy):
    nodes = colorize(model="embedded") | reference()
    nodes["by reference"] = node("SeAdaColorize", **nodes["color"]["inputs"] | {"hints": ["reference", 0]})
    _, after, lent = comfy.probe(CUP, nodes, a=["color", 0], b=["by reference", 0], c=["warm", 0])
    shape, top, shown, no_points = comfy.probe(SOFT, nodes, a=["reference", 0], b=["reference", 1])
    assert (shape[:2], shown, no_points) == ([1, 3], [1, 80, 120, 3], True)
    assert top > 0.5
    assert max(abs(x - y) for x, y in zip(after, lent)) < 0.1 and after[1] > 0 > after[0]


@pytest.mark.slow
def test_references_of_a_batch(comfy):
    nodes = batch(reference())
    changes = {"other": {"image": ["other", 0]}, "both": {"image": ["both", 0]}}
    changes |= {"each": {"image": ["both", 0], "reference": ["both", 0]}, "many": {"reference": ["both", 0]}}
    for name, change in changes.items():
        nodes[f"by {name}"] = node("SeAdaHintsFromReference", **nodes["reference"]["inputs"] | change)
    code = "result = [float((c.soft[i] - x.soft[0]).abs().max()) for i, x in enumerate((a, b))] + [list(d.soft.shape)]"
    wires = {"a": ["reference", 0], "b": ["by other", 0], "c": ["by both", 0], "d": ["by each", 0]}
    first, second, shape = comfy.probe(code, nodes, **wires)
    assert (first, second, shape[:2]) == (0, 0, [2, 3])
    with pytest.raises(PromptError, match="reference: 2 pictures, expected 1"):
        comfy.probe("", nodes, a=["by many", 0])


def test_a_reference_without_strength_changes_nothing_and_needs_a_classifier(comfy):
    nodes = reference(strength=0.0) | {"load": node("SeAdaLoadModel", model_name="tiny")}
    assert comfy.probe("result = a.soft is None and a.map is None", nodes, a=["reference", 0])
    nodes["reference"]["inputs"] |= {"strength": 1.0, "seada": ["load", 1]}
    with pytest.raises(PromptError, match="no classifier to match two pictures by"):
        comfy.probe("", nodes, a=["reference", 0])


# --- warnings ---------------------------------------------------------------------------------------------------------


def test_a_text_without_colours_says_so_on_the_node(comfy):
    outputs = comfy.run(words("a cup on a table") | {"shown": node("PreviewAny", source=["words", 2])})
    (warning,) = outputs["words"]["seada_warning"]
    assert "names no coloured thing" in warning


def test_hints_for_a_picture_of_another_shape_are_noticed(comfy):
    nodes = words() | {"wide": node("EmptyImage", width=160, height=40, batch_size=1, color=0x808080)}
    settings = {"prompt": "a cup", "seed": 0, "steps": 1, "guidance": 1.0, "size": 64, "strength": 1.0}
    settings |= {"saturation": 1.0, "hints": ["words", 0]}
    nodes["fits"] = node("SeAdaColorize", image=["image", 0], **settings)
    nodes["misfits"] = node("SeAdaColorize", image=["wide", 0], **settings)
    nodes |= {f"shown {k}": node("PreviewImage", images=[k, 0]) for k in ("fits", "misfits")}
    outputs = comfy.run(nodes)
    assert "fits" not in outputs
    (warning,) = outputs["misfits"]["seada_warning"]
    assert "this one has 160 x 40" in warning


def test_masks_get_their_colours(comfy):
    """All of the photo in one colour; an empty mask gives no hints and a warning, too many colours an error."""
    nodes = {
        "photo": node("LoadImage", image="photo.png"),
        "mask": node("SolidMask", value=1.0, width=64, height=64),
    }
    settings = {"image": ["photo", 0], "masks": ["mask", 0], "colors": "#c03030", "fit": False, "strength": 1.0}
    nodes["hints"] = node("SeAdaHintsFromMasks", **settings)
    code = "result = [float(x) for x in a.soft[0].mean((1, 2))] + [list(b.shape)]"
    cb, cr, weight, shape = comfy.probe(code, nodes, a=["hints", 0], b=["hints", 1])
    assert weight == pytest.approx(1) and cr > 0.1 > cb and len(shape) == 4
    nodes["mask"]["inputs"]["value"] = 0.0
    assert comfy.probe("result = a.soft is None", nodes, a=["hints", 0])
    nodes["mask"]["inputs"]["value"] = 1.0
    nodes["hints"]["inputs"]["colors"] = "teal, red"
    with pytest.raises(PromptError, match="2 colours for 1 masks"):
        comfy.probe("result = 1", nodes, a=["hints", 0])
