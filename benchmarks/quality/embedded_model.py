"""All figures of the model card.

`python -m benchmarks.quality.embedded_model --data val-000.tar --kodak DIR --historical DIR --out DIR`

`python -m seada_core.evaluate` on the validation shard, on its first pictures by the hint protocol, on Kodak24 and on
photos without a truth, `benchmarks.quality.kodak` for the decoder, and the time for a photo; then the table of the
aims. Each evaluation is a folder in `--out`, and with `--resume` finished ones are skipped.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from PIL import Image

from seada_core.evaluate.__main__ import main as evaluate

NETWORK = "efficientnet-lite0"
REPEATS = 3


def evaluations(options: argparse.Namespace) -> dict[str, list[str]]:
    """Name of each evaluation to the arguments of its command."""
    shared = ["--model", options.model, *(["--device", options.device] if options.device else [])]
    found = {}
    if options.data:
        whole = ["--limit", str(options.limit)] if options.limit else []
        found["validation"] = ["--images", str(options.data), *whole, *shared]
        few = ["--limit", str(options.hint_pictures), "--hint-counts", "0", "10", "--features"]
        found["hints"] = ["--images", str(options.data), "--protocol", "icolorit", *few, *shared]
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


def aims(reports: dict[str, dict], kodak: float | None, seconds: float | None) -> list[tuple[str, str, str, str]]:
    """Rows of (figure, leaving grey, the model, aim) for the measurements that were made."""
    rows = []
    if "validation" in reports:
        ours = reports["validation"]["methods"]["ours"]
        recovered = (ours.get("semantic_recovery"), ours["agreement_recovery"])
        rows += [
            (
                f"feature distance ({NETWORK}), share of grey's",
                "100 %",
                f"{ours[f'frechet_{NETWORK}_share_of_gray']:.1%}",
                "45 % at most",
            ),
            (
                "semantic recovery (of the labels; of the truth's own class)",
                "0 %",
                "; ".join("undefined" if value is None else f"{value:.1%}" for value in recovered),
                "40 % at least",
            ),
            ("PSNR over grey's", "0 dB", f"{ours['psnr_over_gray']:+.2f} dB", "+0.7 dB"),
            ("colourfulness, share of the truth's", "0 %", f"{ours['colorfulness_share_of_truth']:.1%}", "80 to 115 %"),
        ]
    if "hints" in reports:
        ours = reports["hints"]["methods"]["ours"]
        rows.append(("PSNR@10 over PSNR@0", "", f"{ours['psnr_at_10_over_psnr_at_0']:+.2f} dB", "+2.5 dB"))
    if kodak is not None:
        rows.append(("Kodak24 decode (grey injection)", "", f"{kodak:.2f} dB", "37.5 dB"))
    if seconds is not None:
        what = f"a photo, warm, {torch.get_num_threads()} threads, defaults"
        rows.append((what, "", f"{seconds:.2f} s", "3 s at most (2 cores)"))
    return rows


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality.embedded_model", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--data", type=Path, help="validation shard")
    parser.add_argument("--limit", type=int, help="only its first N pictures")
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
        from benchmarks.quality import kodak as decoder

        print("\n# decoder")
        kodak = decoder.measure(options.kodak, options.encoder, options.model)[0]
    seconds = seconds_a_photo(options.model, options.device, options.photo) if options.photo else None
    lines = ["| | leave grey | this model | aim |", "| --- | --- | --- | --- |"]
    lines += ["| " + " | ".join(row) + " |" for row in aims(reports, kodak, seconds)]
    print("\n" + "\n".join(lines))
    (options.out / "aims.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
