"""Draws the workflows' thumbnails that show the sample photo: `python -m docs.figures.thumbnails`.

Grey on the left, the workflow's colours on the right. Those of edit models, which are not in the repository, show their
nodes on the photo; so do those of Stable Diffusion 1.5, which are not drawn here.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torchvision.transforms.functional import to_tensor

from seada_core import steering
from seada_core.files.hint_format import KEEP, parse_hints
from seada_core.hints.masks import mask_hints
from seada_core.hints.palettes import load_schemes
from seada_core.pipeline import Colorizer

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = ROOT / "workflows"
SIZE = (480, 320)
STRIP, EDGE = 54, 4  # px: height of a palette, gap between tiles
SCHEME = "Dutch interior"


def widgets(name: str, kind: str, number: int = 0) -> list:
    """The widget values of a workflow's node of a kind."""
    workflow = json.loads((WORKFLOWS / f"{name}.json").read_text("utf-8"))
    return [node["widgets_values"] for node in workflow["nodes"] if node["type"] == kind][number]


def halves(photo: Image.Image, colored: Image.Image) -> Image.Image:
    """Grey left half, coloured right half."""
    sheet = photo.convert("RGB").resize(SIZE, Image.Resampling.LANCZOS)
    right = colored.resize(SIZE, Image.Resampling.LANCZOS)
    sheet.paste(right.crop((SIZE[0] // 2, 0, *SIZE)), (SIZE[0] // 2, 0))
    return sheet


def hinted(name: str, photo: Image.Image, colorizer: Colorizer, **options) -> Image.Image:
    """The result of a workflow's hints, whole, with its clicks marked."""
    hints = parse_hints(json.loads(widgets(name, "SeAdaHints")[0]))
    sheet = colorizer(photo, hints=hints, **options).resize(SIZE, Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(sheet)
    for hint in hints:
        x, y = (place * SIZE[0] / photo.width for place in (hint.x, hint.y))
        draw.ellipse(
            (x - 11, y - 11, x + 11, y + 11), fill=None if hint.color == KEEP else hint.color, outline="white", width=3
        )
    return sheet


def masked(name: str, gray: Tensor) -> Tensor:
    """The soft hints of a workflow that gives what is light one colour and the rest another."""
    light = (gray[0] > widgets(name, "ThresholdMask")[0]).float()
    colors = [widgets(name, "SeAdaHintsFromMasks", k)[0] for k in (0, 1)]
    soft = mask_hints(gray, torch.cat([light, 1 - light]), colors)
    soft[:, 2] *= widgets(name, "SeAdaHintsFromMasks")[2]
    return soft


def tiles(photo: Image.Image, colored: Image.Image) -> Image.Image:
    """Four cuttings of the photo, each half in colour."""
    sheet, (width, height) = Image.new("RGB", SIZE, "#202020"), (SIZE[0] // 2, SIZE[1] // 2)
    for k, box in enumerate(((0, 0, 600, 400), (0, 0, 330, 220), (200, 120, 560, 360), (40, 150, 400, 390))):
        part = halves(photo.crop(box), colored.crop(box)).resize((width - EDGE, height - EDGE))
        sheet.paste(part, (k % 2 * width + EDGE // 2, k // 2 * height + EDGE // 2))
    return sheet


def striped(colored: Image.Image, colors: list[str]) -> Image.Image:
    """A picture above a palette."""
    sheet, draw_height = Image.new("RGB", SIZE, "white"), SIZE[1] - STRIP
    sheet.paste(colored.resize(SIZE, Image.Resampling.LANCZOS).crop((0, 0, SIZE[0], draw_height - EDGE)))
    draw, width = ImageDraw.Draw(sheet), SIZE[0] / len(colors)
    for k, color in enumerate(colors):
        draw.rectangle((k * width, draw_height, (k + 1) * width, SIZE[1]), fill=color)
    return sheet


def outlined(name: str, photo: Image.Image) -> Image.Image:
    """A workflow's groups, nodes and links on the darkened photo."""
    workflow = json.loads((WORKFLOWS / f"{name}.json").read_text("utf-8"))
    sheet = photo.resize(SIZE, Image.Resampling.LANCZOS).point(lambda value: value * 0.45).convert("RGBA")
    drawn = Image.new("RGBA", (SIZE[0] * 2, SIZE[1] * 2))
    draw = ImageDraw.Draw(drawn)
    right = max(group["bounding"][0] + group["bounding"][2] for group in workflow["groups"])
    bottom = max(group["bounding"][1] + group["bounding"][3] for group in workflow["groups"])
    scale = (drawn.width - 40) / right
    top = (drawn.height - scale * bottom) / 2

    def at(x: float, y: float) -> tuple[float, float]:
        return 20 + scale * x, top + scale * y

    for group in workflow["groups"]:
        x, y, width, height = group["bounding"]
        draw.rectangle((*at(x, y), *at(x + width, y + height)), fill=f"{group['color'][:7].ljust(7, '0')}a0")
    nodes = {node["id"]: node for node in workflow["nodes"]}
    for _, source, slot, target, socket, _ in workflow["links"]:
        (x0, y0), (width, _), (x1, y1) = nodes[source]["pos"], nodes[source]["size"], nodes[target]["pos"]
        draw.line((*at(x0 + width, y0 + 15 + 20 * slot), *at(x1, y1 + 15 + 20 * socket)), fill="#e0c060", width=2)
    for node in workflow["nodes"]:
        if node["type"] != "Note":
            (x, y), (width, height) = node["pos"], node["size"]
            fill = "#2f6f4f" if node["type"].startswith("SeAda") else "#3a3a3e"
            draw.rounded_rectangle((*at(x, y - 30), *at(x + width, y + height)), 6, fill=fill, outline="#101010")
    return Image.alpha_composite(sheet, drawn.resize(SIZE, Image.Resampling.LANCZOS)).convert("RGB")


def main() -> int:
    photo = Image.open(ROOT / "samples" / "photo.jpg").convert("L")
    gray = to_tensor(photo)[None]
    colorizer = Colorizer.from_pretrained("mini")
    plain = colorizer(photo)
    palette = widgets("seada-hints-and-palette", "SeAdaPalette")[0].split(",")
    text = widgets("seada-words-and-reference", "SeAdaHintsFromText")[0]
    words, _, _ = steering.word_hints(colorizer, gray, text)
    scheme = load_schemes()[SCHEME]
    drawn = {
        "seada-1-start-here": halves(photo, plain),
        "seada-full-graph": halves(photo, plain),
        "seada-folder-of-photos": tiles(photo, plain),
        "seada-hints-in-one-node": hinted("seada-hints-in-one-node", photo, colorizer),
        "seada-hints-and-palette": hinted("seada-hints-and-palette", photo, colorizer, palette=palette),
        "seada-edn-tokens": hinted("seada-edn-tokens", photo, colorizer, token_steps=8),
        "seada-words-and-reference": colorizer(photo, soft_hints=words).resize(SIZE, Image.Resampling.LANCZOS),
        "seada-masks": colorizer(photo, soft_hints=masked("seada-masks", gray)).resize(SIZE, Image.Resampling.LANCZOS),
        "seada-palette-bank": striped(
            colorizer(photo, palette=scheme.colors, palette_strength=1.0), list(scheme.colors)
        ),
    }
    drawn |= {path.stem: outlined(path.stem, photo) for path in WORKFLOWS.glob("seada-edit-*.json")}
    for name, sheet in drawn.items():
        sheet.save(WORKFLOWS / f"{name}.jpg", quality=86)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
