"""The hint painter's server side: POST /seada/propagate colours the small grey picture that the page sends, or says
which region of it one more hint would take.

It touches no file and no network: everything comes in the request and leaves in the response.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
import itertools
import json
from functools import lru_cache
from typing import NamedTuple

import torch
from aiohttp import web
from PIL import Image
from torch import Tensor, nn

from ..seada_core.color.merging import merge_chroma
from ..seada_core.color.sizes import size_of
from ..seada_core.color.spaces import luminance
from ..seada_core.files.hint_format import Hint, Stroke, parse_hints
from ..seada_core.hints.affinity import Affinities, Seen, affinities_of, follow_hints, with_kept
from ..seada_core.hints.maps import hint_map
from ..seada_core.weights import part_files
from . import bridge

ROUTE = "/seada/propagate"
MAX_BODY = 2_000_000  # bytes of a request
MAX_SIDE = 256  # long side of the small picture, px
MAX_PHOTO_SIDE = 1_000_000  # of the photo that the hints belong to, px
MAX_NAME = 64  # letters of a painter's name
FORMATS = ("PNG", "JPEG", "WEBP")


class Request(NamedTuple):
    painter: str  # requests of one painter replace each other
    gray: Tensor  # (1, 1, h, w) in [0, 1]
    hints: list[Hint | Stroke]
    size: tuple[int, int]  # (H, W) of the photo
    next: Hint | Stroke | None  # the hint whose region is wanted


def parse(body: bytes) -> Request:
    """{"painter": name, "picture": base64 of a PNG, JPEG or WebP, "size": [W, H], "hints": [...]} as a Request; with
    "next", one more hint, where its region is wanted.

    Raises ValueError for anything else.
    """
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the request is not JSON: {error}") from None
    if not isinstance(data, dict) or data.keys() - {"next"} != {"painter", "picture", "size", "hints"}:
        raise ValueError("expected a JSON object of painter, picture, size and hints")
    painter, size = data["painter"], data["size"]
    if not isinstance(painter, str) or len(painter) > MAX_NAME:
        raise ValueError(f"painter: expected a name of at most {MAX_NAME} letters")
    if (
        not isinstance(size, list)
        or len(size) != 2
        or not all(type(n) is int and 0 < n <= MAX_PHOTO_SIDE for n in size)
    ):
        raise ValueError("size: expected the photo's [width, height] in pixels")
    hints = parse_hints(data["hints"])
    (following,) = parse_hints([data["next"]], "next") if "next" in data else (None,)
    return Request(painter, _picture(data["picture"]), hints, (size[1], size[0]), following)


def _picture(text: object) -> Tensor:
    """Luminance (1, 1, h, w) of a picture in base64. Raises ValueError if it is not one, or is larger than MAX_SIDE."""
    if not isinstance(text, str):
        raise ValueError("picture: expected base64 text")
    try:
        file = io.BytesIO(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        raise ValueError("picture: this is not base64") from None
    try:
        image = Image.open(file, formats=FORMATS)
    except Exception:  # Pillow raises all kinds of errors for hostile files
        raise ValueError("picture: this is not a PNG, JPEG or WebP picture") from None
    if max(image.size) > MAX_SIDE:
        raise ValueError(f"picture: {image.width} x {image.height}, expected at most {MAX_SIDE} x {MAX_SIDE}")
    try:
        rgb = image.convert("RGB")
    except Exception:
        raise ValueError("picture: this file is damaged") from None
    pixels = torch.frombuffer(bytearray(rgb.tobytes()), dtype=torch.uint8).view(1, rgb.height, rgb.width, 3)
    return luminance(pixels.movedim(-1, 1).float() / 255)


@lru_cache(maxsize=1)
def embedded_affinities() -> Affinities:
    """The embedded model's: they say where hints arrive, whichever model will colour the rest."""

    def load(part: str) -> nn.Module:
        return part_files.load_part(part_files.EMBEDDED / f"{part}.safetensors", part)[0]

    found = affinities_of(lambda part: True, load)
    assert found is not None
    return found


