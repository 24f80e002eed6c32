"""The painter's route in a real server: answers equal the core's, bad requests get a plain error."""

import base64
import io
import json
import re
import struct
import threading
import time
import zlib

import pytest
import torch
from painter import HINTS, ask, picture, request
from PIL import Image

from seada_core.color.merging import merge_chroma
from seada_core.color.spaces import luminance
from seada_core.files.hint_format import parse_hints
from seada_core.hints.affinity import affinities_of, follow_hints
from seada_core.hints.maps import hint_map
from seada_core.pipeline import Colorizer


def pixels(data: bytes) -> torch.Tensor:
    """(3, H, W) in 0..255."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    flat = torch.tensor(list(image.tobytes()), dtype=torch.float32)
    return flat.view(image.height, image.width, 3).permute(2, 0, 1)


@pytest.mark.parametrize("kind, mode", [("PNG", "L"), ("PNG", "RGBA"), ("JPEG", "RGB"), ("WEBP", "RGB")])
def test_the_answer_is_the_photo_in_the_propagated_colours(comfy, kind, mode):
    sent = picture(kind, mode=mode)
    status, answer = ask(comfy, request(picture=sent))
    assert status == 200
    gray = luminance(pixels(base64.b64decode(sent))[None] / 255)
    colorizer = Colorizer.from_pretrained("mini", "cpu")
    hints = hint_map(parse_hints(HINTS), (64, 96), (400, 600))
    grey = torch.zeros(1, 2, 64, 96)
    expected = follow_hints(grey, gray, hints, None, affinities_of(colorizer.has, colorizer.part))
    expected = merge_chroma(expected, gray)[0] * 255
    assert expected.std(0).max() > 20  # there is colour
    assert (pixels(answer) - expected).abs().max() <= 1


def test_no_hints_give_the_grey_picture(comfy):
    status, answer = ask(comfy, request(hints=[]))
    assert status == 200
    sent = pixels(base64.b64decode(request()["picture"]))
    assert (pixels(answer) - sent).abs().max() <= 1


def test_the_region_of_one_more_hint_is_what_it_changes(comfy):
    """In a preview of it alone, the colour is where the region is bright; another hint beside it takes some of it."""
    following = {"x": 300, "y": 60, "color": "#a06040", "radius": 12}
    status, answer = ask(comfy, request(hints=[], next=following))
    region = pixels(answer)[0]
    assert status == 200 and region.shape == (64, 96) and region[6, 48] == 255
    shown = pixels(ask(comfy, request(hints=[following]))[1])
    colored = (shown.amax(0) - shown.amin(0)) > 40
    assert region[colored].mean() > 2 * region[~colored].mean()
    beside = {"x": 330, "y": 90, "color": "keep", "radius": 12}
    narrower = pixels(ask(comfy, request(hints=[beside], next=following))[1])[0]
    wider = pixels(ask(comfy, request(hints=[], next=following | {"spread": 1}))[1])[0]
    assert narrower.mean() < region.mean() < wider.mean()


def bomb() -> str:
    """A PNG that declares 100,000 x 100,000 pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0))
    file = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(10_000))) + chunk(b"IEND", b"")
    return base64.b64encode(file).decode()


@pytest.mark.parametrize(
    "body, message",
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "expected a JSON object"),
        (request(path="/etc/passwd"), "expected a JSON object"),
        ({"painter": "test"}, "expected a JSON object"),
        (request(painter=3), "painter: expected a name"),
        (request(painter="x" * 65), "painter: expected a name"),
        (request(size=[600]), "size: expected"),
        (request(size=[600, 0]), "size: expected"),
        (request(size=[600, 10**9]), "size: expected"),
        (request(size=["600", 400]), "size: expected"),
        (request(size=[True, 400]), "size: expected"),
        (request(picture=None), "picture: expected base64"),
        (request(picture="/etc/passwd?"), "picture: this is not base64"),
        (request(picture=""), "not a PNG, JPEG or WebP"),
        (request(picture=picture("BMP")), "not a PNG, JPEG or WebP"),
        (request(picture=picture("GIF")), "not a PNG, JPEG or WebP"),
        (request(picture=picture()[:400]), "picture: this file is damaged"),
        (request(picture=bomb()), "not a PNG, JPEG or WebP|at most 256"),
        (request(picture=picture(size=(257, 20))), "picture: 257 x 20, expected at most 256 x 256"),
        (request(next={"x": 1, "y": 2}), "next, hint 1 has no color"),
        (request(next=None), "next, hint 1: expected"),
        (request(hints={}), "expected .* a list of hints"),
        (request(hints=[{"x": 1}]), "hint 1 has no color"),
        (request(hints=[{"x": 1, "y": 2, "color": "<b>"}]), "hint 1: bad colour"),
        (request(hints=[{"x": 700, "y": 2, "color": "#ffffff"}]), "outside the photo, which is 600 wide"),
        (request(hints=[{"x": 1, "y": 2, "color": "#ffffff"}] * 10_001), "at most 10000"),
        (request(picture="A" * 2_000_000), "longer than 2000000 bytes"),
    ],
)
def test_a_bad_request_is_refused_with_a_message(comfy, body, message):
    status, answer = ask(comfy, body)
    assert status == 400
    error = json.loads(answer)["error"]
    assert re.search(message, error) and len(error) < 300, error
    assert ask(comfy, request())[0] == 200


def test_other_types_of_content_are_refused(comfy):
    """A page of another site can send these without a preflight request."""
    for content_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        status, answer = ask(comfy, json.dumps(request()).encode(), content_type)
        assert status == 400 and "application/json" in json.loads(answer)["error"]


def test_the_newest_request_of_each_painter_wins(comfy):
    slow = {"picture": picture(size=(256, 170))}
    answers: dict[tuple[str, int], int] = {}

    def send(painter: str, number: int) -> None:
        answers[painter, number] = ask(comfy, request(painter=painter, **slow))[0]

    threads = []
    for number in range(8):
        for painter in ("one", "other"):
            threads.append(threading.Thread(target=send, args=(painter, number)))
            threads[-1].start()
        time.sleep(0.03)
    for thread in threads:
        thread.join()
    assert set(answers.values()) <= {200, 409}
    assert answers["one", 7] == answers["other", 7] == 200


def test_the_node_shows_the_photo_that_it_got(comfy):
    from comfy_server import node

    prompt = {
        "image": node("LoadImage", image="photo.png"),
        "invert": node("ImageInvert", image=["image", 0]),
        "hints": node("SeAdaHints", image=["invert", 0], points="[]", mask_color="#000000"),
        "show": node("PreviewImage", images=["hints", 1]),
    }
    (shown,) = comfy.run(prompt)["hints"]["seada_photo"]
    assert (shown["width"], shown["height"], shown["type"]) == (120, 80, "temp")
    file = comfy.base / "temp" / shown["filename"]
    source = Image.open(comfy.base / "input" / "photo.png").convert("L")
    inverted = torch.tensor(list(source.tobytes()), dtype=torch.float32)
    got = torch.tensor(list(Image.open(file).tobytes()), dtype=torch.float32)
    assert (got + inverted - 255).abs().mean() < 2
