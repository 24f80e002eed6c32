"""Colour photos from the command line: `python -m seada_core.colorize IN... [-o OUT]`."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import build_parser

# `--help` must be quick: whatever imports torch or Pillow is imported once the arguments are known to be good.
if TYPE_CHECKING:
    from argparse import Namespace

    import numpy as np
    from PIL import Image
    from torch import Tensor

    from .palettes import Scheme
    from .pictures import Picture
    from .pipeline import Colorizer

CAPTION_SIZE = 512  # longest side of what the captioner sees, px: far more than it looks at
SHEET_TILE = 384  # longest side of a picture on a contact sheet, px
SHEET_MARGIN = 8
SHEET_LABEL = 24  # height of a label, px
SHEET_MIN_WIDTH = 160  # room for a label under a very narrow picture, px
INTERRUPTED = 130  # what shells report for a command that Ctrl-C ended


class CommandError(Exception):
    """No picture can be coloured at all. The message is the whole error line, `status` the exit status."""

    def __init__(self, message: str, status: int = 1):
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Job:
    """One picture: where it is, where its result goes (None where that is not known), and why it cannot be done."""

    source: Path
    target: Path | None
    error: str | None = None


def plan(inputs: Sequence[Path], output: str | None, seeds: Sequence[int] = (0,), overwrite: bool = False) -> list[Job]:
    """What is to be done, every picture once. Nothing is read or written.

    Raises CommandError where OUT does not fit the inputs.
    """
    from .pictures import WRITABLE, PictureError, find

    out = None if output is None else Path(output)
    if out is not None:
        folder = len(inputs) > 1 or inputs[0].is_dir() or out.is_dir() or output.endswith(("/", os.sep))
        if folder and out.exists() and not out.is_dir():
            raise CommandError(f"{out} is a file; several pictures need a folder", 2)
        if not folder and out.suffix.lower() not in WRITABLE:
            found = f"{out.suffix!r}" if out.suffix else "no suffix"
            raise CommandError(f"{out} has {found}; results can be written as {', '.join(WRITABLE)}", 2)
        if not folder and not out.parent.is_dir():
            raise CommandError(f"{out.parent} does not exist; make that folder first", 2)

    pairs: dict[Path, tuple[Path, Path]] = {}  # resolved input -> input, output
    bad = []
    for given in inputs:
        try:
            files = find([given])
        except PictureError as error:
            bad.append(Job(given, None, str(error)))
            continue
        for file in files:
            suffix = file.suffix if file.suffix.lower() in WRITABLE else ".png"
            if out is not None:
                target = out / f"{file.stem}{suffix}" if folder else out
            elif given.is_dir():
                target = given.resolve().parent / f"{given.resolve().name}-color" / f"{file.stem}{suffix}"
            else:
                target = file.with_name(f"{file.stem}-color{suffix}")
            pairs.setdefault(file.resolve(), (file, target))

    jobs, taken = [], {}
    for file, target in pairs.values():
        paths = [target, *(_variant(target, seed) for seed in seeds if len(seeds) > 1)]
        error = next(filter(None, (_refusal(path, pairs, taken, overwrite) for path in paths)), None)
        if error is None:
            taken |= dict.fromkeys((path.resolve() for path in paths), file)
        jobs.append(Job(file, target, error))
    return bad + jobs


def _refusal(path: Path, inputs: dict[Path, object], taken: dict[Path, Path], overwrite: bool) -> str | None:
    """Why nothing may be written to a path; None if it may."""
    resolved = path.resolve()
    if resolved in inputs:
        return f"{path} is an input, which a result would replace; choose another -o"
    if resolved in taken:
        return f"{path} is already the result of {taken[resolved]}; colour them into different folders"
    if path.exists() and not overwrite:
        return f"{path} exists; use --overwrite to replace it, or choose another -o"
    return None


def _variant(target: Path, seed: int) -> Path:
    return target.with_name(f"{target.stem}-seed{seed}{target.suffix}")


def load_model(model: str | None, device: str | None, dtype: str, **weights) -> Colorizer:
    """The model on its device; `weights` as `Colorizer.from_pretrained` takes them.

    Raises CommandError where either cannot be used.
    """
    import torch
    from diffusers.utils import logging

    from .checkpoints import CheckpointError
    from .pipeline import Colorizer

    logging.set_verbosity_error()  # its advice on loading is not for the command's users

    if device is not None:
        try:
            torch.empty(1, device=device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise CommandError(f"device {device!r} cannot be used: {_one_line(error)}") from None
    try:
        return Colorizer.from_pretrained(model, device, getattr(torch, dtype), **weights)
    except CheckpointError as error:
        raise CommandError(_one_line(error)) from None


def caption(colorizer: Colorizer, luminance: np.ndarray) -> str:
    """What the model's captioner says of a photo given as `Picture.luminance`."""
    import torch

    with torch.inference_mode():
        return colorizer.caption(_small(luminance).to(colorizer.device))[0]