@lru_cache(maxsize=4)
def _seen(pixels: bytes, size: tuple[int, int]) -> Seen:
    with torch.inference_mode(False):
        return embedded_affinities().look(torch.frombuffer(bytearray(pixels), dtype=torch.float32).view(1, 1, *size))


def seen(gray: Tensor) -> Seen:
    """Of a small picture (1, 1, h, w): they stay the same while hints are painted on it."""
    return _seen(gray.numpy().tobytes(), size_of(gray))


def colored(request: Request) -> bytes:
    """A PNG of the small picture in the hints' propagated colours. Raises ValueError for hints outside the photo."""
    gray = request.gray
    hints = hint_map(request.hints, size_of(gray), request.size)
    chroma = torch.zeros_like(gray).repeat(1, 2, 1, 1)
    if request.hints:
        with torch.inference_mode(False):
            chroma = follow_hints(chroma, gray, hints, None, embedded_affinities(), seen(gray))
    return png(merge_chroma(chroma, gray))


def region(request: Request) -> bytes:
    """A grey PNG of where one more hint would arrive: the brighter, the more of its colour.

    Raises ValueError for hints outside the photo.
    """
    gray, following = request.gray, request.next
    assert following is not None
    own = hint_map([following], size_of(gray), request.size)
    own = own[:, 2:3] + own[:, 4:].sum(1, keepdim=True)
    hints = hint_map([*request.hints, following], size_of(gray), request.size)
    grey = torch.zeros_like(gray).repeat(1, 2, 1, 1)
    with torch.inference_mode(False):
        marked = with_kept(hints, grey)
        marked = torch.cat([own, grey[:, :1], marked[:, 2:]], dim=1)  # what this hint changes alone
        share = embedded_affinities().correction(grey, gray, marked, seen(gray))[:, :1]
    return png(torch.maximum(share, own).clamp(0, 1))


def png(picture: Tensor) -> bytes:
    """A picture (1, 3 or 1, H, W) in [0, 1] as a file."""
    pixels = (picture[0] * 255).round().byte().movedim(0, -1).squeeze(-1).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


class Propagation:
    """Handles one request at a time, off the event loop, and only the newest of each painter's waiting requests."""

    def __init__(self) -> None:
        self._busy = asyncio.Lock()
        self._arrivals = itertools.count()
        self._newest: dict[str, int] = {}  # by painter, while requests wait

    async def answer(self, http: web.Request) -> web.Response:
        """200 and a PNG; 400 for a bad request, 409 if a newer request of the same painter has replaced it."""
        number = next(self._arrivals)
        try:
            request = await asyncio.to_thread(parse, await _body(http))
            self._newest[request.painter] = max(number, self._newest.get(request.painter, number))
            try:
                async with self._busy:
                    if self._newest.get(request.painter, number) > number:
                        return web.json_response({"error": "replaced by a newer request"}, status=409)
                    answer = colored if request.next is None else region
                    return web.Response(body=await asyncio.to_thread(answer, request), content_type="image/png")
            finally:
                if self._newest.get(request.painter) == number:
                    del self._newest[request.painter]
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=400)


async def _body(http: web.Request) -> bytes:
    """The request's body. Raises ValueError if it is too long or its type is not JSON."""
    if http.content_type != "application/json":  # a foreign page cannot send this type without a preflight request
        raise ValueError("expected a body of the type application/json")
    body = bytearray()
    async for chunk in http.content.iter_chunked(1 << 16):
        body += chunk
        if len(body) > MAX_BODY:
            raise ValueError(f"the request is longer than {MAX_BODY} bytes")
    return bytes(body)


def register() -> None:
    """Adds the route to ComfyUI's server."""
    bridge.add_post_route(ROUTE, Propagation().answer)
