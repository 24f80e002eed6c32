"""A ComfyUI server under load: `python -m tools.load [--prompts 300] [--seed 0]`; needs a ComfyUI, see
CONTRIBUTING.md.

Prompts of mixed sizes are queued a few at a time: SeAda Colorize and the full graph over the embedded model, some with
hints, and one in six that must fail (a missing picture or model, wrong numbers, NaN in hints). Now and then the running
prompt is interrupted or a waiting one deleted. First, each good prompt is run alone. In the end

- every good prompt that was not stopped has finished, with exactly the picture of the prompt run alone;
- every bad prompt got an error and no picture;
- the server's own memory over the last third stayed within 3 %;
- there are no more threads, file descriptors and temporary files than before.

Prints a table; exit status 1 if one of these does not hold, 2 without a ComfyUI.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import re
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1] / "tests" / "support")
)  # some packages install a `tests` of their own

from comfy_server import ROOT, PromptError, Server, colorize, find, full_graph, node

SIZES = [(96, 64), (67, 45), (30, 90), (9, 17), (128, 128), (1, 1), (200, 40)]  # width, height
POINT = '[{"x": 0, "y": 0, "color": "#d04020", "radius": 3}]'
AIM_MEMORY = 3.0  # percent
WAITING = 4  # prompts queued at once
NAN_HINTS = "import dataclasses; out = dataclasses.replace(a, map=a.map * float('nan'))"


def good(size: int, hinted: bool, graph: bool, seed: int, number: int = 0) -> dict:
    """A prompt with the picture of that size, whose result is saved under a unique name."""
    image = f"load-{size}.png"
    if graph:
        nodes = full_graph(image, "embedded", steps=1)
        nodes["sample"]["inputs"]["seed"] = seed
        result = ["decode", 0]
    else:
        nodes = colorize(image, "embedded", steps=1, size=32, seed=seed)
        if hinted:
            nodes["hints"] = node("SeAdaHints", image=["image", 0], points=POINT, mask_color="#000000")
            nodes["color"]["inputs"]["hints"] = ["hints", 0]
        result = ["color", 0]
    return nodes | {"save": node("SaveImage", images=result, filename_prefix=f"load-{number}-")}


def bad(kind: int, size: int, seed: int) -> dict:
    """A prompt that must fail, of one of `BAD` kinds."""
    nodes = good(size, True, False, seed, seed)
    color = nodes["color"]["inputs"]
    if kind == 0:
        nodes["image"]["inputs"]["image"] = "nowhere.png"
    elif kind == 1:
        color["steps"] = -5
    elif kind == 2:
        color["size"] = 33  # not a multiple of 8
    elif kind == 3:
        nodes["hints"]["inputs"]["points"] = POINT.replace('"x": 0', '"x": NaN')
    elif kind == 4:
        nodes["nan"] = node("Probe", code=NAN_HINTS, a=["hints", 0])
        color["hints"] = ["nan", 0]
    elif kind == 5:
        nodes["load"]["inputs"]["model_name"] = "nowhere"
    elif kind == 6:
        nodes["hints"]["inputs"]["points"] = POINT.replace('"x": 0', '"x": 9999')
    elif kind == 7:
        color["steps"] = "many"
    return nodes


BAD = 8


def own_memory(pid: int) -> int:
    """KiB of the process, including swap, without libraries' files, which other processes may share."""
    status = dict(re.findall(r"^(\w+):\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.M))
    return sum(int(status[name]) for name in ("RssAnon", "RssShmem", "VmSwap"))


def held(server: Server) -> dict[str, int]:
    """Resources of a server that must not grow."""
    process = Path(f"/proc/{server.process.pid}")
    return {
        "threads": len(list((process / "task").iterdir())),
        "file descriptors": len(list((process / "fd").iterdir())),
        "temporary files": sum(path.is_file() for name in ("temp", "tmp") for path in (server.base / name).rglob("*")),
    }


@dataclass
class Load:
    """The outcome of the prompts; `faults` has a line for each failed check."""

    answered: int = 0
    refused: Counter = field(default_factory=Counter)
    stopped: int = 0
    memory: list[int] = field(default_factory=list)  # KiB after each prompt
    faults: list[str] = field(default_factory=list)

    @property
    def grown(self) -> float:
        """Percent by which the lowest memory of the last third's second half is above that of its first half: readings
        move up and down by a few percent, and what is never given back raises the lowest ones."""
        last = self.memory[-max(len(self.memory) // 3, 2) :]
        half = len(last) // 2
        if not half:
            return 0.0
        return 100 * min(last[half:]) / min(last[:half]) - 100


def pixels(server: Server, outputs: dict) -> np.ndarray:
    """The saved picture, which is then deleted."""
    path = server.picture(outputs, "save")
    with Image.open(path) as picture:
        array = np.array(picture)
    path.unlink()
    return array


def prepare(server: Server) -> None:
    photo = Image.open(ROOT / "samples" / "photo.jpg").convert("RGB")
    for number, size in enumerate(SIZES):
        photo.resize(size).save(server.base / "input" / f"load-{number}.png")


def run(server: Server, count: int, seed: int = 0, seeds: int = 2, sizes: int = len(SIZES)) -> Load:
    """Put a server under load; see the module's docstring."""
    prepare(server)
    load, rng = Load(), random.Random(seed)
    kinds = list(itertools.product(range(sizes), (False, True), (False,), range(seeds)))
    kinds += [(size, False, True, 0) for size in range(min(sizes, 3))]
    alone = {}
    for key in kinds:
        alone[key] = pixels(server, server.run(good(*key)))
    before = held(server)
    waiting: list[tuple[str, tuple | None, int]] = []  # id, kind (None: bad), its number
    touched: set[str] = set()
    left = iter(range(count))
    while True:
        while len(waiting) < WAITING and (number := next(left, None)) is not None:
            if rng.random() < 1 / 6:
                queue(server, load, waiting, None, bad(rng.randrange(BAD), rng.randrange(sizes), number), number)
            else:
                key = rng.choice(kinds)
                queue(server, load, waiting, key, good(*key, number), number)
        if not waiting:
            break
        if rng.random() < 0.08:
            touched |= stop(server, rng, waiting)
        prompt_id, key, number = waiting.pop(0)
        try:
            outputs = finished(server, prompt_id)
        except PromptError as error:
            if str(error) == "interrupted" and prompt_id in touched:
                load.stopped += 1
            elif key is None:
                load.refused[str(error)[:60]] += 1
            else:
                load.faults.append(f"prompt {number} ({key}): {error}")
            continue
        finally:
            load.memory.append(own_memory(server.process.pid))
        if outputs is None:
            load.stopped += 1
            if prompt_id not in touched:
                load.faults.append(f"prompt {number} ({key}) never finished")
        elif key is None:
            load.faults.append(f"prompt {number} should fail, but succeeded")
        else:
            load.answered += 1
            found, wanted = pixels(server, outputs), alone[key]
            if found.shape != wanted.shape or (found != wanted).any():
                load.faults.append(f"prompt {number} ({key}) gives a different picture than alone")
    after = settled(server, before)
    for name, value in after.items():
        if value > before[name]:
            load.faults.append(f"{value} {name}, {before[name]} before")
    return load


def queue(server: Server, load: Load, waiting: list, key: tuple | None, prompt: dict, number: int) -> None:
    try:
        waiting.append((server.queue(prompt), key, number))
    except PromptError as error:  # ComfyUI rejects some before they are queued
        if key is None:
            load.refused["refused by ComfyUI"] += 1
        else:
            load.faults.append(f"prompt {number} ({key}) was refused: {str(error)[:200]}")


def stop(server: Server, rng: random.Random, waiting: list) -> set[str]:
    """Interrupt the running prompt, or delete a waiting one. Returns the ids that may be affected."""
    if rng.random() < 0.5:
        time.sleep(rng.uniform(0, 0.3))
        running = {entry[1] for entry in server.get("/queue")["queue_running"]}
        server.post("/interrupt", {})
        return running | {prompt_id for prompt_id, _, _ in waiting}  # the next may have begun by then
    prompt_id = rng.choice(waiting)[0]
    server.post("/queue", {"delete": [prompt_id]})
    return {prompt_id}


def finished(server: Server, prompt_id: str) -> dict | None:
    """A prompt's outputs; None if it is neither waiting nor running nor finished."""
    while True:
        queue = server.get("/queue")
        known = {entry[1] for entry in [*queue["queue_running"], *queue["queue_pending"]]}
        if prompt_id not in known:
            time.sleep(0.05)  # between the queue and the history
            if prompt_id not in server.get(f"/history/{prompt_id}"):
                return None
            return server.wait(prompt_id)
        if server.process.poll() is not None:
            raise RuntimeError(f"ComfyUI died: {server.log.read_text()[-2000:]}")
        time.sleep(0.1)


def settled(server: Server, before: dict[str, int], seconds: float = 10) -> dict[str, int]:
    """The server's resources, once closing connections are closed."""
    until = time.monotonic() + seconds
    while True:
        after = held(server)
        if all(value <= before[name] for name, value in after.items()) or time.monotonic() > until:
            return after
        time.sleep(0.5)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--prompts", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0, help="seed of the prompts and interruptions")
    options = parser.parse_args(arguments)
    if isinstance(find(), str):
        print(find(), file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TMPDIR"] = str(Path(folder) / "comfy" / "tmp")
        Path(os.environ["TMPDIR"]).mkdir(parents=True)
        server = Server(Path(folder) / "comfy", "--preview-method", "none")
        try:
            begun = time.monotonic()
            load = run(server, options.prompts, options.seed)
            seconds, holds = time.monotonic() - begun, held(server)
        finally:
            server.stop()
    if load.grown > AIM_MEMORY:
        load.faults.append(f"memory {load.grown:+.1f} % over the last third")
    third = load.memory[-max(len(load.memory) // 3, 2) :]
    rows = {
        "prompts": f"{options.prompts} in {seconds:.0f} s, those alone included",
        "answered": f"{load.answered}, all of them compared",
        "refused": f"{sum(load.refused.values())}: {dict(load.refused.most_common())}",
        "stopped": f"{load.stopped} interrupted or deleted",
        "memory": f"{third[0] >> 10} to {third[-1] >> 10} MiB over the last {len(third)}, {load.grown:+.2f} %",
        "held in the end": ", ".join(f"{value} {name}" for name, value in holds.items()),
    }
    for name, value in rows.items():
        print(f"{name:16} {value}")
    for fault in load.faults:
        print(f"FAULT            {fault}")
    return 1 if load.faults else 0


if __name__ == "__main__":
    sys.exit(main())
