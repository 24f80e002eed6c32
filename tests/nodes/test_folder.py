"""SeAda Load Folder: its choices, all photos at once, and each in a run of its own, in a real ComfyUI."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from comfy_server import PromptError, node
from PIL import Image


@pytest.fixture
def folder(comfy):
    """Three photos, one with 16 bits, and a file that is not a picture, in ComfyUI's input folder."""
    path = comfy.base / "input" / "folder"
    path.mkdir()
    for name, source in (("b", "odd"), ("d", "tall")):
        shutil.copy(comfy.base / "input" / f"{source}.png", path / f"{name}.png")
    Image.fromarray(np.arange(0, 60000, 1000, dtype=np.uint16).reshape(6, 10)).save(path / "c.png")
    (path / "a.jpg").write_bytes(b"no picture")
    yield path
    shutil.rmtree(path)


def _folder(**inputs) -> dict:
    return {"folder": node("SeAdaLoadFolder", **{"folder": "folder", "first": 0, "count": 0} | inputs)}


def test_photos_of_a_folder_keep_their_sizes_and_other_files_are_reported(comfy, folder):
    nodes = _folder()
    nodes["names"] = node("PreviewAny", source=["folder", 1])
    nodes["sizes"] = node("GetImageSize", image=["folder", 0])
    nodes["width"] = node("PreviewAny", source=["sizes", 0])
    nodes["report"] = node("PreviewAny", source=["folder", 2])
    outputs = comfy.run(nodes)
    assert outputs["names"]["text"] == ["b", "c", "d"]
    assert outputs["width"]["text"] == ["67", "10", "30"]
    (report,) = outputs["report"]["text"]
    assert report.startswith("3 of the folder's 4 photos read\nskipped: ")
    assert "a.jpg is not a picture that can be read" in report


def test_a_photo_of_a_folder_is_what_load_image_reads(comfy, folder):
    nodes = _folder(first=1, count=1) | {"odd": node("LoadImage", image="odd.png")}
    assert comfy.probe("result = float((a - b).abs().max())", nodes, a=["folder", 0], b=["odd", 0]) == 0
    (folder / "b.png").unlink()  # the same settings, another first photo: it is 16 bits deep
    shape, top = comfy.probe("result = [list(a.shape), float(a.max())]", _folder(first=1, count=1), a=["folder", 0])
    assert shape == [1, 6, 10, 3]
    assert top == pytest.approx(59000 / 65535)


def test_a_large_folder_is_read_in_parts(comfy, folder):
    nodes = _folder(first=1, count=2)
    nodes |= {name: node("PreviewAny", source=["folder", i]) for name, i in (("names", 1), ("report", 2))}
    outputs = comfy.run(nodes)
    assert outputs["names"]["text"] == ["b", "c"]
    assert outputs["report"]["text"] == ["2 of the folder's 4 photos read\nto load the next ones, set first to 3"]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"folder": "../models"}, "is outside ComfyUI's input folder"),
        ({"folder": "/"}, "is outside ComfyUI's input folder"),
        (
            {"folder": "nowhere"},
            "no folder 'nowhere' in ComfyUI's input folder.*(create it|choose one of)",
        ),
        ({"folder": "folder", "first": 9}, "first is 9, and the folder has 4 photos"),
        ({"folder": "folder", "count": 1}, "none of the files could be read:\n.*a.jpg is not a picture"),
    ],
)
def test_folders_without_photos_get_a_plain_message(comfy, folder, inputs, message):
    with pytest.raises(PromptError, match=message):
        comfy.run(_folder(**inputs) | {"show": node("PreviewImage", images=["folder", 0])})


# --- one by one -------------------------------------------------------------------------------------------------------


def _saved(**inputs) -> dict:
    nodes = _folder(one_by_one=True, **inputs)
    nodes["save"] = node(
        "SeAdaSavePhoto", images=["folder", 0], format="as the photo", folder="walk", suffix="", photo=["folder", 3]
    )
    return nodes | {"report": node("PreviewAny", source=["folder", 2])}


def _runs(comfy, prompt: dict, number: int, seconds: float = 20) -> list[dict]:
    """The history of a prompt and of what follows it; fails unless there are `number` runs and no more."""
    comfy.post("/history", {"clear": True})
    comfy.queue(prompt)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        runs, queue = comfy.get("/history"), comfy.get("/queue")
        if len(runs) >= number and not queue["queue_running"] + queue["queue_pending"]:
            break
        time.sleep(0.05)
    time.sleep(0.4)  # another one would have begun
    runs = list(comfy.get("/history").values())
    assert len(runs) == number
    return sorted(runs, key=lambda run: run["status"]["messages"][0][1]["timestamp"])


@pytest.fixture
def walk(comfy):
    yield comfy.base / "output" / "walk"
    shutil.rmtree(comfy.base / "output" / "walk", ignore_errors=True)


