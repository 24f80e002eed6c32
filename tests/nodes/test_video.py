"""SeAda Colorize Video and SeAda Steady Colors in a real ComfyUI."""

import json
import subprocess
import time
from pathlib import Path

import comfy_server
import numpy as np
import pytest
from comfy_server import PromptError, node
from films import decoded, film_in, packets, panning, write_film
from page import browser, drive

pytest.importorskip("av")

LONG = 240  # frames


@pytest.fixture(autouse=True)
def _needs_opencv():
    found = comfy_server.find()
    if isinstance(found, str) or subprocess.run([found[1], "-c", "import cv2"], capture_output=True).returncode:
        pytest.skip("ComfyUI's Python has no OpenCV: pip install opencv-python-headless")


@pytest.fixture
def film(comfy) -> Path:
    return film_in(comfy.base / "input")


def video(name: str = "film.mp4", **inputs) -> dict:
    """SeAdaColorizeVideo as a prompt, saved by "save"."""
    settings = {"prompt": "a dog", "seed": 1, "size": 0, "saturation": 3.0, "spacing": 8, "quality": 0}
    settings |= {"keyframe_numbers": "0", "hints_frame": 0}
    wires = {"video": ["film", 0], "seada": ["load", 1]}
    return {
        "film": node("LoadVideo", file=name),
        "load": node("SeAdaLoadModel", model_name="tiny"),
        "color": node("SeAdaColorizeVideo", **settings | wires | inputs),
        "save": node("SaveVideo", video=["color", 0], filename_prefix="film", format="auto", codec="auto"),
    }


def saved(comfy, prompt: dict) -> Path:
    return comfy.picture(comfy.run(prompt), "save")


def test_a_film_keeps_luminance_and_sound(comfy, film):
    result = saved(comfy, video())
    before, after = decoded(film), decoded(result)
    assert [time for time, _ in after] == pytest.approx([time for time, _ in before])
    for (_, old), (_, new) in zip(before, after):
        assert np.array_equal(old[0], new[0])
    assert max(abs(planes[1].astype(int) - 128).max() for _, planes in after) > 3  # it is in colour
    assert [data for _, data in packets(result, "audio")] == [data for _, data in packets(film, "audio")]


def test_keyframes_colour_their_shot(comfy, film):
    """The other shot keeps the colours that it has without."""
    orange = {"orange": node("EmptyImage", width=64, height=48, batch_size=1, color=0xE08030)}
    with_key, without = (
        np.array([planes[1].mean() for _, planes in decoded(saved(comfy, prompt))])
        for prompt in (orange | video(keyframes=["orange", 0], keyframe_numbers="6"), video())
    )
    assert (with_key[:12] < without[:12] - 20).all()
    assert (abs(with_key[12:] - without[12:]) < 3).all()


@pytest.mark.parametrize(
    ("numbers", "message"),
    [("1, 2", "2 numbers for 1 keyframes"), ("first", "are not numbers of frames"), ("21", "there is no frame 21")],
)
def test_wrong_numbers(comfy, film, numbers, message):
    blue = {"blue": node("EmptyImage", width=64, height=48, batch_size=1, color=0x3040E0)}
    with pytest.raises(PromptError, match=message):
        comfy.run(blue | video(keyframes=["blue", 0], keyframe_numbers=numbers))


def test_frames_of_any_model_become_steady(comfy, film):
    flicker = [(118, 150) if number % 2 else (138, 170) for number in range(21)]
    write_film(comfy.base / "input" / "flicker.mp4", panning(12, seed=1) + panning(9, seed=2), chroma=flicker)
    prompt = {
        "film": node("LoadVideo", file="film.mp4"),
        "parts": node("GetVideoComponents", video=["film", 0]),
        "colored": node("LoadVideo", file="flicker.mp4"),
        "colors": node("GetVideoComponents", video=["colored", 0]),
        "steady": node("SeAdaSteadyColors", frames=["parts", 0], colored=["colors", 0], spacing=3),
    }
    code = """import torch
weights = torch.tensor([0.299, 0.587, 0.114])
def change(x):
    reds = (x[..., 0] - x @ weights)[:12].mean((1, 2))
    return float((reds[1:] - reds[:-1]).abs().max())
result = [list(a.shape), float((a @ weights - c @ weights).abs().max()), change(a), change(b)]"""
    wires = {"a": ["steady", 0], "b": ["colors", 0], "c": ["parts", 0]}
    shape, luma, after, before = comfy.probe(code, prompt, **wires)
    assert shape == [21, 48, 64, 3]
    assert luma < 1e-4
    assert after < 0.2 * before


def test_as_many_coloured_frames_as_frames(comfy):
    prompt = {
        "one": node("EmptyImage", width=64, height=48, batch_size=3, color=0),
        "two": node("EmptyImage", width=64, height=48, batch_size=2, color=0),
        "steady": node("SeAdaSteadyColors", frames=["one", 0], colored=["two", 0], spacing=4),
        "shown": node("PreviewImage", images=["steady", 0]),
    }
    with pytest.raises(PromptError, match="3 frames and 2 coloured ones"):
        comfy.run(prompt)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["seada-video", "seada-steady-colors"])
def test_a_workflow_runs(comfy, film, name):
    prompt = json.loads((Path(__file__).resolve().parent / "workflows" / f"{name}.json").read_text())
    (key,) = (key for key, entry in prompt.items() if entry["class_type"] == "SaveVideo")
    frames = decoded(comfy.picture(comfy.run(prompt), key))
    assert len(frames) == 21
    assert max(abs(planes[1].astype(int) - 128).max() for _, planes in frames) > 3


def memory(comfy) -> float:
    """Resident memory of the server, MB."""
    lines = Path(f"/proc/{comfy.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


@pytest.mark.slow
def test_a_long_film_needs_no_more_memory_can_be_interrupted_and_plays(comfy):
    path, chromium = comfy.base / "input" / "long.mp4", browser()
    write_film(path, panning(LONG, 1080, 1920))
    prompt, folder = video("long.mp4", quality=20), comfy.base / "temp"
    job = comfy.queue(prompt)
    while not list(folder.glob(".seada_video_*/0*.nut")):
        time.sleep(0.2)
    begun = time.monotonic()
    comfy.post("/interrupt", {})
    with pytest.raises(PromptError, match="interrupted"):
        comfy.wait(job)
    assert time.monotonic() - begun < 20  # after a few frames, not at the film's end
    assert [file.name[:8] for file in folder.glob(".seada_video_*/0*.nut")] == ["00000000"]
    job, peaks = comfy.queue(prompt), {}
    while comfy.get(f"/history/{job}").get(job) is None:
        done = len(list(folder.glob(".seada_video_*/0*.nut")))
        peaks[done] = max(peaks.get(done, 0), memory(comfy))
        time.sleep(0.1)
    result = comfy.picture(comfy.wait(job), "save")
    assert len(decoded(result)) == LONG
    assert peaks[2] < 1.05 * peaks[1]
    report = drive(
        chromium, "playing.cjs", f"http://127.0.0.1:{comfy.port}", f"/view?type=output&filename={result.name}"
    )
    assert (report["width"], report["height"], report["duration"]) == (1920, 1080, pytest.approx(LONG / 25, abs=0.05))
    assert report["played"] > 0.5
    assert report["frames"] > 1
    assert report["color"] > 3
