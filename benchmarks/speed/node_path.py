"""Overhead of ComfyUI: the same photo through SeAda Colorize, through the full graph, and without ComfyUI.

`python -m benchmarks.speed.node_path [--repeats 15] [--prompts 50] [--size 512]`; needs a ComfyUI, see CONTRIBUTING.md.

The server and a process of the `Colorizer` run on the same Python, with the same number of threads, and take turns.
Wall time is ComfyUI's own, from a prompt's start to its end, including everything around the nodes. Processor time is
that of the whole process, including ComfyUI's garbage collection between prompts; other work on the machine affects it
less. ComfyUI caches the photo, the model and the texts' embeddings of the previous prompt only: each timed prompt
follows one of the same kind. The Colorizer keeps the model. No picture is written to disk.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from benchmarks import Table

sys.path.insert(
    0, str(Path(__file__).resolve().parents[2] / "tests" / "support")
)  # some packages install a `tests` of their own

from comfy_server import ROOT, Server, colorize, find, full_graph, node

HEADLESS_NAME = "without ComfyUI"
STEPS, GUIDANCE = 20, 2.0  # a divisor of 1000: KSampler's ddim then takes the Colorizer's timesteps
AIM_OVERHEAD, AIM_IMPORT, AIM_MEMORY = 5.0, 0.3, 3.0  # percent, seconds, percent

HEADLESS = """
import sys, time, numpy, torch
from PIL import Image
from seada_core.pipeline import Colorizer
photo = numpy.asarray(Image.open(sys.argv[1]).convert("RGB")) / numpy.float32(255)
photo = torch.from_numpy(photo).movedim(-1, 0)[None]
colorizer = Colorizer.from_pretrained("mini")
print(torch.get_num_threads(), flush=True)
for line in sys.stdin:
    start = time.perf_counter()
    colored = colorizer(photo, prompt="a dog", steps=int(sys.argv[2]), guidance=float(sys.argv[3]), seed=int(line))
    seconds = time.perf_counter() - start
    if int(line) == 0:
        torch.save(colored.movedim(1, -1), sys.argv[4])
    print(seconds, flush=True)
"""

# a fresh interpreter with ComfyUI and its own nodes loaded; then an empty pack, and this one
IMPORTS = """
import sys
sys.argv = ["main.py", "--cpu", "--disable-api-nodes"]
import comfy.options
comfy.options.enable_args_parsing()
import utils.extra_config  # first, as in main.py: other packages have a `utils` too
import asyncio, time, execution, server, nodes
async def load(folder):
    wall, processor = time.perf_counter(), time.process_time()
    assert await nodes.load_custom_node(folder), folder
    return time.perf_counter() - wall, time.process_time() - processor
async def main():
    await nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False)
    empty, pack = await load(EMPTY), await load(PACK)
    assert "SeAdaColorize" in nodes.NODE_CLASS_MAPPINGS
    print("seconds", pack[0] - empty[0], pack[1] - empty[1])
asyncio.run(main())
"""


def processor_seconds(pid: int) -> float:
    """Processor time that a process and its threads have used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident(pid: int) -> int:
    """Resident memory in KiB."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1])


def prompts(seed: int) -> dict[str, dict]:
    """The two prompts for ComfyUI, each up to its final picture."""
    settings = {"image": "bench.png", "model": "embedded", "steps": STEPS}
    one, graph = colorize(**settings, seed=seed, guidance=GUIDANCE), full_graph(**settings, cfg=GUIDANCE, seed=seed)
    graph["sample"]["inputs"]["seed"] = seed
    return {
        "SeAda Colorize": one | {"end": node("Probe", code="", a=["color", 0])},
        "full graph": graph | {"end": node("Probe", code="", a=["decode", 0])},
    }


def in_server(server: Server, prompt: dict) -> float:
    """Seconds of a prompt by the server's own clock."""
    prompt_id = server.queue(prompt)
    server.wait(prompt_id, every=1.0)  # answering takes the server's time
    messages = server.get(f"/history/{prompt_id}")[prompt_id]["status"]["messages"]
    times = {kind: data["timestamp"] for kind, data in messages}
    return (times["execution_success"] - times["execution_start"]) / 1000


def memory(server: Server, count: int) -> tuple[int, int]:
    """KiB after the 5th and after the last of `count` prompts, alternating between the two."""
    after = []
    for seed in range(count):
        in_server(server, list(prompts(seed).values())[seed % 2])
        after.append(resident(server.process.pid))
    return after[min(4, count - 1)], after[-1]


