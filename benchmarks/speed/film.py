"""Speed and memory of films in steady colours, decoding and encoding included.

    python -m benchmarks.speed.film --data FOLDER [--seconds 4 12] [--size 432x242 1920x1080] [--threads 2]

FOLDER has numbered frames, which become a black-and-white film of 24 frames a second, forwards and backwards until it
is long enough. Every row is a process of its own: frames a second, the processor's time a frame, and its peak memory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import Table

RATE = 24


def make_film(path: Path, folder: Path, size: tuple[int, int], seconds: float) -> None:
    """Write a grey film that shows the frames of a folder forwards and backwards."""
    import av
    from PIL import Image

    from seada_core.film.frame_folder import numbered

    names = numbered(folder)
    names += names[-2:0:-1]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"crf": "18", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number in range(round(seconds * RATE)):
            picture = Image.open(names[number % len(names)]).convert("L").convert("RGB").resize(size)
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode(None))


def measure(path: Path, threads: int) -> dict[str, float]:
    """Colour a film; the model is loaded and warm."""
    import resource

    import numpy as np
    import torch

    from seada_core.film.keys import KeyPainter
    from seada_core.film.streams import probe
    from seada_core.film.work import colorize_film
    from seada_core.film.writing import Encoding
    from seada_core.options import ColorizeOptions
    from seada_core.pipeline import Colorizer

    torch.set_num_threads(threads)
    film, colorizer = probe(path), Colorizer.from_pretrained("mini")
    painter = KeyPainter(colorizer, ColorizeOptions(), film.size)
    small = np.full((192, 344), 0.5, np.float32)
    painter.paint(small, 0.0, painter.begin(small, 0.0))
    target = path.with_name(f"{path.stem}-color.mp4")
    start, busy = time.perf_counter(), time.process_time()
    colorize_film(film, target, painter, Encoding.for_target(target))
    return {
        "fps": len(film.times) / (time.perf_counter() - start),
        "cpu": (time.process_time() - busy) / len(film.times),
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed.film", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="a folder of numbered frames")
    parser.add_argument("--size", nargs="+", default=["432x242", "1920x1080"], help="sizes of the film, px")
    parser.add_argument("--seconds", nargs="+", type=float, default=[4.0], help="lengths of the film")
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--film", type=Path, help=argparse.SUPPRESS)  # a process for one row
    options = parser.parse_args(arguments)
    if options.film is not None:
        print(json.dumps(measure(options.film, options.threads)))
        return 0
    columns = ["frames/s", "processor time a frame, s", "peak memory, GB"]
    table = Table(
        "film_speed", f"the embedded model, {options.threads} threads, decoding and encoding included", columns
    )
    for name in options.size:
        width, height = map(int, name.split("x"))
        for seconds in options.seconds:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "film.mp4"
                make_film(path, options.data, (width, height), seconds)
                command = [sys.executable, "-m", "benchmarks.speed.film", "--film", path, "--threads", options.threads]
                done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            table.add(f"{name}, {seconds:g} s", found["fps"], found["cpu"], found["memory"])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