def test_each_photo_is_saved_in_a_run_of_its_own(comfy, folder, walk):
    runs = _runs(comfy, _saved(), 3)
    # as queued: what ComfyUI notes in the prompts that it executes need not be JSON, which pages would not read
    assert [run["prompt"][2] for run in runs] == [_saved()] * 3
    assert [run["outputs"]["save"]["images"][0]["filename"] for run in runs] == ["b.png", "c.png", "d.png"]
    assert [len(run["outputs"]["save"]["images"]) for run in runs] == [1, 1, 1]
    reports = [run["outputs"]["report"]["text"][0].splitlines() for run in runs]
    assert [lines[0] for lines in reports] == ["photo 2 of 4: b.png", "photo 3 of 4: c.png", "photo 4 of 4: d.png"]
    assert all("a.jpg is not a picture" in lines[1] for lines in reports)
    assert "a.jpg" in runs[0]["outputs"]["folder"]["seada_warning"][0] and "folder" not in runs[1]["outputs"]
    times = [(walk / name).stat().st_mtime_ns for name in ("b.png", "c.png", "d.png")]
    begun = [run["status"]["messages"][0][1]["timestamp"] for run in runs]
    assert times[0] / 1e6 < begun[1] and times[1] / 1e6 < begun[2]
    again = _runs(comfy, _saved(first=2, count=1), 1)  # the same button once more
    assert again[0]["outputs"]["save"]["images"][0]["filename"] == "c-2.png"


def test_an_interruption_keeps_what_is_done_and_ends_the_walk(comfy, folder, walk):
    nodes = _saved()
    code = "import nodes\nif a == 'c':\n    nodes.interrupt_processing()\n    nodes.before_node_execution()\nresult = 0"
    nodes["stop"] = node("Probe", code=code, a=["folder", 1])
    nodes["save"]["inputs"]["suffix"] = "-kept"
    runs = _runs(comfy, nodes, 2)
    assert [run["status"]["status_str"] for run in runs] == ["success", "error"]
    assert (walk / "b-kept.png").is_file() and not (walk / "d-kept.png").exists()


def test_unreadable_files_at_the_end_are_no_failure(comfy, folder, walk):
    (folder / "e.png").write_bytes(b"no picture")
    runs = _runs(comfy, _saved(first=3), 2)
    assert [run["status"]["status_str"] for run in runs] == ["success", "success"]
    assert "save" not in runs[1]["outputs"]
    assert "e.png is not a picture" in runs[1]["outputs"]["report"]["text"][0]
    with pytest.raises(PromptError, match=r"none of the files could be read:\n.*e.png is not a picture"):
        comfy.run(_saved(first=4))


def test_two_folders_go_in_step(comfy, folder, walk):
    nodes = _saved(first=1) | {"other": node("SeAdaLoadFolder", folder="folder", first=2, count=2, one_by_one=True)}
    nodes["pair"] = node("PreviewAny", source=["other", 1])
    runs = _runs(comfy, nodes, 3)
    names = [(run["outputs"]["save"]["images"][0]["filename"], run["outputs"]["pair"]["text"][0]) for run in runs]
    assert names[:2] == [("b.png", "c"), ("c.png", "d")]
    assert names[2] == ("d.png", "d")  # the shorter one repeats its last photo


def test_the_workflow_for_a_folder_saves_each_photo_under_its_name(comfy):
    prompt = json.loads((Path(__file__).parent / "workflows" / "seada-folder-of-photos.json").read_text())
    holiday = comfy.base / "input" / "seada" / "holiday.png"  # beside the sample
    Image.open(comfy.base / "input" / "photo.png").resize((90, 60)).save(holiday)
    (save,) = (key for key, value in prompt.items() if value["class_type"] == "SeAdaSavePhoto")
    outputs = [run["outputs"] for run in _runs(comfy, prompt, 2, seconds=120)]
    holiday.unlink()
    pictures = [Image.open(comfy.picture(output, save)) for output in outputs]
    assert [picture.size for picture in pictures] == [(90, 60), (600, 400)]
    names = [output[save]["images"][0]["filename"] for output in outputs]
    assert names[0].startswith("holiday-color") and names[1].startswith("photo-color")
    assert all(picture.convert("YCbCr").split()[1].getextrema() != (128, 128) for picture in pictures)


# --- choices ----------------------------------------------------------------------------------------------------------


def test_folders_with_photos_can_be_chosen(comfy, folder):
    (folder / "inner" / "deep").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    for place in ("inner/deep", ".hidden"):
        shutil.copy(folder / "b.png", folder / place)
    kind, options = comfy.get("/object_info/SeAdaLoadFolder")["SeAdaLoadFolder"]["input"]["required"]["folder"]
    choices = options["options"] if kind == "COMBO" else kind
    assert choices[0] == "." and {"seada", "folder", "folder/inner/deep"} <= set(choices)
    assert not {"folder/.hidden", "folder/inner"} & set(choices)


@pytest.mark.parametrize("typed", ["folder/", "./folder", ["text", 0]])
def test_a_typed_path_works_and_so_does_one_from_a_node(comfy, folder, typed):
    nodes = _folder(folder=typed, first=1, count=1) | {"text": node("PrimitiveString", value="folder")}
    assert comfy.run(nodes | {"name": node("PreviewAny", source=["folder", 1])})["name"]["text"] == ["b"]
