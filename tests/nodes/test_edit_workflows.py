"""The workflows in which an edit model recolours a small copy, with a stand-in for the model.

Their nodes are ComfyUI's own; a ComfyUI that lacks them has nothing to run, and the workflow's note names them.
"""

import json
from pathlib import Path

import pytest
from comfy_server import PromptError, node
from edited import edited
from test_workflows import EDITS, WORKFLOWS, as_prompt, find, saver, twin

OLD = {  # nodes that any ComfyUI has
    *("UNETLoader", "CLIPLoader", "DualCLIPLoader", "VAELoader", "LoraLoaderModelOnly", "VAEEncode", "VAEDecode"),
    *("KSampler", "CLIPTextEncode"),
}
FILES = {"unet_name", "clip_name", "clip_name1", "clip_name2", "vae_name", "lora_name"}
SAMPLE = Path(__file__).resolve().parents[2] / "samples" / "photo.jpg"


@pytest.fixture
def newer(comfy):
    """A ComfyUI with all these nodes."""
    lacking = {part["class_type"] for name in EDITS for part in twin(name).values()} - comfy.object_info.keys()
    if lacking:
        pytest.skip(f"this ComfyUI has no {', '.join(sorted(lacking))}")
    return comfy


def nodes(name: str) -> list[dict]:
    return json.loads((WORKFLOWS / f"{name}.json").read_text())["nodes"]


@pytest.mark.parametrize("name", EDITS)
def test_the_note_names_the_nodes_that_an_older_comfyui_lacks(name):
    (note,) = (one["widgets_values"][0] for one in nodes(name) if one["type"] == "Note")
    for one in nodes(name):
        if one["type"] not in OLD and one["type"] != "Note" and not one["type"].startswith("SeAda"):
            assert one["type"] in note


@pytest.mark.parametrize("name", EDITS)
def test_every_model_file_has_an_address_and_a_folder(name):
    for one in nodes(name):
        named = [value for value in one["widgets_values"] if str(value).endswith(".safetensors")]
        models = one["properties"].get("models", [])
        assert [model["name"] for model in models] == named
        for model in models:
            assert model["url"].startswith("https://huggingface.co/") and model["url"].endswith(f"/{model['name']}")
            assert model["directory"] in ("diffusion_models", "text_encoders", "vae", "loras")


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_workflow_equals_its_api_twin(newer, name):
    assert as_prompt(json.loads((WORKFLOWS / f"{name}.json").read_text()), newer.object_info) == twin(name)


@pytest.mark.parametrize("name", EDITS)
def test_a_server_accepts_an_edit_workflow_but_for_the_files(newer, name):
    with pytest.raises(PromptError) as refusal:
        newer.queue(twin(name))
    faults = {
        (error["type"], error["extra_info"]["input_name"])
        for one in json.loads(str(refusal.value))["node_errors"].values()
        for error in one["errors"]
    }
    assert faults and {kind for kind, _ in faults} == {"value_not_in_list"} and {what for _, what in faults} <= FILES


@pytest.mark.parametrize("name", EDITS)
def test_the_result_has_the_model_s_colours_on_the_photo_itself(comfy, name):
    """With the model's part of the workflow replaced by a picture that is cropped, shifted and redrawn."""
    from PIL import Image
    from torchvision.transforms.functional import pil_to_tensor, to_pil_image

    from seada_core.color.spaces import luminance

    gray = pil_to_tensor(Image.open(SAMPLE).convert("L"))[None] / 255
    red = (gray * 0.6 + 0.4 * gray.new_tensor([1.0, 0.2, 0.2]).view(1, 3, 1, 1)).clamp(0, 1)
    to_pil_image(edited(red, (1.04, 1.04), (9.0, -5.0))[0]).save(comfy.base / "input" / "edited.png")
    whole, decode = twin(name), find(name, "VAEDecode")
    kept = {key: part for key, part in whole.items() if part["class_type"].startswith("SeAda")}
    outputs = comfy.run(kept | {decode: node("LoadImage", image="edited.png")})
    result = Image.open(comfy.picture(outputs, saver(name))).convert("RGB")
    assert result.size == (600, 400)
    merged = pil_to_tensor(result)[None] / 255
    assert (luminance(merged) - gray).abs().mean() < 0.01  # but for JPEG's rounding, every detail is the photo's
    assert (merged[:, 0] - merged[:, 2]).mean() > 0.05


def test_a_picture_of_something_else_is_refused_with_the_way_out(comfy):
    from PIL import Image

    Image.open(SAMPLE).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(comfy.base / "input" / "edited.png")
    name = EDITS[0]
    kept = {key: part for key, part in twin(name).items() if part["class_type"].startswith("SeAda")}
    with pytest.raises(PromptError, match=r"do not show the same view .* or turn align off"):
        comfy.run(kept | {find(name, "VAEDecode"): node("LoadImage", image="edited.png")})
