"""Requests to the painter's route."""

import base64
import io
import json
import urllib.error
import urllib.request
from pathlib import Path

from PIL import Image

PHOTO = Path(__file__).resolve().parents[2] / "samples" / "photo.jpg"


HINTS = [
    {"x": 300, "y": 60, "color": "#a06040", "radius": 12},
    {"points": [[40, 300], [200, 350], [620, 380]], "color": "#4070b0", "radius": 6},
]


def picture(kind: str = "PNG", size: tuple[int, int] = (96, 64), mode: str = "L") -> str:
    file = io.BytesIO()
    Image.open(PHOTO).convert(mode).resize(size).save(file, kind)
    return base64.b64encode(file.getvalue()).decode()


def request(**changes) -> dict:
    return {"painter": "test", "picture": picture(), "size": [600, 400], "hints": HINTS} | changes


def ask(comfy, body: bytes | dict, content_type: str = "application/json") -> tuple[int, bytes]:
    """The answer's status and body."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    url = f"http://127.0.0.1:{comfy.port}/seada/propagate"
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, data, {"Content-Type": content_type}), timeout=120
        ) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