def _small(luminance: np.ndarray) -> Tensor:
    """A photo, given as `Picture.luminance`, as captioners need it, (1, 1, h, w)."""
    import numpy as np
    import torch
    from PIL import Image

    small = Image.fromarray(luminance)
    small.thumbnail((CAPTION_SIZE, CAPTION_SIZE))
    gray = torch.from_numpy(np.asarray(small, np.float32) / (255 if small.mode == "L" else 1))
    return gray.clamp(0, 1)[None, None]


def choose(colorizer: Colorizer, picture: Picture, schemes: dict[str, Scheme], prompt: str | None) -> Scheme | None:
    """The only scheme; of several the nearest to the prompt or, where that is near none, to the photo.

    None where no scheme is near. Raises CommandError where the model has no captioner to see with.
    """
    from .checkpoints import CheckpointError
    from .palettes import retrieve

    if len(schemes) == 1:
        return next(iter(schemes.values()))
    found = retrieve(prompt, schemes, count=1) if prompt else []
    if not found and not colorizer.has("captioner"):
        problem = f"{colorizer.folder} has no captioner.safetensors, through which the palette for a photo is found"
        raise CommandError(f"{problem}; say with --prompt what the photo shows, or name a palette")
    if not found:
        try:
            captioner = colorizer.part("captioner")
        except CheckpointError as error:
            raise CommandError(_one_line(error)) from None
        photo = _small(picture.luminance).to(colorizer.device)
        found = retrieve(photo, schemes, captioner, count=1)
    return found[0][0] if found else None


def soft_hints(colorizer: Colorizer, picture: Picture, args: Namespace) -> tuple[Tensor | None, str | None, str]:
    """What the reference and the prompt's coloured things say of a photo, the prompt without what is said so, and the
    things that nobody sees in the photo, in words.

    Raises ValueError where the model has nobody to find them.
    """
    from .hints import over, resize_hint_map
    from .steering import reference_hints, word_hints
    from .words import without_colors

    words = bool(args.prompt) and not args.no_words
    if args.reference is None and not words:
        return None, args.prompt, ""
    gray, result, prompt, unknown = _small(picture.luminance), None, args.prompt, ""
    if args.reference is not None:
        result = reference_hints(colorizer, gray, args.reference)
    if words:
        found, phrases, missing = word_hints(colorizer, gray, args.prompt, args.regions, args.seed)
        unknown = " or ".join(phrase.thing for phrase in missing)
        if found is not None and result is not None:
            found = over(found, resize_hint_map(result, found.shape[-2:], dense=True))
        result = result if found is None else found
        prompt = without_colors(prompt, phrases)
    return result, prompt, unknown


def colorize(
    colorizer: Colorizer,
    picture: Picture,
    target: Path,
    seeds: Sequence[int],
    options: dict,
    callback: Callable[[int, int], None] | None = None,
) -> str:
    """Colour one photo and write it to `target`; returns the prompt or caption used.

    For several seeds `target` is a contact sheet and each result is written beside it as soon as it is done.
    `options` and `callback` are as for calling the Colorizer. Raises CommandError for a part of the model that cannot
    be used, ValueError for options that the model or the photo does not allow and for what cannot be written.
    """
    import numpy as np
    from PIL import Image

    from . import pictures
    from .checkpoints import CheckpointError

    luminance = Image.fromarray(picture.luminance)  # of 16-bit photos mode F: nothing is lost
    prompt = options["prompt"]
    small = [("input", _thumbnail(luminance))]
    for seed in seeds:
        try:
            if prompt is None:
                prompt = caption(colorizer, picture.luminance)
            rgb = colorizer(luminance, **{**options, "prompt": prompt}, seed=seed, callback=callback)
        except CheckpointError as error:  # parts are loaded at first use
            raise CommandError(_one_line(error)) from None
        result = picture.with_rgb(np.asarray(rgb))
        target.parent.mkdir(parents=True, exist_ok=True)
        pictures.write(result, target if len(seeds) == 1 else _variant(target, seed))
        small.append((f"seed {seed}", _thumbnail(rgb)))
    if len(seeds) > 1:
        pictures.write(pictures.from_pil(contact_sheet(small)), target)
    return prompt


def _thumbnail(image: Image.Image) -> Image.Image:
    """RGB of at most `SHEET_TILE` pixels a side."""
    small = image.copy()
    small.thumbnail((SHEET_TILE, SHEET_TILE))
    if small.mode == "F":
        small = small.point(lambda v: v * 255 + 0.5).convert("L")
    return small.convert("RGB")


