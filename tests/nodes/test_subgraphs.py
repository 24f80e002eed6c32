"""The subgraph blueprints, which newer ComfyUIs offer among their nodes."""

import json
from pathlib import Path
from urllib.error import HTTPError

import pytest
from page import browser, drive

FILES = sorted((Path(__file__).resolve().parents[2] / "subgraphs").glob("*.json"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_blueprint_is_one_node_of_its_name_and_its_links_agree(path):
    data = json.loads(path.read_text())
    (node,) = data["nodes"]
    (subgraph,) = data["definitions"]["subgraphs"]
    assert node["type"] == subgraph["id"] and node["title"] == subgraph["name"] == path.stem
    inside = {one["id"]: one for one in subgraph["nodes"]}
    for link in subgraph["links"]:
        source, target = link["origin_id"], link["target_id"]
        if source == -10:
            assert link["id"] in subgraph["inputs"][link["origin_slot"]]["linkIds"]
        else:
            assert link["id"] in inside[source]["outputs"][link["origin_slot"]]["links"]
        if target == -20:
            assert link["id"] in subgraph["outputs"][link["target_slot"]]["linkIds"]
        else:
            assert link["id"] == inside[target]["inputs"][link["target_slot"]]["link"]


@pytest.mark.slow
def test_the_server_offers_the_blueprints_and_the_page_makes_prompts_of_them(comfy):
    try:
        offered = comfy.get("/global_subgraphs")
    except HTTPError:
        pytest.skip("this ComfyUI has no blueprints")
    ours = {one["name"]: key for key, one in offered.items() if "SeAda" in one["info"]["node_pack"]}
    assert sorted(ours) == [path.stem for path in FILES]
    blueprints = [comfy.get(f"/global_subgraphs/{key}") for key in ours.values()]
    comfy.post("/settings/Comfy.TutorialCompleted", True)  # no templates over the page
    report = drive(browser(), "subgraphs.cjs", f"http://127.0.0.1:{comfy.port}", json.dumps(blueprints))
    prompts = {name: {one["class_type"]: one["inputs"] for one in report[name]["prompt"].values()} for name in ours}
    color = prompts["Colourise a photo"]
    assert {"SeAdaLoadPhoto", "SeAdaHintsFromText", "SeAdaColorize", "SeAdaSavePhoto"} == color.keys()
    assert isinstance(color["SeAdaColorize"]["hints"], list) and isinstance(color["SeAdaSavePhoto"]["images"], list)
    assert report["Colourise a photo"]["shown"] == ["text"]
    merge = prompts["Any model's colours on your photo"]["SeAdaMergeLuminance"]
    assert merge["align"] is True and merge["color"] == merge["image"]
    assert comfy.run(report["Colourise a photo"]["prompt"])
