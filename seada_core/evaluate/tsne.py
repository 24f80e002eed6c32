"""A map of caption embeddings before and after the semantic adapter (SeAda Figure 6):

`python -m seada_core.evaluate.tsne --data SHARDS --out tsne.png`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..command_line import FINE, Parser, exit_status, number
from ..errors import CommandError, one_line
from ..files import atomic
from ..pipeline import Colorizer
from ..train.sources import samples

EXTRA = "pip install 'comfyui-seada[evaluate]' (scikit-learn and matplotlib)"
KINDS = {"gray": "grey captions (e_g)", "refined": "the same, refined (e_r)", "color": "colour captions (e_c)"}
COLORS = {"gray": "#888888", "refined": "#00a070", "color": "#d04000"}


def captions_of(source: str, count: int) -> list[tuple[str, str, str]]:
    """(key, grey caption, colour caption) of up to `count` samples that have both, spread evenly over a source.

    Raises ValueError where there are none.
    """
    found = [
        (key, record["captions"][0], record["color_captions"][0])
        for key, _, record in samples(source)
        if record.get("captions") and record.get("color_captions")
    ]
    if not found:
        raise ValueError(f"{source}: no sample has both `captions` and `color_captions`")
    return found[:: max(1, len(found) // count)][:count]


def embed(colorizer: Colorizer, texts: Sequence[str], refined: bool, before: Colorizer | None = None) -> Tensor:
    """Mean over a caption's tokens of e = SeEnc(Des), or of e_r with the adapter, (N, d). `before`: another's SeEnc."""
    encoder = (before or colorizer).part("semantic_encoder")
    rows = []
    with torch.no_grad():
        for start in range(0, len(texts), 64):
            e, mask = encoder(list(texts[start : start + 64]))
            if refined:
                e = colorizer.part("semantic_adapter")(e)
            rows.append((e.float() * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))
    return torch.cat(rows).cpu()


def distances(points: dict[str, Tensor]) -> dict[str, float]:
    """Mean distance of each picture's grey and refined embedding to its colour caption's; between the kinds' means; and
    the first with each kind about its own mean. In units of the colour captions' own spread about their mean."""
    color = points["color"]
    spread = torch.linalg.vector_norm(color - color.mean(0), dim=1).mean().clamp(min=1e-12)
    found = {}
    for kind in ("gray", "refined"):
        offset = points[kind] - color
        for name, distance in (
            ("", torch.linalg.vector_norm(offset, dim=1).mean()),
            ("_of_means", torch.linalg.vector_norm(offset.mean(0))),
            ("_about_means", torch.linalg.vector_norm(offset - offset.mean(0), dim=1).mean()),
        ):
            found[f"{kind}_to_color{name}"] = (distance / spread).item()
    return found


def place(points: dict[str, Tensor], seed: int = 0) -> dict[str, np.ndarray]:
    """All kinds together in the plane by t-SNE (van der Maaten and Hinton 2008), (N, 2) each.

    Raises ValueError for fewer than two captions, ImportError without scikit-learn.
    """
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise ImportError(f"t-SNE is scikit-learn's: {EXTRA}") from error
    together = torch.cat([points[kind] for kind in KINDS]).numpy()
    if len(together) < 6:
        raise ValueError("t-SNE needs at least two captions of each kind")
    perplexity = min(30.0, (len(together) - 1) / 3)
    flat = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(together)
    count = len(flat) // len(KINDS)
    return {kind: flat[index * count : (index + 1) * count] for index, kind in enumerate(KINDS)}


def draw(places: dict[str, np.ndarray], out: Path, title: str) -> None:
    """A scatter plot of `place`'s points, in the format of `out`'s suffix. Raises ImportError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f"the picture is matplotlib's: {EXTRA}") from error
    figure = Figure(figsize=(7, 6), layout="constrained")
    axes = figure.subplots()
    for kind, label in KINDS.items():
        x, y = places[kind].T
        axes.scatter(x, y, s=10, c=COLORS[kind], label=label, alpha=0.7, linewidths=0)
    axes.set(title=title, xticks=[], yticks=[])
    axes.legend(loc="best", fontsize=9)
    with atomic.opened(out) as file:
        figure.savefig(file, dpi=120, format=out.suffix[1:] or None)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return exit_status(lambda: run(**vars(_parser().parse_args(argv))))


def _parser() -> Parser:
    parser = Parser(prog="python -m seada_core.evaluate.tsne", description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", required=True, help="shards whose samples have captions and color_captions")
    parser.add_argument("--model", default="mini", help='"mini" or a folder of part files (default: mini)')
    parser.add_argument("--before", help="a model folder whose text encoder gives e_g and e_c (default: --model's)")
    parser.add_argument("--pictures", type=number(int, 1), default=300, help="captions of each kind (default: 300)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("tsne.png"), help="the picture, .png, .svg or .pdf")
    return parser


def draw_captions(data: str, model: str, before: str | None, pictures: int, seed: int, out: Path) -> dict[str, float]:
    """Draw the picture. Returns its figures, see `distances`, and how many captions of each kind it has."""
    colorizer = Colorizer.from_pretrained(model, "cpu")
    earlier = Colorizer.from_pretrained(before, "cpu") if before else None
    if not colorizer.has("semantic_adapter"):
        raise ValueError(f"{colorizer.folder} has no semantic_adapter.safetensors: there is no before and after")
    found = captions_of(data, pictures)
    gray, color = [g for _, g, _ in found], [c for _, _, c in found]
    points = {
        "gray": embed(colorizer, gray, False, earlier),
        "refined": embed(colorizer, gray, True),
        "color": embed(colorizer, color, False, earlier),
    }
    draw(place(points, seed), out, f"{len(found)} captions, {model}")
    return {"captions": len(found), **{k: round(v, 4) for k, v in distances(points).items()}}


def run(data: str, model: str, before: str | None, pictures: int, seed: int, out: Path) -> int:
    """The command. Returns the exit status."""
    try:
        figures = draw_captions(data, model, before, pictures, seed, out)
    except (ValueError, OSError, ImportError) as error:
        raise CommandError(one_line(error)) from error
    print(json.dumps(figures))
    print(f"wrote {out}", file=sys.stderr)
    return FINE


if __name__ == "__main__":
    sys.exit(main())