def contact_sheet(tiles: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """Labelled pictures of one size in rows on white, as near to a square of tiles as they fill."""
    from PIL import Image, ImageDraw, ImageFont

    width = max(SHEET_MIN_WIDTH, *(image.width for _, image in tiles)) + SHEET_MARGIN
    height = max(image.height for _, image in tiles) + SHEET_LABEL + SHEET_MARGIN
    columns = math.ceil(math.sqrt(len(tiles)))
    rows = math.ceil(len(tiles) / columns)
    sheet = Image.new("RGB", (columns * width + SHEET_MARGIN, rows * height + SHEET_MARGIN), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    for i, (label, image) in enumerate(tiles):
        x, y = SHEET_MARGIN + i % columns * width, SHEET_MARGIN + i // columns * height
        sheet.paste(image, (x, y))
        draw.text((x, y + image.height + 2), label, "black", font)
    return sheet


def _run(args: Namespace) -> int:
    from . import pictures

    seeds = range(args.seed, args.seed + args.variants)
    jobs = plan(args.inputs, args.output, seeds, args.overwrite)
    schemes = args.palette if isinstance(args.palette, dict) else None
    options = {
        "prompt": args.prompt,
        "negative_prompt": args.negative_prompt,
        "hints": [*args.hints, *args.hint],
        "hint_methods": args.hint_methods,
        "palette": None if schemes else args.palette,
        "palette_strength": 1.0 if schemes and args.palette_strength is None else args.palette_strength,
        "steps": args.steps,
        "guidance": args.guidance,
        "saturation": args.saturation,
        "strength": args.strength,
        "size": args.size,
        "token_steps": args.token_steps,
        "temperature": args.temperature,
    }
    colorizer, status, broken = None, 0, None
    for number, job in enumerate(jobs, 1):
        start, prompt, scheme, error = time.perf_counter(), args.prompt, None, job.error
        if broken is None and error is None:
            try:
                picture = pictures.read(job.source)
                # a command line without one good picture need not wait for the model
                weights = {name: getattr(args, name) for name in ("base", "control", "captioner", "download")}
                colorizer = colorizer or load_model(args.model, args.device, args.dtype, **weights)
                if schemes:
                    scheme = choose(colorizer, picture, schemes, args.prompt)
                    options["palette"] = scheme and scheme.colors
                options["soft_hints"], options["prompt"], unknown = soft_hints(colorizer, picture, args)
                if unknown:
                    print(f"note: {job.source}: the model sees no {unknown} in it", file=sys.stderr)
                with _progress(f"{number}/{len(jobs)} {job.source.name}", len(seeds)) as callback:
                    prompt = colorize(colorizer, picture, job.target, seeds, options, callback)
            except CommandError as problem:
                broken = str(problem)
                print(f"error: {broken}", file=sys.stderr)
            except (ValueError, OSError, MemoryError, RuntimeError) as problem:
                error = _one_line(problem)
        if error is not None:
            # what is wrong with the file itself names it already
            error = error if str(job.source) in error else f"{job.source}: {error}"
            print(f"error: {error}", file=sys.stderr)
        error = error or broken
        status = 1 if error else status
        _report(job, seeds, prompt, scheme, time.perf_counter() - start, error, args.json)
    return status


@contextlib.contextmanager
def _progress(name: str, variants: int) -> Iterator[Callable[[int, int], None]]:
    """A callback that moves a bar of steps on standard error, where that is a terminal."""
    from tqdm import tqdm

    with tqdm(desc=name, unit="step", leave=False, disable=not sys.stderr.isatty()) as bar:

        def callback(done: int, steps: int) -> None:
            bar.total = steps * variants
            bar.update()

        yield callback


def _report(
    job: Job,
    seeds: Sequence[int],
    prompt: str | None,
    scheme: Scheme | None,
    seconds: float,
    error: str | None,
    as_json: bool,
):
    if as_json:
        record = {
            "input": str(job.source),
            "output": None if error else str(job.target),
            "seed": seeds[0],
            "prompt": prompt,
            "scheme": scheme and scheme.name,
            "seconds": round(seconds, 3),
            "error": error,
        }
        if len(seeds) > 1:
            record["variants"] = [] if error else [str(_variant(job.target, seed)) for seed in seeds]
        print(json.dumps(record), flush=True)
    elif not error:
        seed = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]}"
        colors = f", {scheme.name}" if scheme else ""
        print(f'{job.source} -> {job.target} ({seed}, {seconds:.1f} s, "{prompt}"{colors})', flush=True)


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 400 else f"{text[:400]}..."


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status: 0 fine, 1 something failed, 2 bad usage, 130 interrupted."""
    try:
        return _run(build_parser().parse_args(argv))
    except SystemExit as end:  # of argparse: help, or bad usage already reported
        return int(end.code or 0)
    except CommandError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        print("error: interrupted; the pictures reported so far are done", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
