"""Time and memory of `train all --preset sd15` for a few steps on random weights of Stable Diffusion 1.5's size.

`python -m benchmarks.speed.full_size --out FOLDER [--size 64] [--steps 2] [--comfy]`: 25 GB of disk, 12 GB of
memory, no GPU.
Per stage: seconds, and the trainer's peak memory. Then the `Colorizer` colours a photo with the parts, and with --comfy
a real ComfyUI does (see CONTRIBUTING.md). Further options, such as --resume, are passed to the trainer. With random
weights the pictures are meaningless.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import Table
from seada_core.presets import SD15

ROOT = Path(__file__).resolve().parents[2]
MEMORY = ["--optimizer", "adamw8bit", "--ema", "0", "--gradient-checkpointing", "True"]


def prepare(out: Path) -> list[str]:
    """Random UNet and text encoder as part files, TAESD's encoder, eight pictures; the trainer's arguments for them."""
    import torch
    from diffusers import AutoencoderTiny
    from safetensors.torch import save_file

    from seada_core.weights import part_files

    init, photos = out / "init", out / "photos"
    torch.manual_seed(0)
    for part in ("unet", "semantic_encoder"):
        if not (init / f"{part}.safetensors").is_file():
            init.mkdir(parents=True, exist_ok=True)
            module = part_files.build(part, SD15)
            part_files.save_part(init / f"{part}.safetensors", part, SD15, module)
    state = AutoencoderTiny().encoder.state_dict()
    encoder = out / "encoder.safetensors"
    save_file({name.removeprefix("layers."): tensor.clone() for name, tensor in state.items()}, encoder)
    photo = Image.open(ROOT / "samples" / "photo.jpg").convert("RGB")
    photos.mkdir(exist_ok=True)
    for i in range(8):
        photo.rotate(45 * i).save(photos / f"{i}.jpg")
        (photos / f"{i}.txt").write_text(f"a photo, turned {i} times")
    return [f"--data={photos}", f"--encoder={encoder}", f"--init={init}"]


def watch(process: subprocess.Popen, out: Path, stages: tuple[str, ...], steps: int) -> dict[str, dict]:
    """Seconds and peak resident memory (GB) of each stage of a trainer; a stage ends with its last checkpoint."""
    figures = {stage: {"seconds": 0.0, "peak_gb": 0.0} for stage in stages}
    before = time.monotonic()
    while process.poll() is None:
        running = next((s for s in stages if not (out / s / f"checkpoint-{steps}").is_dir()), stages[-1])
        try:
            pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
        except OSError:
            break
        now = time.monotonic()
        entry = figures[running]
        entry["seconds"] += now - before
        entry["peak_gb"] = max(entry["peak_gb"], pages * resource.getpagesize() / 1e9)
        before = now
        time.sleep(0.1)
    return figures


def colorize(parts: Path, size: int) -> dict:
    """One photo by the `Colorizer`: seconds."""
    from seada_core.pipeline import Colorizer

    started = time.monotonic()
    photo = Image.open(ROOT / "samples" / "photo.jpg").resize((size * 3 // 2, size))
    colorizer = Colorizer.from_pretrained(str(parts))
    hints = np.zeros((1, 3, size, size * 3 // 2), np.float32)
    hints[:, :, 10:14, 10:14] = 0.3
    import torch

    result = colorizer(photo, steps=2, size=size, token_steps=2, prompt="a photo", hints=torch.from_numpy(hints))
    assert result.size == photo.size
    return {"seconds": time.monotonic() - started}


def comfy(parts: Path, out: Path, size: int) -> dict:
    """One photo by ComfyUI's own server, all parts in one graph: seconds."""
    sys.path.insert(0, str(ROOT / "tests"))
    import comfy_server

    base = out / "comfy"
    (base / "models").mkdir(parents=True, exist_ok=True)
    (base / "models" / "seada").symlink_to(parts.parent.resolve())  # all models may be a link
    (base / "input").mkdir()
    Image.open(ROOT / "samples" / "photo.jpg").resize((size * 3 // 2, size)).save(base / "input" / "photo.png")
    server = comfy_server.Server(base)
    try:
        started = time.monotonic()
        prompt = comfy_server.colorize(model=parts.name, steps=2, size=size, guidance=2.0)
        prompt["save"] = comfy_server.node("SaveImage", images=["color", 0], filename_prefix="full")
        picture = server.picture(server.run(prompt), "save")
        assert Image.open(picture).size == (size * 3 // 2, size)
        return {"seconds": time.monotonic() - started}
    finally:
        server.stop()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", type=int, default=64, help="side of the pictures, px")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--stages", nargs="*", default=["all"], help="stages to run one after another, or all")
    parser.add_argument("--comfy", action="store_true", help="load the parts in a real ComfyUI, too")
    options, more = parser.parse_known_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    sources = prepare(options.out)
    run = options.out / "run"
    report: dict[str, dict] = {}
    for stage in options.stages:
        command = [
            sys.executable, "-m", "seada_core.train", stage, "--preset", "sd15", f"--out={run}", *sources,
            f"--resolution={options.size}", f"--crop={options.size}", "--batch=2", f"--steps={options.steps}",
            "--workers=0", *MEMORY, *more,
        ]  # fmt: skip
        process = subprocess.Popen(command, cwd=ROOT)
        figures = watch(process, run, SD15.recipe if stage == "all" else (stage,), options.steps)
        if process.returncode:
            print(f"stage {stage} failed", file=sys.stderr)
            return 1
        report |= figures
    if "all" in options.stages:
        report["Colorizer"] = colorize(run / "parts", options.size)
    if options.comfy:
        report["ComfyUI"] = comfy(run / "parts", options.out, options.size)
    table = Table("full_size", f"{options.size} px, {options.steps} steps a stage, batch 2", ["s", "peak GB"])
    for name, entry in report.items():
        table.add(name, entry["seconds"], entry.get("peak_gb"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
