"""Each workflow has a thumbnail and an API twin that says the same, fits the nodes, and runs in a real ComfyUI."""

import json
from pathlib import Path

import pytest

WORKFLOWS = Path(__file__).resolve().parents[1] / "workflows"
TWINS = Path(__file__).resolve().parent / "workflows"
NAMES = sorted(path.stem for path in WORKFLOWS.glob("*.json"))


def as_prompt(workflow: dict, object_info: dict) -> dict:
    """What ComfyUI's page queues for a workflow without subgraphs."""
    links = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    prompt = {}
    for node in workflow["nodes"]:
        if node["type"] in ("Note", "MarkdownNote"):
            continue
        linked = {socket["name"]: socket["link"] for socket in node["inputs"] if socket["link"] is not None}
        values = iter(node["widgets_values"])
        inputs = {}
        for kind in ("required", "optional"):
            for name, (kind_of, *rest) in object_info[node["type"]]["input"].get(kind, {}).items():
                options = rest[0] if rest else {}
                if isinstance(kind_of, list) or kind_of in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"):
                    inputs[name] = next(values)
                    if options.get("control_after_generate") or options.get("image_upload"):
                        next(values)  # a widget of the page's own
                if name in linked:
                    inputs[name] = links[linked[name]]
        assert next(values, None) is None, f"{node['type']} has widgets too many"
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt


def test_there_are_workflows_with_thumbnails_and_twins():
    assert NAMES
    assert sorted(path.stem for path in WORKFLOWS.glob("*.jpg")) == NAMES
    assert sorted(path.stem for path in TWINS.glob("*.json")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_links_of_both_ends_agree(name):
    workflow = json.loads((WORKFLOWS / f"{name}.json").read_text())
    nodes = {node["id"]: node for node in workflow["nodes"]}
    for link, source, slot, target, socket, _ in workflow["links"]:
        assert link in nodes[source]["outputs"][slot]["links"]
        assert nodes[target]["inputs"][socket]["link"] == link


@pytest.mark.parametrize("name", NAMES)
def test_a_workflow_says_what_its_twin_says_and_runs(comfy, name):
    from PIL import Image

    twin = json.loads((TWINS / f"{name}.json").read_text())
    assert as_prompt(json.loads((WORKFLOWS / f"{name}.json").read_text()), comfy.object_info) == twin
    Image.open(comfy.base / "input" / "photo.png").resize((150, 130)).save(comfy.base / "input" / "example.png")
    save = next(key for key, node in twin.items() if node["class_type"] == "SaveImage")
    picture = Image.open(comfy.picture(comfy.run(twin), save))
    assert picture.size == (150, 130)
    assert picture.mode == "RGB"
