"""Retrieval accuracy of the palette bank, and how far its schemes move colours.

python -m benchmarks.quality.palettes retrieval [--val val-000.tar] [--historical FOLDER]
python -m benchmarks.quality.palettes strength --historical FOLDER

`palettes.json` beside this file lists the schemes that are acceptable for captions, labels and photos, chosen by a
person before anything was retrieved. Prints Markdown rows: hits among the first 1, 3 and 5.
"""

from __future__ import annotations

import argparse
import io
import json
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks import Table
from seada_core.color.spaces import rgb_to_ycbcr
from seada_core.hints import palettes
from seada_core.hints.maps import scheme_colors
from seada_core.models import ccd
from seada_core.pipeline import Colorizer

ACCEPTED = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
SHOWN = ("Sphinx", "ReadingGirl", "BuriedDustbowl", "EgyptRiver2", "MoreBikes", "Scotland1919")  # docs/palettes.jpg

Query = tuple[object, list[str]]  # the query, and the accepted schemes


def rates(queries: Iterable[Query], rank: Callable[[object], list[str]]) -> str:
    """ "12, 16, 20 of 30": how often one of the first 1, 3, 5 names is accepted."""
    hits, total = Counter(), 0
    for query, accepted in queries:
        names = rank(query)
        total += 1
        for n in (1, 3, 5):
            hits[n] += any(name in accepted for name in names[:n])
    return f"{hits[1]}, {hits[3]}, {hits[5]} of {total}"


def load_gray(file: Path | io.BytesIO) -> Tensor:
    image = Image.open(file).convert("L")
    image.thumbnail((512, 512))
    return torch.from_numpy(np.asarray(image, np.float32) / 255)[None, None]


def labelled(tar_file: Path, each: int = 3) -> list[Query]:
    """The shard's first photos of each label of `palettes.json`."""
    seen: Counter[str] = Counter()
    queries = []
    with tarfile.open(tar_file) as tar:
        for name in tar.getnames():
            label = json.load(tar.extractfile(name))["label"] if name.endswith(".json") else None
            if label in ACCEPTED["labels"] and seen[label] < each:
                seen[label] += 1
                photo = load_gray(io.BytesIO(tar.extractfile(f"{name[:-5]}.jpg").read()))
                queries.append((photo, ACCEPTED["labels"][label]))
    return queries


def embedding_ranks(schemes: dict[str, palettes.Scheme], colorizer: Colorizer) -> dict[str, dict[str, Callable]]:
    """Alternatives: nearest phrase by the captioner's contrastive heads, and by the semantic encoder's mean token."""
    captioner, encoder = colorizer.part("captioner"), colorizer.part("semantic_encoder")
    owners = [(name, phrase) for name, scheme in schemes.items() for phrase in scheme.phrases]

    def contrastive(texts: list[str]) -> Tensor:
        return normalize(captioner.model._encode_text(captioner.tokenizer(texts))[0], dim=-1)

    def semantic(texts: list[str]) -> Tensor:
        rows = zip(encoder(texts)[0], (len(encoder.tokenizer.encode(text)) for text in texts))
        return normalize(torch.stack([row[1 : n + 2].mean(0) for row, n in rows]), dim=-1)

    def by_phrase(similarities: Tensor) -> list[str]:
        order = similarities.argsort(descending=True, stable=True).tolist()
        return list(dict.fromkeys(owners[i][0] for i in order))

    phrases = [f"a photo of {phrase}" for _, phrase in owners]
    heads, pooled = contrastive(phrases), semantic(phrases)

    def look(photo: Tensor) -> Tensor:
        prepared = captioner.prepare(photo.expand(-1, 3, -1, -1))
        return normalize(captioner.model._encode_image(prepared)[0], dim=-1)

    return {
        "text": {
            "captioner's text embedding": lambda text: by_phrase((contrastive([text]) @ heads.T)[0]),
            "semantic encoder, mean token": lambda text: by_phrase((semantic([text]) @ pooled.T)[0]),
        },
        "photo": {"captioner's image and text embeddings": lambda photo: by_phrase((look(photo) @ heads.T)[0])},
    }


@torch.no_grad()
def retrieval(args: argparse.Namespace) -> None:
    colorizer, schemes = Colorizer.from_pretrained("mini", "cpu"), palettes.load_schemes()
    captioner = colorizer.part("captioner")
    rivals = embedding_ranks(schemes, colorizer)

    def names(query: str | Tensor) -> list[str]:
        return [scheme.name for scheme, _ in palettes.retrieve(query, schemes, captioner)]

    texts = {
        "captions": list(ACCEPTED["captions"].items()),
        "labels": [(f"a photo of a {label}", accepted) for label, accepted in ACCEPTED["labels"].items()],
    }
    table = Table("palettes_text", "schemes found from text: first, among three", list(texts))
    for method, rank in {"words": names, **rivals["text"]}.items():
        table.add(method, *(rates(queries, rank) for queries in texts.values()))
    photos = {}
    if args.val:
        photos["val"] = labelled(args.val)
    if args.historical:
        found = ACCEPTED["historical"].items()
        photos["historical"] = [(load_gray(args.historical / f"{name}.jpg"), accepted) for name, accepted in found]

    def captioned(photo: Tensor) -> list[str]:
        return names(captioner(photo.expand(-1, 3, -1, -1))[0])

    table = Table("palettes_photos", "schemes found from photos: first, among three", list(photos))
    for method, rank in {"classes' words": names, "the caption's words": captioned, **rivals["photo"]}.items():
        table.add(method, *(rates(queries, rank) for queries in photos.values()))


def chroma_of(image: Image.Image) -> Tensor:
    return rgb_to_ycbcr(torch.tensor(np.asarray(image)).permute(2, 0, 1)[None] / 255)[:, 1:]


def strength(args: argparse.Namespace) -> None:
    """Mean chroma distance moved, and the change of the distance to the scheme, at several strengths."""
    colorizer, schemes = Colorizer.from_pretrained("mini", "cpu"), palettes.load_schemes()
    table = Table("palettes_strength", "mean chroma distance over six photos", ["moved", "nearer to the scheme"])
    for value in (None, 0.5, 1.0, 2.0):
        moved, nearer = [], []
        for name, accepted in ((name, ACCEPTED["historical"][name]) for name in SHOWN):
            image = Image.open(args.historical / f"{name}.jpg").convert("L")
            image.thumbnail((320, 320))
            colors = schemes[accepted[0]].colors
            plain = chroma_of(colorizer(image))
            drawn = chroma_of(colorizer(image, palette=colors, palette_strength=value))
            gray = torch.tensor(np.asarray(image))[None, None] / 255
            moved.append(float((drawn - plain).norm(dim=1).mean()))
            target = scheme_colors(colors)
            before, after = (float(ccd.scheme_distance(chroma, gray, target)) for chroma in (plain, drawn))
            nearer.append(before - after)
        table.add(f"strength {value}", float(np.mean(moved)), float(np.mean(nearer)))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.palettes")
    parser.add_argument("what", choices=("retrieval", "strength"))
    parser.add_argument("--val", type=Path, help="a webdataset shard whose labels palettes.json knows")
    parser.add_argument("--historical", type=Path, help="the folder of the photos that palettes.json names")
    args = parser.parse_args()
    {"retrieval": retrieval, "strength": strength}[args.what](args)


if __name__ == "__main__":
    main()
