"""The command's work on a picture: read, find what to say of it, colour, write."""

from __future__ import annotations

import contextlib
import errno
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .plan import CommandError, Job, variant

# what the command's own checks need is quick to import; torch and Pillow wait for the first picture
if TYPE_CHECKING:
    from argparse import Namespace

    import numpy as np
    from PIL import Image
    from torch import Tensor

    from ..files.pictures import Picture
    from ..hints.palettes import Scheme
    from ..pipeline import Colorizer

CAPTION_SIZE = 512  # longest side of what the captioner sees, px: far more than it looks at
# of variants by a model of fewer steps: in one or two, seeds hardly differ; in three, from all of the noise and with
# the saturation that makes up for one step's caution, surfaces get blotches
VARIED_STEPS, VARIED_NOISE, VARIED_SATURATION = 3, 0.6, 0.85
SHEET_TILE = 384  # longest side of a picture on a contact sheet, px
SHEET_MARGIN = 8
SHEET_LABEL = 24  # height of a label, px
SHEET_MIN_WIDTH = 160  # room for a label under a very narrow picture, px


@dataclass
class Report:
    """What became of a job."""

    job: Job
    prompt: str | None = None  # as it was given, else the caption
    scheme: str | None = None
    note: str | None = None
    seconds: float = 0.0
    error: str | None = None
    broken: bool = False  # the error is not this picture's: nothing can be coloured any more


@dataclass
class _Ready:
    """A picture that was read, and what the Colorizer is told besides."""

    report: Report
    picture: Picture
    options: dict


