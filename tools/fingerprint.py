"""Checks whether a code change affects results: hashes of pictures and weights, to compare before and after.

    python tools/fingerprint.py --root ../before --out before.json --photos PHOTOS --reference PICTURE
    python tools/fingerprint.py --root . --out after.json --photos PHOTOS --reference PICTURE
    python tools/fingerprint.py --compare before.json after.json

Only commands, files and ComfyUI prompts are used, so two trees of different layout can be compared. Runs on the same
machine with the same libraries are bit-identical; across machines they are not.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

SIZES = [
    "--text.width=32", "--text.layers=1", "--text.heads=2", "--text.length=16",
    "--unet.channels", "32", "32", "64", "--unet.heads=2", "--unet.context-dim=32", "--unet.groups=8",
    "--adapter.length=16", "--adapter.width=32", "--control.head-dim=16", "--tokens.context-dim=32",
]  # fmt: skip
STEERED = {  # name -> options of the colorize command
    "plain": [],
    "prompt": ["--prompt", "a photo of a house"],
    "words": ["--prompt", "a turquoise cup on a red table"],
    "hints": ["--hint", "120,140,#7fa0d0", "--hint", "40,50,#3f7f3f,12"],
    "one-method": ["--hint", "120,140,#7fa0d0", "--hint-methods", "propagation"],
    "colours": ["--palette", "#aa5533,#336699"],
    "scheme": ["--palette", "auto"],
    "guided": ["--steps", "4", "--guidance", "2", "--negative-prompt", "grey", "--scheduler", "unipc"],
    "shared": ["--steps", "3", "--guidance", "2", "--shared-control", "--scheduler", "dpm++"],
    "tokens": ["--token-steps", "3", "--temperature", "0.8", "--seed", "5"],
    "size": ["--size", "96", "--saturation", "0.7", "--strength", "0.5"],
}


def pixels(path: Path) -> str:
    """The hash of a picture's mode, size and samples."""
    with Image.open(path) as image:
        array = np.asarray(image)
        return hashlib.sha256(repr((image.mode, array.shape, array.dtype.str)).encode() + array.tobytes()).hexdigest()


def tensors(path: Path) -> str:
    """The hash of a safetensors file's tensors, without metadata."""
    from safetensors.numpy import load_file

    digest = hashlib.sha256()
    for name, array in sorted(load_file(path).items()):
        digest.update(repr((name, array.shape, array.dtype.str)).encode() + array.tobytes())
    return digest.hexdigest()


