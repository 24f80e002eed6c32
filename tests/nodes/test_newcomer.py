"""The first five minutes: Browse Templates, the first of this pack, Run, in the page and both of its renderers."""

import json

import pytest
from page import browser, drive
from PIL import Image

FIRST = "seada-1-start-here"


@pytest.mark.slow
@pytest.mark.parametrize("vue", [True, False], ids=["nodes 2.0", "classic"])
def test_the_first_template_of_the_dialog_colours_a_photo_at_once(comfy, vue):
    comfy.post("/settings/Comfy.TutorialCompleted", True)  # opens the templates by itself
    settings = {"pack": "ComfyUI-SeAda", "template": FIRST, "vue": vue, "size": [480, 320]}
    report = drive(browser(), "newcomer.cjs", f"http://127.0.0.1:{comfy.port}", json.dumps(settings))
    assert {"SeAdaLoadPhoto", "SeAdaColorize", "SeAdaSavePhoto"} <= set(report["nodes"])
    assert report["thumbnails"] >= 4
    saved = report["saved"]
    picture = Image.open(comfy.base / saved["type"] / saved["subfolder"] / saved["filename"])
    assert picture.size == (600, 400)
    spread = [high - low for low, high in (band.getextrema() for band in picture.convert("YCbCr").split()[1:])]
    assert min(spread) > 20  # colours, not one tint
    assert report["errors"] == []
