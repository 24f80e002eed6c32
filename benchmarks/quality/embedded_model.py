"""All figures of the model card.

`python -m benchmarks.quality.embedded_model --data val-001.tar val-000.tar --kodak DIR --historical DIR
--encoder taesd_encoder.safetensors --photo samples/photo.jpg --out DIR`

For each validation shard the colour distance (`benchmarks.quality.colors`) and `python -m seada_core.evaluate`; on the
first shard the hint protocol too; then Kodak24, photos without a truth, `benchmarks.quality.kodak` for the decoder, and
the time for a photo. Each evaluation is a folder of `--out`, and with `--resume` none is done twice.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from PIL import Image

from benchmarks import Table
from benchmarks.quality import colors
from benchmarks.quality import kodak as decoder
from seada_core.evaluate.__main__ import main as evaluate

NETWORK = "efficientnet-lite0"
REPEATS = 3


def evaluations(options: argparse.Namespace) -> dict[str, list[str]]:
    """Name of each evaluation to the arguments of its command."""
    shared = ["--model", options.model, *(["--device", options.device] if options.device else [])]
    found = {}
    if options.data:
        whole = ["--limit", str(options.limit)] if options.limit else []
        found |= {shard.stem: ["--images", str(shard), *whole, *shared] for shard in options.data}
        few = ["--limit", str(options.hint_pictures), "--hint-counts", "0", "10", "--features"]
        found["hints"] = ["--images", str(options.data[0]), "--protocol", "icolorit", *few, *shared]
    if options.kodak:
        found["kodak"] = ["--images", str(options.kodak), *shared]
    if options.historical:
        found["historical"] = ["--images", str(options.historical), "--no-truth", "--features", *shared]
    return found


def seconds_a_photo(model: str, device: str | None, photo: Path) -> float:
    """Seconds of the Colorizer per photo with its defaults, warm, best of `REPEATS`."""
    from seada_core.pipeline import Colorizer

    colorizer = Colorizer.from_pretrained(model, device)
    image, times = Image.open(photo).convert("L"), []
    for _ in range(REPEATS + 1):
        started = time.perf_counter()
        colorizer(image)
        times.append(time.perf_counter() - started)
    return min(times[1:])


def rows(reports: dict[str, dict], kodak: float | None, seconds: float | None) -> list[tuple[str, str, str]]:
    """Rows of (what, grey, the model) of what was measured; the colour distance has a table of its own."""
    found = []
    for name, report in reports.items():
        ours = report["methods"]["ours"]
        if name.startswith("val"):
            found += [
                (f"{name}: PSNR over grey's", "0 dB", f"{ours['psnr_over_gray']:+.2f} dB"),
                (f"{name}: colourfulness, share of the truth's", "0 %", f"{ours['colorfulness_share_of_truth']:.1%}"),
                (
                    f"{name}: fineness and colour, Fréchet distance ({NETWORK}), share of grey's",
                    "100 %",
                    f"{ours[f'frechet_{NETWORK}_share_of_gray']:.1%}",
                ),
                (f"{name}: recovery of the truth's own class", "0 %", f"{ours['agreement_recovery']:.1%}"),
            ]
        elif name == "hints":
            found.append(("PSNR@10 over PSNR@0", "", f"{ours['psnr_at_10_over_psnr_at_0']:+.2f} dB"))
        elif name == "kodak":
            found.append(("Kodak24: PSNR over grey's", "0 dB", f"{ours['psnr_over_gray']:+.2f} dB"))
    if kodak is not None:
        found.append(("Kodak24, true latents decoded", "", f"{kodak:.2f} dB"))
    if seconds is not None:
        found.append((f"a photo, warm, {torch.get_num_threads()} threads, defaults", "", f"{seconds:.2f} s"))
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality.embedded_model", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--data", type=Path, nargs="*", default=[], help="validation shards, the one that counts first")
    parser.add_argument("--limit", type=int, help="only their first N pictures")
    parser.add_argument("--hint-pictures", type=int, default=100, help="pictures of the hint protocol (default: 100)")
    parser.add_argument("--kodak", type=Path, help="folder of Kodak24")
    parser.add_argument("--encoder", help="TAESD's encoder, for the decoder's figure on Kodak24")
    parser.add_argument("--historical", type=Path, help="folder of photos without a colour truth")
    parser.add_argument("--photo", type=Path, help="the photo to time")
    parser.add_argument("--model", default="mini", help='"mini" or a folder of part files (default: mini)')
    parser.add_argument("--device", help="cpu, cuda, ... (default: the Colorizer's choice)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the evaluations")
    parser.add_argument("--resume", action="store_true", help="skip evaluations that are finished")
    options = parser.parse_args(arguments)
    for shard in options.data:
        colors.main(["--data", str(shard), "--model", options.model])
    reports = {}
    for name, command in evaluations(options).items():
        print(f"\n# {name}")
        out = options.out / name
        resume = ["--resume"] if options.resume and out.is_dir() else []
        if evaluate([*command, "--out", str(out), *resume]):
            return 1
        reports[name] = json.loads((out / "report.json").read_text("utf-8"))
    kodak = None
    if options.kodak and options.encoder:
        kodak = decoder.measure(options.kodak, options.encoder, options.model)[0]
    seconds = seconds_a_photo(options.model, options.device, options.photo) if options.photo else None
    table = Table("embedded_model", f"{options.model}, defaults, seed 0", ["leave grey", "this model"])
    for what, gray, ours in rows(reports, kodak, seconds):
        table.add(what, gray, ours)
    return 0


if __name__ == "__main__":
    sys.exit(main())