class Worker:
    """Colours pictures as the command's arguments say; see `arguments`. The first good picture loads the model."""

    def __init__(self, args: Namespace):
        self.args = args
        self.seeds = range(args.seed, args.seed + args.variants)
        self.colorizer: Colorizer | None = None
        self.broken: str | None = None

    def __call__(self, jobs: Sequence[Job], callback: Callable[[int, int], None] | None = None) -> list[Report]:
        """Colour pictures and write the results; those of one size together, see `--batch`.

        A picture's failure is its report's error. Once nothing can be coloured any more (a part of the model cannot be
        used, the disk is full), every further report says so.
        """
        reports = [Report(job, self.args.prompt) for job in jobs]
        groups: dict[object, list[_Ready]] = {}
        for report in reports:
            with self._reporting(report):
                self._check()
                ready = self._prepare(report)
                groups.setdefault(self._size(ready) or id(ready), []).append(ready)
        for group in groups.values():
            if len(group) > 1 and self._together(group):
                continue
            for ready in group:
                with self._reporting(ready.report):
                    self._check()
                    target = ready.report.job.target
                    prompt = colorize(self.colorizer, ready.picture, target, self.seeds, ready.options, callback)
                    if ready.report.prompt is None:
                        ready.report.prompt = prompt
        return reports

    def _check(self) -> None:
        if self.broken:
            raise CommandError(self.broken)

    @contextlib.contextmanager
    def _reporting(self, report: Report) -> Iterator[None]:
        """Times what is done for a picture, and makes what is raised its error."""
        start, name = time.perf_counter(), report.job.name
        try:
            yield
        except CommandError as error:
            self.broken = report.error = str(error)
            report.broken = True
        except (ValueError, OSError, MemoryError, RuntimeError) as error:
            cause = error.__cause__ or error
            text = one_line(error)
            if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                self.broken = f"torch.compile failed: {text}; leave --compile out"
            report.error = text if name in text else f"{name}: {text}"  # what is wrong with the file names it already
            if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
                self.broken = f"{report.error}; what was coloured stays: make room, and run this again"
            report.error, report.broken = self.broken or report.error, self.broken is not None
        report.seconds += time.perf_counter() - start

    def _sampling(self) -> dict:
        """Steps and what goes with them; for variants, where the command names no steps, enough of them to differ."""
        args, own = self.args, self.colorizer.preset.sampling
        if args.variants == 1 or args.steps or own.steps >= VARIED_STEPS:
            return {"steps": args.steps or own.steps, "saturation": args.saturation}
        saturation = VARIED_SATURATION * own.saturation if args.saturation is None else args.saturation
        return {"steps": VARIED_STEPS, "saturation": saturation, "noise": VARIED_NOISE}

    def _prepare(self, report: Report) -> _Ready:
        from ..files import pictures

        args = self.args
        most = args.max_megapixels
        picture = report.job.read(None if most is None else round(most * 1e6))
        # a command line without one good picture need not wait for the model
        self.colorizer = self.colorizer or load_model(args)
        schemes = args.palette if isinstance(args.palette, dict) else None
        options = {
            "negative_prompt": args.negative_prompt,
            "hints": [*args.hints, *args.hint],
            "hint_methods": args.hint_methods,
            "palette": None if schemes else args.palette,
            "palette_strength": 1.0 if schemes and args.palette_strength is None else args.palette_strength,
            **self._sampling(),
            "guidance": args.guidance,
            "strength": args.strength,
            "size": args.size,
            "token_steps": args.token_steps,
            "temperature": args.temperature,
            "scheduler": args.scheduler,
            "shared_control": args.shared_control,
        }
        if schemes:
            scheme = choose(self.colorizer, picture, schemes, args.prompt)
            report.scheme, options["palette"] = scheme and scheme.name, scheme and scheme.colors
        options["soft_hints"], options["prompt"], unknown = soft_hints(self.colorizer, picture, args)
        notes = [f"the model sees no {unknown} in it"] if unknown else []
        if picture.is_deep and not pictures.holds_16_bits(report.job.target):
            notes.append(f"{report.job.target.suffix} holds 8 of its 16 bits; write .png or .tif to keep all")
        if notes:
            report.note = f"{report.job.name}: {'; '.join(notes)}"
        return _Ready(report, picture, options)

    def _size(self, ready: _Ready) -> tuple | None:
        """What pictures must agree in to be coloured together: the diffused size and the palette. None for alone."""
        from ..color.sizes import diffusion_size

        options = ready.options
        if self.args.batch == 1 or len(self.seeds) > 1 or options["hints"] or options["soft_hints"] is not None:
            return None
        size = diffusion_size(ready.picture.pixels.shape[:2], self._short_side())
        return (*size, tuple(options["palette"] or ()))

    def _short_side(self) -> int:
        return self.args.size or self.colorizer.preset.sampling.size

    def _together(self, group: list[_Ready]) -> bool:
        """Colour pictures of one diffused size at once. Whether that worked: alone, it is known which one failed."""
        import torch

        from ..color.sizes import diffusion_size, resize

        start, options = time.perf_counter(), group[0].options
        try:
            prompts = [
                caption(self.colorizer, ready.picture.luminance) if prompt is None else prompt
                for ready in group
                for prompt in [ready.options["prompt"]]
            ]
            grays = [_gray(ready.picture.luminance) for ready in group]
            small = [resize(gray, diffusion_size(tuple(gray.shape[-2:]), self._short_side())) for gray in grays]
            chroma = self.colorizer.chroma(torch.cat(small), **{**options, "prompt": prompts}, seed=self.seeds[0])
        except (ValueError, OSError, MemoryError, RuntimeError):
            return False
        for ready, prompt, maps in zip(group, prompts, chroma.float().cpu()):
            with self._reporting(ready.report):
                self._check()
                target = ready.report.job.target
                write(ready.picture, _merged(maps, ready.picture, target), target)
            ready.report.seconds += (time.perf_counter() - start) / len(group)
            if ready.report.prompt is None:
                ready.report.prompt = prompt
        return True


