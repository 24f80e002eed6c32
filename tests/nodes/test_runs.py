"""Runs that the page queues for itself: what came of them is there, and ComfyUI's history is as it was."""

import json
import shutil
import time

import pytest
from comfy_server import PromptError, colorize, node

IN_SERVER = """
import sys
runs = next(module for name, module in sys.modules.items() if name.endswith("ComfyUI-SeAda.nodes.runs"))
result = 0
"""


def photo(**source) -> dict:
    """The prompt by which the painter asks for its photo."""
    return source | {"seada-photo": node("PreviewImage", images=[next(iter(source)), 0])}


@pytest.fixture
def apart(comfy):
    """A function that queues a prompt as the page does, and gives its id; no run of it may be in the history."""

    def queue(prompt: dict) -> str:
        return comfy.post("/seada/run", {"prompt": prompt})["prompt_id"]

    yield queue
    assert not [entry for entry in comfy.get("/history").values() if "seada-photo" in entry["prompt"][2]]


def ended(comfy, run: str) -> dict | None:
    for _ in range(1200):
        answer = comfy.post("/seada/ran", {"run": run})
        if answer["ended"]:
            return answer["outcome"]
        time.sleep(0.05)
    raise TimeoutError(run)


def test_a_run_gives_its_pictures_and_leaves_the_history(comfy, apart):
    run = apart(photo(image=node("LoadImage", image="photo.png")))
    (picture,) = ended(comfy, run)["outputs"]["seada-photo"]["images"]
    assert (comfy.base / "temp" / picture["filename"]).is_file()
    assert ended(comfy, run)  # asked again: the answer may have been lost on the way


def test_a_run_that_no_page_asks_for_any_more_leaves_the_history(comfy, apart):
    apart(photo(color=colorize()["color"]) | {key: colorize()[key] for key in ("image", "load")})
    while any(comfy.get("/queue").values()):
        time.sleep(0.05)
    time.sleep(0.3)


def test_a_failed_run_says_why(comfy, apart):
    bad = node("SeAdaPalette", colors="no colour", count=4)
    outcome = ended(comfy, apart({"bad": bad, "seada-photo": node("PreviewImage", images=["bad", 1])}))
    kinds = dict(outcome["status"]["messages"])
    assert "bad colour" in kinds["execution_error"]["exception_message"]
    with pytest.raises(PromptError, match=r"seada-photo|PreviewImage"):
        apart({"seada-photo": node("PreviewImage")})  # as ComfyUI refuses it


def test_a_folder_s_first_photo_is_shown_and_the_others_do_not_follow(comfy, apart):
    folder = comfy.base / "input" / "apart"
    folder.mkdir()
    for name in ("odd.png", "tall.png"):
        shutil.copy(comfy.base / "input" / name, folder)
    run = apart(photo(folder=node("SeAdaLoadFolder", folder="apart", first=0, count=0, one_by_one=True)))
    assert len(ended(comfy, run)["outputs"]["seada-photo"]["images"]) == 1
    time.sleep(0.3)  # another one would have begun
    assert not any(comfy.get("/queue").values())
    shutil.rmtree(folder)


def test_what_is_not_asked_for_is_dropped(comfy, apart):
    comfy.probe(IN_SERVER + "runs.PATIENCE = 0.3")
    try:
        comfy.queue({"busy": node("Probe", code="import time\ntime.sleep(1)\nresult = 0")})
        run = apart(photo(image=node("LoadImage", image="flipped.png")))
        time.sleep(0.6)
        assert not comfy.get("/queue")["queue_pending"]
        time.sleep(1.2)
        with pytest.raises(PromptError, match="does not know this run"):
            comfy.post("/seada/ran", {"run": run})
    finally:
        comfy.probe(IN_SERVER + "runs.PATIENCE = 150.0")


@pytest.mark.parametrize("body", [{}, [], {"run": ["x"]}, {"run": {}}])
def test_bad_questions_are_refused(comfy, body):
    with pytest.raises(PromptError) as error:
        comfy.post("/seada/ran", body)
    assert json.loads(str(error.value))["error"].startswith("expected JSON")
