"""What nodes do with what they are given is said: colours by name, transparency, missing folders, names with signs."""

import pytest
from comfy_server import PromptError, colorize, node
from PIL import Image


def test_colours_are_written_as_people_write_them(comfy):
    prompt = {
        "palette": node("SeAdaPalette", colors="red, rgb(0, 128, 0),#00F", count=6),
        "image": node("LoadImage", image="photo.png"),
        "mask": node("SolidMask", value=1.0, width=120, height=80),
        "hints": node("SeAdaHints", image=["image", 0], points="[]", mask_color="teal", mask=["mask", 0]),
        "code": node("SeAdaHints", image=["image", 0], points="[]", mask_color="#008080", mask=["mask", 0]),
    }
    assert comfy.probe("result = list(a.palette)", prompt, a=["palette", 0]) == ["#ff0000", "#008000", "#0000ff"]
    same = "result = bool((a.map == b.map).all() and a.map.any())"
    assert comfy.probe(same, prompt, a=["hints", 0], b=["code", 0])


def test_dropped_transparency_is_said(comfy):
    picture = Image.open(comfy.base / "input" / "photo.png").convert("RGB")
    prompt = colorize() | {
        "half": node("SolidMask", value=0.5, width=picture.width, height=picture.height),
        "clear": node("JoinImageWithAlpha", image=["image", 0], alpha=["half", 0]),
    }
    prompt["color"]["inputs"]["image"] = ["clear", 0]
    prompt["merge"] = node("SeAdaMergeLuminance", color=["color", 0], image=["clear", 0])
    prompt["plain"] = node("SeAdaMergeLuminance", color=["color", 0], image=["image", 0])
    prompt |= {f"show {name}": node("PreviewImage", images=[name, 0]) for name in ("color", "merge", "plain")}
    outputs = comfy.run(prompt)
    for name in ("color", "merge"):
        (warning,) = outputs[name]["seada_warning"]
        assert "transparency is not in the result" in warning and "Join Image with Alpha" in warning
    assert "seada_warning" not in outputs.get("plain", {})


def test_a_missing_folder_names_those_that_are_there(comfy):
    (comfy.base / "input" / "holiday 1962").mkdir()
    with pytest.raises(PromptError, match=r"there is no folder 'holiday'.*choose one of .*holiday 1962"):
        load = node("SeAdaLoadFolder", folder="holiday", first=0, count=0)
        comfy.run({"load": load, "shown": node("PreviewAny", source=["load", 2])})


def test_a_name_is_not_a_pattern(comfy):
    """ComfyUI's Save Image replaces %width% in names."""
    Image.open(comfy.base / "input" / "photo.png").save(comfy.base / "input" / "50%width% off.png")
    prompt = {
        "photo": node("SeAdaLoadPhoto", image="50%width% off.png"),
        "save": node(
            "SeAdaSavePhoto", images=["photo", 0], photo=["photo", 2], format="PNG", folder="said", suffix="-%date%"
        ),
    }
    comfy.run(prompt)
    assert [path.name for path in (comfy.base / "output" / "said").iterdir()] == ["50%width% off-%date%.png"]
