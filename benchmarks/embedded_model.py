"""How well a model colours pictures it has never seen: `python -m benchmarks.embedded_model --data val-000.tar`.

Only the luminance of each picture goes in. The result is compared with the picture itself, and the grey photo with it
too, because "no worse than leaving it grey" is the bar that averages hide. One pass, one batch in memory at a time.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import sys
import tarfile
import time
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby, islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from seada_core import color, metrics

NETWORK = "efficientnet-lite0"
PICTURES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True)
class Pair:
    """A picture and what a method made of its luminance, (3, H, W) in [0, 1]; `label` is an ImageNet class or None."""

    key: str
    truth: Tensor
    result: Tensor | None = None
    label: int | None = None


def to_tensor(image: Image.Image) -> Tensor:
    """A picture of any mode as (3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float() / 255


def to_8bit(rgb: Tensor) -> Tensor:
    """The values that a saved file would hold."""
    return (rgb.clamp(0, 1) * 255).round() / 255


def gray_of(rgb: Tensor) -> Tensor:
    """The grey photo, (..., 3, H, W) with three equal channels of 8-bit luminance."""
    return to_8bit(color.luminance(rgb)).expand_as(rgb)


def keys_of(path: Path) -> list[str]:
    """The keys of a webdataset shard's pictures, in their order."""
    with tarfile.open(path) as shard:
        return [m.name.rsplit(".", 1)[0] for m in shard if m.isfile() and m.name.endswith(PICTURES)]


def read_shard(path: Path, keys: Container[str] | None = None) -> Iterator[Pair]:
    """Pictures of a webdataset shard in their order (only those of `keys`, if given), one in memory at a time.

    Raises ValueError, naming the picture, for one that cannot be read.
    """
    with tarfile.open(path) as shard:
        for key, members in groupby((m for m in shard if m.isfile()), key=lambda m: m.name.rsplit(".", 1)[0]):
            if keys is not None and key not in keys:
                continue
            parts = {m.name.rsplit(".", 1)[-1]: shard.extractfile(m).read() for m in members}
            picture = next((parts[suffix[1:]] for suffix in PICTURES if suffix[1:] in parts), None)
            if picture is None:
                continue
            about = json.loads(parts.get("json", b"{}"))
            imagenette = about.get("source") == "imagenette2"
            try:
                truth = to_tensor(Image.open(io.BytesIO(picture)))
            except (UnidentifiedImageError, OSError) as error:
                raise ValueError(f"{path}: picture {key} cannot be read ({error})") from error
            yield Pair(key, truth, label=metrics.IMAGENETTE_CLASSES.get(about["label"]) if imagenette else None)


def batches_of(pairs: Iterable[Pair], size: int) -> Iterator[list[Pair]]:
    """Runs of at most `size` consecutive pictures that have the same shape."""
    for _, run in groupby(pairs, key=lambda pair: pair.truth.shape):
        while batch := list(islice(run, size)):
            yield batch


class Colorized:
    """Iterates pairs with `result` filled in by a Colorizer, and keeps the seconds that it took."""

    def __init__(self, pairs: Iterable[Pair], colorizer, batch: int, **options):
        self.pairs, self.colorizer, self.batch, self.options = pairs, colorizer, batch, options
        self.seconds = 0.0

    def __iter__(self) -> Iterator[Pair]:
        for batch in batches_of(self.pairs, self.batch):
            gray = gray_of(torch.stack([pair.truth for pair in batch]))
            start = time.perf_counter()
            results = self.colorizer(gray, **self.options).float().cpu()
            self.seconds += time.perf_counter() - start
            for pair, result in zip(batch, results, strict=True):
                yield replace(pair, result=to_8bit(result))


def read_outputs(pairs: Iterable[Pair], folder: Path) -> Iterator[Pair]:
    """Pairs whose result is `folder/KEY.png`, made earlier by any method. Raises ValueError for one that is missing."""
    for pair in pairs:
        path = folder / f"{Path(pair.key).name}.png"
        if not path.is_file():
            raise ValueError(f"{folder} has no {path.name}: --outputs needs one PNG a picture, named by its key")
        yield replace(pair, result=to_tensor(Image.open(path)))


class Mean:
    """A running mean of values that come in batches; not a number while there are none."""

    def __init__(self):
        self.total, self.count = 0.0, 0

    def add(self, values: Tensor) -> None:
        self.total += values.double().sum().item()
        self.count += values.numel()

    @property
    def value(self) -> float:
        return self.total / self.count if self.count else math.nan


def score(pairs: Iterable[Pair], batch: int = 16, device: str | torch.device = "cpu", network: str = NETWORK) -> dict:
    """Compares each pair's result, and its grey photo, with the truth. Memory does not grow with the number of pairs.

    PSNR and colourfulness are means over pictures. Shares are of grey's: a share of 1 means no nearer to the truth than
    the grey photo, 0 means the truth itself. Raises ValueError where a result's size is not its picture's.
    """
    names = ("ours", "gray", "truth")
    means: dict[str, dict[str, Mean]] = {}
    statistics = {name: metrics.GaussianStatistics(metrics.FEATURES[network]) for name in names}

    def add(measure: str, name: str, values: Tensor) -> None:
        means.setdefault(measure, {}).setdefault(name, Mean()).add(values)

    for group in batches_of(pairs, batch):
        for pair in group:
            if pair.result.shape != pair.truth.shape:
                sizes = [f"{p.shape[-1]}×{p.shape[-2]}" for p in (pair.result, pair.truth)]
                raise ValueError(f"{pair.key}: the result is {sizes[0]} px, the picture {sizes[1]} px")
        truth = torch.stack([pair.truth for pair in group]).to(device)
        pictures = {
            "ours": torch.stack([pair.result for pair in group]).to(device),
            "gray": gray_of(truth),
            "truth": truth,
        }
        pooled = {name: metrics.features(picture, network) for name, picture in pictures.items()}
        top1 = {name: metrics.class_logits(vectors).argmax(1) for name, vectors in pooled.items()}
        labels = torch.tensor([-1 if pair.label is None else pair.label for pair in group], device=device)
        for name in names:
            statistics[name].update(pooled[name])
            add("colorfulness", name, metrics.colorfulness(pictures[name]))
            add("colorfulness_signed", name, metrics.colorfulness(pictures[name], signed=True))
            add("imagenette", name, (top1[name] == labels)[labels >= 0])
        for name in ("ours", "gray"):
            add("psnr", name, metrics.psnr(pictures[name], truth))
            add("feature", name, torch.linalg.vector_norm(pooled[name] - pooled["truth"], dim=1))
            add("agreement", name, top1[name] == top1["truth"])
    if not means:
        raise ValueError("there are no pictures to score")

    mean = {measure: {name: m.value for name, m in by_name.items()} for measure, by_name in means.items()}
    count = statistics["truth"].count
    # One picture has no covariance.
    frechet = {
        name: metrics.frechet_distance(statistics[name], statistics["truth"]) if count > 1 else math.nan
        for name in ("ours", "gray")
    }
    labelled = mean["imagenette"]
    return {
        "pictures": count,
        "psnr_rgb_255": mean["psnr"],
        "colorfulness_absolute": _against_truth(mean["colorfulness"]),
        "colorfulness_signed": _against_truth(mean["colorfulness_signed"]),
        f"feature_distance_{network}_pooled": _share(mean["feature"]),
        f"frechet_distance_{network}_pooled": _share(frechet),
        f"top1_agreement_with_truth_{network}": {
            **mean["agreement"],
            "recovery": metrics.semantic_recovery(mean["agreement"]["ours"], mean["agreement"]["gray"], 1.0),
        },
        f"imagenette_top1_accuracy_{network}": {
            "pictures": means["imagenette"]["truth"].count,
            **labelled,
            "recovery": metrics.semantic_recovery(labelled["ours"], labelled["gray"], labelled["truth"]),
        },
    }


def _against_truth(mean: dict[str, float]) -> dict[str, float]:
    share = mean["ours"] / mean["truth"] if mean["truth"] else math.nan
    return {"ours": mean["ours"], "truth": mean["truth"], "share": share}


def _share(mean: dict[str, float]) -> dict[str, float]:
    return {**mean, "share": mean["ours"] / mean["gray"] if mean["gray"] else math.nan}


def table(report: dict) -> str:
    """The report as text, one measure a line."""
    columns = ("ours", "gray", "truth", "share", "recovery")
    width = max(len(name) for name in report)
    lines = [" ".join([f"{report['pictures']} pictures".ljust(width), *(c.rjust(9) for c in columns)])]
    for name, values in report.items():
        if isinstance(values, dict):
            cells = [_cell(values[c], c) if c in values else "" for c in columns]
            lines.append(" ".join([name.ljust(width), *(cell.rjust(9) for cell in cells)]))
    if "seconds_a_picture" in report:
        lines.append(f"{report['seconds_a_picture']:.2f} s a picture")
    return "\n".join(lines)


def _cell(value: float, column: str) -> str:
    if not math.isfinite(value):
        return "undefined"
    return f"{value:.1%}" if column in ("share", "recovery") else f"{value:.3f}"


def progress(pairs: Iterable[Pair], every: int = 50) -> Iterator[Pair]:
    """Passes pairs on, and tells a terminal how far it is."""
    for done, pair in enumerate(pairs, 1):
        yield pair
        if done % every == 0 and sys.stderr.isatty():
            print(f"\r{done} pictures ", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print("\r", end="", file=sys.stderr)


def save_results(pairs: Iterable[Pair], folder: Path) -> Iterator[Pair]:
    """Passes pairs on, and writes each result as `folder/KEY.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    for pair in pairs:
        pixels = (pair.result * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / f"{Path(pair.key).name}.png")
        yield pair


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """What chooses and steers the Colorizer, the same for every benchmark."""
    parser.add_argument("--model", default="mini", help='"mini" or a folder of part files (default: mini)')
    parser.add_argument("--device", help="cpu, cuda, ... (default: the Colorizer's choice)")
    parser.add_argument("--steps", type=int, help="sampling steps (default: the model's)")
    parser.add_argument("--guidance", type=float, help="classifier-free guidance (default: the model's)")
    parser.add_argument("--seed", type=int, default=0, help="noise seed, the same for every picture (default: 0)")


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, got {text}")
    return value


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.embedded_model", description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="webdataset shard of colour pictures")
    parser.add_argument("--limit", type=positive, help="only the first N pictures")
    parser.add_argument("--batch", type=positive, default=16, help="pictures colourised at once (default: 16)")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--outputs", type=Path, help="score the PNGs of this folder, named by key, and run no model")
    source.add_argument("--save", type=Path, help="also write every result to this folder, as --outputs reads them")
    parser.add_argument(
        "--network", choices=metrics.FEATURES, default=NETWORK, help=f"of the features (default: {NETWORK})"
    )
    parser.add_argument("--json", type=Path, help="write the report to this file ('-': print nothing but the report)")
    add_model_arguments(parser)
    options = parser.parse_args(arguments)

    try:
        pairs = islice(read_shard(options.data), options.limit)
        device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
        if options.outputs:
            run, settings = None, {"outputs": str(options.outputs)}
            results = read_outputs(pairs, options.outputs)
        else:
            from seada_core.pipeline import Colorizer

            settings = {name: getattr(options, name) for name in ("model", "steps", "guidance", "seed", "batch")}
            colorizer = Colorizer.from_pretrained(options.model, device=options.device)
            steering = {name: settings[name] for name in ("steps", "guidance", "seed")}
            run = results = Colorized(pairs, colorizer, options.batch, **steering)
            if options.save:
                results = save_results(results, options.save)
        report = {
            "data": options.data.name,
            "settings": settings,
            **score(progress(results), device=device, network=options.network),
        }
    except (ValueError, OSError, ImportError, tarfile.TarError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if run:
        report["seconds_a_picture"] = run.seconds / report["pictures"]

    # JSON has no NaN: an undefined share becomes null.
    text = json.dumps(_finite(report), indent=2)
    if options.json == Path("-"):
        print(text)
    else:
        print(table(report))
        if options.json:
            options.json.write_text(text + "\n")
    return 0


def _finite(value):
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    sys.exit(main())
