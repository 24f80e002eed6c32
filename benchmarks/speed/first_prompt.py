"""The first prompt after ComfyUI's start, the model's loading included: seconds until a photo is coloured.

`python -m benchmarks.speed.first_prompt [--repeats 5] [--before CHECKOUT]`; needs a ComfyUI, see CONTRIBUTING.md. Each
repeat starts a server of its own; those of another checkout of this pack take turns with it. Processor time is that of
the whole server from the prompt's start to its end, which other work on the machine affects less.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from benchmarks import Table
from benchmarks.speed.archive import processor_seconds

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "support"))

from comfy_server import ROOT, Server, colorize, node


def first_prompt(pack: Path) -> tuple[float, float]:
    """(wall, processor) seconds of one server's first prompt, a photo of 600 px with a text, to a saved picture."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        server = Server(Path(folder), pack=pack, probe=False)
        try:
            with Image.open(ROOT / "samples" / "photo.jpg") as photo:
                photo.save(Path(folder) / "input" / "photo.png")
            prompt = {**colorize(model="embedded"), "save": node("SaveImage", images=["color", 0], filename_prefix="x")}
            wall, processor = time.perf_counter(), processor_seconds(server.process.pid)
            server.wait(server.queue(prompt), every=0.02)
            return time.perf_counter() - wall, processor_seconds(server.process.pid) - processor
        finally:
            server.stop()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--before", type=Path, help="another checkout of this pack")
    options = parser.parse_args(arguments)
    packs = {"this pack": ROOT} | ({} if options.before is None else {"before": options.before.resolve()})
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in packs}
    for _ in range(options.repeats):
        for name, pack in packs.items():
            runs[name].append(first_prompt(pack))
    about = f"the first prompt of a server, medians of {options.repeats}"
    table = Table("first_prompt", about, ["s", "processor s", "best s"])
    for name, found in runs.items():
        wall, processor = zip(*found)
        table.add(name, statistics.median(wall), statistics.median(processor), min(wall))
    return 0


if __name__ == "__main__":
    sys.exit(main())