def run(root: Path, module: str, *arguments: object) -> None:
    command = [sys.executable, "-m", f"seada_core.{module}", *map(str, arguments)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")


def photos(root: Path, folder: Path, count: int, out: Path) -> Iterator[tuple[str, str]]:
    """A folder of photos, one by one and in batches."""
    source = out / "photos"
    source.mkdir()
    chosen = sorted(p for p in folder.iterdir() if p.suffix.lower() in (".jpg", ".png"))[:count]
    for path in chosen:
        shutil.copy(path, source)
    for name, options in (("alone", []), ("batch", ["--batch", 4])):
        run(root, "colorize", source, "-o", out / name, *options)
        for path in sorted((out / name).glob("*.*")):
            yield f"photo/{name}/{path.name}", pixels(path)


def steered(root: Path, photo: Path, reference: Path | None, out: Path) -> Iterator[tuple[str, str]]:
    """One photo with every steering option; variants; 16 bits."""
    options = STEERED | ({"reference": ["--reference", reference]} if reference else {})
    for name, arguments in options.items():
        run(root, "colorize", photo, "-o", out / f"{name}.png", *arguments)
        yield f"steered/{name}", pixels(out / f"{name}.png")
    run(root, "colorize", photo, "-o", out / "variants.png", "--variants", 3)
    for path in sorted(out.glob("variants*.png")):
        yield f"steered/{path.stem}", pixels(path)
    gray = np.asarray(Image.open(photo).convert("L").resize((301, 200))).astype(np.uint16) * 257
    Image.fromarray(gray).save(out / "deep-input.png")
    for suffix in (".png", ".tif"):
        target = out / f"deep{suffix}"
        run(root, "colorize", out / "deep-input.png", "-o", target)
        yield f"steered/deep{suffix}", hashlib.sha256(target.read_bytes()).hexdigest()


def trained(root: Path, out: Path) -> Iterator[tuple[str, str]]:
    """Two steps of every stage at small sizes on made-up pictures: the parts, and the losses."""
    import torch
    from diffusers import AutoencoderTiny
    from safetensors.torch import save_file

    data, rng = out / "data", np.random.default_rng(0)
    data.mkdir()
    captions = ["a photo of a dog", "a photo of green grass", "a photo of the sea"]
    for i in range(12):
        base = Image.fromarray(rng.integers(0, 255, (6, 6, 3), np.uint8))
        base.resize((80, 64), Image.Resampling.BICUBIC).save(data / f"{i:02}.png")
        (data / f"{i:02}.txt").write_text(captions[i % 3])
    torch.manual_seed(0)
    state = AutoencoderTiny().encoder.state_dict()
    encoder = out / "encoder.safetensors"
    save_file({name.removeprefix("layers."): tensor.clone() for name, tensor in state.items()}, encoder)
    run(
        root, "train", "all", "--data", data, "--out", out / "run", "--encoder", encoder, "--validation", data,
        "--steps=2", "--resolution=64", "--crop=64", "--batch=4", "--warmup=1", "--checkpoint-every=2",
        "--validate-every=1", "--workers=0", *SIZES,
    )  # fmt: skip
    for path in sorted((out / "run" / "parts").glob("*.safetensors")):
        yield f"trained/{path.stem}", tensors(path)
    for path in sorted((out / "run").glob("*/*.jsonl")):
        if path.name in ("losses.jsonl", "validation.jsonl"):
            yield f"trained/{path.parent.name}/{path.name}", hashlib.sha256(path.read_bytes()).hexdigest()


def nodes(root: Path, photo: Path, out: Path) -> Iterator[tuple[str, str]]:
    """Every workflow that the embedded model can run, and the nodes missing from workflows, in a real ComfyUI."""
    sys.path.insert(0, str(next((root / "tests").rglob("comfy_server.py")).parent))
    import comfy_server

    comfy_server.ROOT = root
    server = comfy_server.Server(out / "comfy")
    try:
        inputs = out / "comfy" / "input"
        (inputs / "photos").mkdir()
        image = Image.open(photo).convert("RGB")
        image.resize((150, 130)).save(inputs / "example.png")
        image.resize((150, 130)).save(inputs / "photo.png")
        for i in range(2):
            image.resize((90 - 20 * i, 60)).save(inputs / "photos" / f"holiday{i}.png")
        twins = sorted(p for p in (root / "tests").glob("**/workflows/*.json") if "sd15" not in p.name)
        prompts = {path.stem: json.loads(path.read_text()) for path in twins}
        for name, prompt in (prompts | _others()).items():
            outputs = server.run(_on_photo(prompt))
            shown = [
                server.base / image["type"] / image["subfolder"] / image["filename"]
                for node in sorted(outputs)
                for image in outputs[node].get("images", [])
            ]
            for index, path in enumerate(shown):
                yield f"nodes/{name}/{index}", pixels(path)
    finally:
        server.stop()


def _on_photo(prompt: dict) -> dict:
    """The prompt with its photo replaced by this tool's."""
    for node in prompt.values():
        if node["class_type"] in ("LoadImage", "SeAdaLoadPhoto"):
            node["inputs"]["image"] = "photo.png"
    return prompt


def _others() -> dict[str, dict]:
    def node(class_type: str, **inputs) -> dict:
        return {"class_type": class_type, "inputs": inputs}

    photo = {"photo": node("LoadImage", image="photo.png"), "load": node("SeAdaLoadModel", model_name="embedded")}
    color = {
        "prompt": "", "seed": 1, "steps": 0, "guidance": 0, "size": 0, "strength": 1.0, "saturation": 1.0,
        "image": ["photo", 0], "seada": ["load", 1],
    }  # fmt: skip
    return {
        "captioned": photo
        | {
            "caption": node("SeAdaCaptioner", image=["photo", 0], captioner="the model's own", beams=1, max_tokens=30,
                            seada=["load", 1]),
            "color": node("SeAdaColorize", **color | {"prompt": ["caption", 0]}),
            "save": node("SaveImage", images=["color", 0], filename_prefix="captioned"),
        },
        "merged": photo
        | {
            "small": node("ImageScale", image=["photo", 0], upscale_method="bilinear", width=64, height=64,
                          crop="disabled"),
            "color": node("SeAdaColorize", **color | {"image": ["small", 0]}),
            "merge": node("SeAdaMergeLuminance", image=["photo", 0], color=["color", 0]),
            "save": node("SaveImage", images=["merge", 0], filename_prefix="merged"),
        },
    }  # fmt: skip


def compare(before: Path, after: Path) -> int:
    old, new = (json.loads(path.read_text()) for path in (before, after))
    changed = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    for name in changed:
        state = "only before" if name not in new else "only after" if name not in old else "changed"
        print(f"{state}: {name}")
    print(f"{len(old.keys() & new.keys()) - sum(n in old and n in new for n in changed)} alike, {len(changed)} not")
    return bool(changed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[1], help="the checkout to run")
    parser.add_argument("--out", type=Path, help="JSON file of the hashes")
    parser.add_argument("--photos", type=Path, help="folder of photos to colour")
    parser.add_argument("--count", type=int, default=30, help="how many of them (default: 30)")
    parser.add_argument("--reference", type=Path, help="colour picture for --reference")
    parser.add_argument("--only", nargs="*", default=["photos", "steered", "trained", "nodes"])
    parser.add_argument("--compare", type=Path, nargs=2, metavar=("BEFORE", "AFTER"))
    args = parser.parse_args()
    if args.compare:
        return compare(*args.compare)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # sums in one order
    root, result = args.root.resolve(), {}
    photo = next(root.glob("[es]*ples/photo.jpg"))
    for name in args.only:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder)
            made = {
                "photos": lambda out=out: photos(root, args.photos, args.count, out),
                "steered": lambda out=out: steered(root, photo, args.reference, out),
                "trained": lambda out=out: trained(root, out),
                "nodes": lambda out=out: nodes(root, photo, out),
            }[name]
            for key, value in made():
                result[key] = value
                print(key, value[:16], flush=True)
    args.out.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