def import_seconds(folder: Path, repeats: int) -> list[tuple[float, float]]:
    """(wall, processor) seconds that the pack adds to ComfyUI's start, beyond what an empty pack does."""
    comfyui, python = find()
    (folder / "empty").mkdir()
    (folder / "empty" / "__init__.py").write_text("NODE_CLASS_MAPPINGS = {}")
    code = IMPORTS.replace("EMPTY", repr(str(folder / "empty"))).replace("PACK", repr(str(ROOT)))
    runs = []
    for _ in range(repeats):
        done = subprocess.run([python, "-c", code], cwd=comfyui, check=True, capture_output=True, text=True)
        runs.append(tuple(map(float, re.search(r"^seconds (\S+) (\S+)", done.stdout, re.M).groups())))
    return runs


def compare(server: Server, photo: Path, repeats: int) -> dict[str, list[tuple[float, float]]]:
    """(wall, processor) seconds of each repeat of each variant. Seed 0 warms up and checks that results are equal."""
    saved = photo.with_suffix(".pt")
    command = [find()[1], "-c", HEADLESS, photo, str(STEPS), str(GUIDANCE), saved]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as headless:
        threads = int(headless.stdout.readline()), server.probe("import torch; result = torch.get_num_threads()")
        assert threads[0] == threads[1], threads

        def without_comfyui(seed: int) -> float:
            print(seed, file=headless.stdin, flush=True)
            return float(headless.stdout.readline())

        ways = {HEADLESS_NAME: (without_comfyui, headless.pid)}
        for name in prompts(0):
            ways[name] = (lambda seed, name=name: in_server(server, prompts(seed)[name]), server.process.pid)
        seconds = {name: [] for name in ways}
        for seed in range(repeats + 1):
            order = list(ways)
            for name in order[seed % 3 :] + order[: seed % 3]:
                run, pid = ways[name]
                if name != HEADLESS_NAME:
                    run(seed + repeats + 1)  # reloads what ComfyUI dropped during the other variant's prompt
                before = processor_seconds(pid)
                wall = run(seed)
                seconds[name].append((wall, processor_seconds(pid) - before))
        headless.stdin.close()
    one, graph = prompts(0).values()
    same = f"import torch; d = (a - torch.load({str(saved)!r})).abs().mean(); result = float(d) * 255"
    differences = [server.probe(same, one, a=["color", 0]), server.probe(same, graph, a=["decode", 0])]
    print(f"threads {threads[0]}; mean difference of the pictures: {max(differences):.4f} of 255")
    assert max(differences) < 0.1
    return {name: runs[1:] for name, runs in seconds.items()}


def measure(folder: Path, options: argparse.Namespace) -> None:
    server = Server(folder / "comfy", "--preview-method", "none")
    try:
        picture = Image.open(ROOT / "samples" / "photo.jpg").convert("RGB")
        scale = options.size / min(picture.size)
        photo = server.base / "input" / "bench.png"
        picture.resize([round(side * scale) for side in picture.size]).save(photo)
        early, late = memory(server, options.prompts)
        seconds = compare(server, photo, options.repeats)
    finally:
        server.stop()
    about = f"{options.size} px, {options.repeats} turns; aim: at most +{AIM_OVERHEAD} % over the Colorizer"
    table = Table("node_path", about, ["median s", "over, %", "best s", "over, %"])
    for k, clock in enumerate(("wall", "processor")):
        found = {name: [run[k] for run in runs] for name, runs in seconds.items()}
        base = found[HEADLESS_NAME]
        for name, values in found.items():
            middle, best = statistics.median(values), min(values)
            over = 100 * middle / statistics.median(base) - 100, 100 * best / min(base) - 100
            table.add(f"{name}, {clock} time", middle, over[0], best, over[1])
    imports = list(zip(*import_seconds(folder, options.imports)))
    table = Table("node_import", f"the pack's import in ComfyUI; aim {AIM_IMPORT} s", ["median s"])
    for clock, values in zip(("wall", "processor"), imports):
        table.add(f"{clock} time", statistics.median(values))
    about = f"the server's memory; aim: within {AIM_MEMORY} %"
    table = Table("node_memory", about, ["MiB", "grown, %"])
    table.add(f"after prompt {min(5, options.prompts)}", early / 1024, 0.0)
    table.add(f"after prompt {options.prompts}", late / 1024, 100 * late / early - 100)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--repeats", type=int, default=15, help="turns of the three ways")
    parser.add_argument("--prompts", type=int, default=50, help="for memory")
    parser.add_argument("--imports", type=int, default=5, help="fresh interpreters that import the pack")
    parser.add_argument("--size", type=int, default=512, help="short side of the photo, px")
    options = parser.parse_args(arguments)
    if isinstance(find(), str):
        print(find(), file=sys.stderr)
        return 2
    print(f"load of the machine before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
