"""The workflows as the page shows them: named groups from left to right, and nothing overlaps, in both renderers."""

import json
import math
import os
import re
from itertools import combinations

import pytest
from page import WORKFLOWS, browser, drive

NAMES = sorted(path.stem for path in WORKFLOWS.glob("*.json"))
TITLE = 30  # height of a node's title, which is above its position


def workflow(name: str) -> dict:
    return json.loads((WORKFLOWS / f"{name}.json").read_text())


def overlap(one: list[float], other: list[float]) -> bool:
    """Whether two boxes (x, y, width, height) have more than a rounded pixel in common."""
    return all(one[k] + one[k + 2] > other[k] + 1 and other[k] + other[k + 2] > one[k] + 1 for k in (0, 1))


def inside(box: list[float], group: list[float]) -> bool:
    return all(group[k] <= box[k] and box[k] + box[k + 2] <= group[k] + group[k + 2] for k in (0, 1))


def check(name: str, nodes: dict[str, list[float]], groups: list[list]) -> None:
    """`nodes` by id, with their titles, and `groups` as [title, x, y, width, height]."""
    titles = {str(node["id"]): node.get("title", node["type"]) for node in workflow(name)["nodes"]}
    notes = {str(node["id"]) for node in workflow(name)["nodes"] if node["type"] in ("Note", "MarkdownNote")}
    for one, other in combinations(nodes, 2):
        assert not overlap(nodes[one], nodes[other]), f"{name}: {titles[one]} and {titles[other]} overlap"
    for one, other in combinations(groups, 2):
        assert not overlap(one[1:], other[1:]), f"{name}: the groups {one[0]} and {other[0]} overlap"
    for node, box in nodes.items():
        homes = [title for title, *group in groups if inside(box, group)]
        touched = [title for title, *group in groups if overlap(box, group)]
        assert homes == touched and len(homes) == (node not in notes), f"{name}: {titles[node]} is not in one group"


@pytest.mark.parametrize("name", NAMES)
def test_nodes_stand_in_named_groups_and_links_run_from_left_to_right(name):
    data = workflow(name)
    boxes = {
        node["id"]: [node["pos"][0], node["pos"][1] - TITLE, node["size"][0], node["size"][1] + TITLE]
        for node in data["nodes"]
    }
    check(name, {str(k): box for k, box in boxes.items()}, [[g["title"], *g["bounding"]] for g in data["groups"]])
    for _, source, _, target, _, _ in data["links"]:
        assert boxes[source][0] + boxes[source][2] < boxes[target][0], f"{name}: the link {source} → {target} runs back"


def spline(start: list[float], end: list[float], leaves: bool, arrives: bool) -> list[list[float]]:
    """Points of a part of a link, which is level where it leaves a node or arrives at one."""
    bend = 0.25 * math.dist(start, end)
    corners = [start, [start[0] + bend * leaves, start[1]], [end[0] - bend * arrives, end[1]], end]
    points = []
    for step in range(1, 40):
        t = step / 40
        share = [(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3]
        points.append([sum(part * corner[k] for part, corner in zip(share, corners, strict=True)) for k in (0, 1)])
    return points


@pytest.mark.parametrize("name", NAMES)
def test_no_link_passes_behind_a_node_where_it_would_seem_to_end(name):
    """About as the page draws them; the slow test measures its own links."""
    data = workflow(name)
    nodes = {node["id"]: node for node in data["nodes"]}
    reroutes = {one["id"]: one for one in data["extra"].get("reroutes", [])}
    parents = {one["id"]: one["parentId"] for one in data["extra"].get("linkExtensions", [])}
    for link, source, out, target, into, _ in data["links"]:
        (x, y), (width, _) = nodes[source]["pos"], nodes[source]["size"]
        right, down = nodes[target]["pos"]
        ends, parent = [[right, down + 14 + 20 * into]], parents.get(link)
        while parent is not None:
            assert link in reroutes[parent]["linkIds"]
            ends.insert(0, reroutes[parent]["pos"])
            parent = reroutes[parent].get("parentId")
        ends.insert(0, [x + width, y + 14 + 20 * out])
        last = len(ends) - 2
        for at in [at for k in range(last + 1) for at in spline(ends[k], ends[k + 1], k == 0, k == last)]:
            for node in data["nodes"]:
                box = [*node["pos"], *node["size"]]
                box[1], box[3] = box[1] - TITLE, box[3] + TITLE
                behind = all(box[k] < at[k] < box[k] + box[k + 2] for k in (0, 1))
                assert not behind or node["id"] in (source, target), (
                    f"{name}: {source} → {target} behind {node['type']}"
                )


@pytest.mark.parametrize("name", NAMES)
def test_notes_have_titles_and_so_have_nodes_of_which_there_are_two(name):
    nodes = workflow(name)["nodes"]
    titles = [node.get("title") or node["type"] for node in nodes]
    assert len(titles) == len(set(titles)), titles
    assert not {"Note", "MarkdownNote"} & set(titles)


@pytest.mark.slow
@pytest.mark.parametrize("vue", [True, False], ids=["nodes 2.0", "classic"])
def test_nothing_overlaps_and_no_link_is_behind_a_node_as_the_page_measures_it(comfy, vue):
    comfy.post("/settings/Comfy.TutorialCompleted", True)  # no templates over the page
    settings = {"vue": vue, "folder": os.environ.get("SCREENSHOTS")}
    settings["workflows"] = [str(WORKFLOWS / f"{name}.json") for name in NAMES]
    report = drive(browser(), "layout.cjs", f"http://127.0.0.1:{comfy.port}", json.dumps(settings))
    for name, seen in report["workflows"].items():
        assert seen["nodes"]
        check(name, seen["nodes"], seen["groups"])
        assert seen["behind"] == [], name
    new, chosen, sent = report["automatic"], report["chosen"], report["sent"]
    colorize = new["SeAdaColorize"]
    assert [colorize[name] for name in ("steps", "guidance", "size", "seed")] == ["auto", "auto", "auto", "0"]
    assert colorize["prompt"] == "auto: the model writes its own caption"
    assert new["SeAdaLoadFolder"] | {"count": "all", "first": "0"} == new["SeAdaLoadFolder"]
    assert new["SeAdaPaletteBank"]["caption"] == "auto"
    values = {node["class_type"]: node["inputs"] for node in sent.values()}
    assert [values["SeAdaColorize"][name] for name in ("steps", "guidance", "size", "prompt")] == [0, 0, 0, ""]
    assert values["SeAdaLoadFolder"]["count"] == 0 and values["SeAdaPaletteBank"]["caption"] == ""
    assert (chosen["SeAdaColorize"]["steps"], chosen["SeAdaColorize"]["prompt"]) == ("3", "a boat")
    # models and pictures that this server does not have; what the page cannot load of ours counts
    missing = re.compile("Failed to load resource|Error fetching file size|.*https://huggingface.co/")
    assert not [error for error in report["errors"] if not missing.match(error) or "/extensions/" in error]
