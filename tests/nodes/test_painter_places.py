"""The painter in all places of ComfyUI's page, in both of its renderers: hints, undo, and where the photo comes from.

COMFYUI_FRONTEND may name another frontend than ComfyUI's own (the folder `static` of comfyui-frontend-package), and
FIREFOX a Firefox; playwright-core up to 1.57 drives Debian's.
"""

import json
import os
from contextlib import nullcontext

import pytest
from page import WORKFLOWS, browser, drive

PHOTOS = {"one.png": (300, 200), "two.png": (180, 240)}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=[True, False], ids=["nodes 2.0", "classic"])
def places(request, start_comfy):
    """The report of painter_places.cjs."""
    from PIL import Image

    executable = browser(os.environ.get("FIREFOX"))
    frontend = os.environ.get("COMFYUI_FRONTEND")
    shared = nullcontext(request.getfixturevalue("comfy")) if frontend is None else None
    with shared or start_comfy("--front-end-root", frontend) as comfy:
        photo = Image.open(comfy.base / "input" / "photo.png")
        for name, size in PHOTOS.items():
            photo.resize(size).save(comfy.base / "input" / name)
        photo.resize(PHOTOS["one.png"]).save(comfy.base / "input" / "deep.tif")
        comfy.post("/settings/Comfy.TutorialCompleted", True)  # no templates over the page
        settings = {"workflow": str(WORKFLOWS / "seada-hints-in-one-node.json"), "vue": request.param, "photos": PHOTOS}
        settings |= {"tiff": "deep.tif", "folder": os.environ.get("SCREENSHOTS")}
        report = drive(executable, "painter_places.cjs", f"http://127.0.0.1:{comfy.port}", json.dumps(settings))
    assert report["errors"] == []
    return report


@pytest.fixture
def scene(places):
    """A function that gives a scene's report, and skips where the page has no such scene."""

    def scene(name: str) -> dict:
        if name not in places or not places[name]:
            pytest.skip(f"no {name} in this page")
        return places[name]

    return scene


def test_what_the_painter_shows_is_what_the_node_has_after_each_undo(scene):
    seen = scene("history")
    assert all(node == painter for node, painter in seen["counts"].values()), seen["counts"]
    counts = {name: node for name, (node, _) in seen["counts"].items()}
    assert counts == {
        "loaded": 1,
        "painted": 4,
        "undone": 2,  # twice, by the painter
        "redone": 3,
        "undone outside": 2,  # by ComfyUI, with the focus elsewhere: the redo is undone
        "painted again": 3,  # one more than there were, not those that were undone
        "undone again": 2,
        "undone outside again": 3,
        "redone outside": 2,
    }
    assert seen["nodes"] == 6  # the painter's undo never undid the loading of the workflow


def test_the_region_of_a_click_shows_before_it_and_spreads_as_asked_and_a_lock_keeps_its_place(scene):
    assert scene("reach") == {
        "noHint": True,
        "grows": True,  # the region under the pointer, by Shift and the wheel
        "spread": 0.8,
        "changed": [0.5, 1],  # of the hint under the pointer
        "undone": 0.8,  # all steps of one turn together
        "lock": ["keep", -0.4],
    }


def test_a_loaded_file_shows_at_once_also_one_that_browsers_cannot_show(scene):
    assert scene("loader") == {"first": True, "second": True, "tiff": True}


def test_the_photo_is_found_through_reroutes(scene):
    assert scene("reroute") == {"shown": True}


def test_quick_nodes_before_the_painter_run_by_themselves(scene):
    assert scene("quick nodes") == {"first": True, "second": True, "bypassed": True}


def test_slow_nodes_run_when_asked_and_a_photo_that_is_not_the_newest_says_so(scene):
    seen = scene("slow nodes")
    assert seen == {
        "first": True,
        "stale": ["300 × 200", "The nodes before have changed."],
        "second": True,
        "queued": 0,  # in the history, which has what the user queued
    }


def test_a_cached_result_before_the_painter_is_not_a_dead_end(scene):
    assert scene("cached") == {"shown": True, "stale": False}  # nor do the page's own widgets make it an old one


def test_a_fault_before_the_painter_is_said_there(scene):
    assert scene("bad node before")["message"].startswith("The photo could not be made: bad colour 'no colour'")


def test_each_tab_has_its_own_hints_and_photo(scene):
    assert scene("tabs") == {"one": [2, 2], "other": [1, 1], "back": [True, 2, 2], "again": [True, 1, 1]}


def test_a_page_that_is_loaded_again_keeps_the_hints_and_leaves_nothing_in_the_history(scene):
    assert scene("reload") == {"queued": 0, "hints": [2, 2]}


def test_in_a_subgraph_the_painter_works_and_finds_the_photo_outside(scene):
    assert scene("painter in a subgraph") == {"first": True, "painted": [1, 2], "undone": 1, "second": True}


def test_a_photo_inside_a_subgraph_is_found(scene):
    assert scene("photo in a subgraph") == {"first": True}


def test_two_painters_do_not_share_hints(scene):
    assert scene("two painters") == {"hints": [1, 2]}


def fits(boxes: dict) -> None:
    left, _, right, bottom = boxes["painter"]
    x0, y0, x1, y1 = boxes["photo"]
    assert left <= x0 < x1 <= right and x1 - x0 >= 0.9 * (right - left), boxes
    assert y1 - y0 >= 120 and y1 <= boxes["status"][1] and boxes["status"][3] <= bottom, boxes


def test_the_photo_has_room_at_any_size_of_the_node(scene):
    for boxes in scene("sizes")["boxes"]:
        fits(boxes)


def test_app_mode_has_a_painter_of_a_usable_size(scene):
    seen = scene("app mode")
    fits(seen)
    x0, y0, x1, y1 = seen["photo"]
    assert x1 - x0 >= 240 and y1 - y0 >= 180
    assert seen["shown"] and seen["painted"] == [1, 2] and seen["back"] == [2, 2]