def load_model(args: Namespace) -> Colorizer:
    """The model on its device. Raises CommandError where either cannot be used."""
    import torch
    from diffusers.utils import logging

    from ..pipeline import Colorizer

    logging.set_verbosity_error()  # its advice on loading is not for the command's users

    if args.device is not None:
        try:
            torch.empty(1, device=args.device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise CommandError(f"device {args.device!r} cannot be used: {one_line(error)}") from None
    try:
        weights = {name: getattr(args, name) for name in ("base", "control", "captioner", "download")}
        colorizer = Colorizer.from_pretrained(args.model, args.device, getattr(torch, args.dtype), **weights)
        if args.offload and colorizer.device.type == "cpu":
            raise CommandError("--offload saves a GPU's memory, and this runs on the CPU; leave it out")
        if args.offload:
            colorizer.offload()
        if args.compile:
            colorizer.compile()
    except ValueError as error:  # CheckpointError is one
        raise CommandError(one_line(error)) from None
    return colorizer


def caption(colorizer: Colorizer, luminance: np.ndarray) -> str:
    """What the model's captioner says of a photo given as `Picture.luminance`."""
    import torch

    with torch.inference_mode():
        return colorizer.caption(_small(luminance).to(colorizer.device))[0]


def _small(luminance: np.ndarray) -> Tensor:
    """A photo, given as `Picture.luminance`, as captioners need it, (1, 1, h, w)."""
    import numpy as np
    from PIL import Image

    small = Image.fromarray(luminance)
    small.thumbnail((CAPTION_SIZE, CAPTION_SIZE))
    return _gray(np.asarray(small))


def _gray(luminance: np.ndarray) -> Tensor:
    """`Picture.luminance` as (1, 1, H, W) in [0, 1]."""
    import torch

    gray = torch.tensor(luminance, dtype=torch.float32)[None, None]
    return gray / 255 if luminance.dtype.kind == "u" else gray.clamp(0, 1)


def choose(colorizer: Colorizer, picture: Picture, schemes: dict[str, Scheme], prompt: str | None) -> Scheme | None:
    """The only scheme; of several the nearest to the prompt or, where that is near none, to the photo.

    None where no scheme is near. Raises CommandError where the model has no captioner to see with.
    """
    from ..files.weight_headers import CheckpointError
    from ..hints.palettes import retrieve

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
            raise CommandError(one_line(error)) from None
        photo = _small(picture.luminance).to(colorizer.device)
        found = retrieve(photo, schemes, captioner, count=1)
    return found[0][0] if found else None


def soft_hints(colorizer: Colorizer, picture: Picture, args: Namespace) -> tuple[Tensor | None, str | None, str]:
    """What the reference and the prompt's coloured things say of a photo, the prompt without what is said so, and the
    things that nobody sees in the photo, in words.

    Raises ValueError where the model has nobody to find them.
    """
    from ..hints.color_phrases import without_colors
    from ..hints.maps import over, resize_hint_map
    from ..steering import reference_hints, word_hints

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

    from ..files import pictures
    from ..files.weight_headers import CheckpointError

    luminance = Image.fromarray(picture.luminance)  # of 16-bit photos mode F: nothing is lost
    prompt = options["prompt"]
    small = [("input", _thumbnail(luminance))]
    for seed in seeds:
        try:
            if prompt is None:
                prompt = caption(colorizer, picture.luminance)
            told = {**options, "prompt": prompt, "seed": seed, "callback": callback}
            if picture.is_deep:
                rgb = _merged(colorizer.chroma(_gray(picture.luminance), **told)[0], picture, target)
            else:
                rgb = np.asarray(colorizer(luminance, **told))
        except CheckpointError as error:  # parts are loaded at first use
            raise CommandError(one_line(error)) from None
        write(picture, rgb, target if len(seeds) == 1 else variant(target, seed))
        if len(seeds) > 1:
            small.append((f"seed {seed}", _thumbnail(pictures.to_pil(pictures.Picture(rgb)))))
    if len(seeds) > 1:
        pictures.write(pictures.from_pil(contact_sheet(small)), target)
    return prompt


def _merged(chroma: Tensor, picture: Picture, target: Path) -> np.ndarray:
    """A photo with (Cb, Cr) maps (2, h, w) as RGB (H, W, 3): uint16 where it has more than 8 bits and `target` too."""
    import numpy as np

    from ..color.merging import merge_tiled
    from ..files import pictures

    deep = picture.is_deep and pictures.holds_16_bits(target)
    return merge_tiled(chroma.float().cpu(), picture.luminance, dtype=np.uint16 if deep else np.uint8)


def write(picture: Picture, rgb: np.ndarray, target: Path) -> None:
    """Write a photo in colours, uint8 or uint16 (H, W, 3). Raises PictureError where that cannot be done."""
    from ..files import pictures

    target.parent.mkdir(parents=True, exist_ok=True)
    pictures.write(picture.with_rgb(rgb), target)


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


def one_line(error: BaseException) -> str:
    """An error's text as the command prints it."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 400 else f"{text[:400]}..."
