"""Speed and memory of films in steady colours, decoding and encoding included.

    python -m benchmarks.speed.film --data FOLDER [--seconds 4 12] [--size 432x242 1920x1080] [--threads 2]
    python -m benchmarks.speed.film --data FOLDER --memory [--size 1920x1080]

FOLDER has numbered frames, which become a black-and-white film of 24 frames a second, forwards and backwards until it
is long enough. Every row is a process of its own: frames a second, the processor's time a frame, and its peak memory.

`--memory` compares the peak memory of 10 seconds with that of 10 minutes, whose film has 2 frames a second (1,200
frames), and says how much of it came after the first 240 frames, which are 10 seconds of a film of 24.
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

RATE, SLOW = 24, 2  # frames a second; the second where a long film is to have few frames
SHORT, LONG = 10, 600  # seconds of the films whose memory is compared


def make_film(path: Path, folder: Path, size: tuple[int, int], seconds: float, rate: int = RATE) -> None:
    """Write a grey film that shows the frames of a folder forwards and backwards."""
    import av
    from PIL import Image

    from seada_core.film.frame_folder import numbered

    names = numbered(folder)
    names += names[-2:0:-1]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "18", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number in range(round(seconds * rate)):
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
    early = [0.0]

    def progress(done: int, *_: object) -> None:
        if done <= SHORT * RATE:
            early[0] = peak()

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6

    start, busy = time.perf_counter(), time.process_time()
    colorize_film(film, target, painter, Encoding.for_target(target), progress=progress)
    return {
        "fps": len(film.times) / (time.perf_counter() - start),
        "cpu": (time.process_time() - busy) / len(film.times),
        "memory": peak(),
        "early": early[0],
        "frames": len(film.times),
    }


def in_own_process(folder: Path, size: str, seconds: float, rate: int, threads: int) -> dict[str, float]:
    """What `measure` finds for a film of a size such as "432x242", in a process of its own."""
    width, height = map(int, size.split("x"))
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "film.mp4"
        make_film(path, folder, (width, height), seconds, rate)
        command = [sys.executable, "-m", "benchmarks.speed.film", "--film", path, "--threads", threads]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed.film", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="a folder of numbered frames")
    parser.add_argument("--size", nargs="+", help="sizes of the film, px (default: 432x242 and 1920x1080)")
    parser.add_argument("--seconds", nargs="+", type=float, default=[4.0], help="lengths of the film")
    parser.add_argument("--memory", action="store_true", help="compare the memory of 10 seconds and 10 minutes")
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--film", type=Path, help=argparse.SUPPRESS)  # a process for one row
    options = parser.parse_args(arguments)
    if options.film is not None:
        print(json.dumps(measure(options.film, options.threads)))
        return 0
    if options.data is None:
        parser.error("--data: give a folder of numbered frames")
    about = f"the embedded model, {options.threads} threads, decoding and encoding included"
    if options.memory:
        table = Table("film_memory", about, ["frames", "peak memory, GB", "of it after 10 seconds of 24 frames/s"])
        for name in options.size or ["1920x1080"]:
            for seconds, rate in ((SHORT, RATE), (LONG, SLOW)):
                found = in_own_process(options.data, name, seconds, rate, options.threads)
                later = found["memory"] - found["early"]
                table.add(f"{name}, {seconds} s of {rate} frames/s", found["frames"], found["memory"], later)
        return 0
    table = Table("film_speed", about, ["frames/s", "processor time a frame, s", "peak memory, GB"])
    for name in options.size or ["432x242", "1920x1080"]:
        for seconds in options.seconds:
            found = in_own_process(options.data, name, seconds, RATE, options.threads)
            table.add(f"{name}, {seconds:g} s", found["fps"], found["cpu"], found["memory"])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
