"""The command's work on a picture: read it, find its hints, colour it, write the result."""

from __future__ import annotations

import contextlib
import errno
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .. import memory, pages
from ..color.kinds import colored_parts, is_colored, notices
from ..color.merging import merge_tiled
from ..color.sizes import diffusion_size, resize, size_of
from ..errors import CommandError, one_line
from ..files import pictures
from ..files.picture import Picture
from ..files.weight_headers import CheckpointError
from ..hints.color_phrases import without_colors
from ..hints.maps import hidden_hints, over, resize_hint_map
from ..hints.palettes import Scheme, retrieve
from ..options import ColorizeOptions
from ..pipeline import Colorizer
from ..steering import prompt_notices, reference_hints, unseen, word_hints
from ..windows import is_elongated
from .contact_sheet import contact_sheet, thumbnail
from .options import ModelOptions, WorkOptions
from .plan import Job, Report, variant

BAND = 256  # rows of a photo that are mixed at once
CAPTION_SIZE = 512  # longest side of the picture given to the captioner, px: far more than its input
# of variants, for a model with fewer steps: with one or two, seeds hardly differ; with three, the full noise and the
# saturation that compensates for a single step give blotchy surfaces
VARIED_STEPS, VARIED_NOISE, VARIED_SATURATION = 3, 0.6, 0.85


@dataclass
class _Ready:
    """A picture that was read, and how it is to be coloured."""

    report: Report
    picture: Picture
    options: ColorizeOptions
    prompt: str | None  # None for the caption


class Worker:
    """Colours pictures as the command's options say; several threads may call it at once."""

    def __init__(self, options: WorkOptions):
        self.options = options
        self._loading, self._noting = threading.Lock(), threading.Lock()
        self._colorizer: Colorizer | None = None
        self.broken: str | None = None
        self.prompt_noted = False  # whether the notes about the prompt were printed

    @property
    def colorizer(self) -> Colorizer:
        """The model, loaded at first use: a command line without one readable picture need not wait for it."""
        with self._loading:
            if self._colorizer is None:
                self._colorizer = load_model(self.options.model)
            return self._colorizer

    def __call__(self, jobs: Sequence[Job], callback: Callable[[int, int], None] | None = None) -> list[Report]:
        """Colour pictures and write the results; those of one size together, see `--batch`.

        A picture's failure is its report's error. Once no picture can be coloured (a part of the model cannot be used,
        the disk is full), every further report has that error.
        """
        seeds = self.options.seeds
        reports = [Report(job, self.options.prompt) for job in jobs]
        groups: dict[object, list[_Ready]] = {}
        for report in reports:
            with self._reporting(report):
                self._check()
                ready = self._prepare(report)
                if self.options.keep_color and is_colored(ready.picture.pixels):
                    write(ready.picture, ready.picture.pixels, report.job.target, self.options.quality)
                    report.prompt, report.notes = "", ["it has colours already, which are kept"]
                    continue
                groups.setdefault(self._size(ready) or id(ready), []).append(ready)
        for group in groups.values():
            if len(group) > 1 and self._together(group):
                continue
            for ready in group:
                with self._reporting(ready.report):
                    self._check()
                    target = ready.report.job.target
                    prompt = colorize(
                        *(self.colorizer, ready.picture, ready.prompt, target, seeds, ready.options, callback),
                        save=self._save,
                    )
                    if ready.report.prompt is None:
                        ready.report.prompt = prompt
        return reports

    def _save(self, picture: Picture, rgb: np.ndarray, target: Path) -> None:
        """Write a result; with --keep-color, the photo's own colours where it has some."""
        mask = colored_parts(picture.pixels) if self.options.keep_color else None
        if mask is not None:
            rgb = _with_own_colors(rgb, picture.pixels, mask)
        write(picture, rgb, target, self.options.quality)

    def _is_first(self) -> bool:
        """Whether this is the first picture, whose notes have what is the same for all."""
        with self._noting:
            first, self.prompt_noted = not self.prompt_noted, True
            return first

    def _check(self) -> None:
        if self.broken:
            raise CommandError(self.broken)

    @contextlib.contextmanager
    def _reporting(self, report: Report) -> Iterator[None]:
        """Adds the time that the block takes to a report, and turns what it raises into the report's error."""
        start, name = time.perf_counter(), report.job.name
        try:
            yield
        except CommandError as error:
            self.broken = report.error = str(error)
            report.broken = True
        except (ValueError, OSError, MemoryError, RuntimeError) as error:
            cause = error.__cause__ or error
            text = memory.TOO_LITTLE if memory.is_shortage(error) else one_line(error)
            if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                self.broken = f"torch.compile failed: {text}; run without --compile"
            report.error = text if name in text else f"{name}: {text}"  # errors of files name them already
            if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
                self.broken = f"{report.error}; what was coloured stays: make room, and run this again"
            report.error, report.broken = self.broken or report.error, self.broken is not None
        report.seconds += time.perf_counter() - start

    def _varied(self, options: ColorizeOptions) -> ColorizeOptions:
        """Options for variants: without --steps, enough steps for seeds to differ."""
        own = self.colorizer.preset.sampling
        if self.options.variants == 1 or options.steps or own.steps >= VARIED_STEPS:
            return options
        saturation = VARIED_SATURATION * own.saturation if options.saturation is None else options.saturation
        return replace(options, steps=VARIED_STEPS, saturation=saturation, noise=VARIED_NOISE)

    def _prepare(self, report: Report) -> _Ready:
        most, schemes = self.options.max_megapixels, self.options.schemes
        picture = report.job.read(None if most is None else round(most * 1e6), self.options.partial)
        options = self._varied(self.options.colorize)
        if schemes:
            scheme = choose(self.colorizer, picture, schemes, self.options.prompt)
            report.scheme = None if scheme is None else scheme.name
            options = replace(options, palette=None if scheme is None else scheme.colors)
        regions, prompt, unknown = soft_hints(self.colorizer, picture, self.options)
        notes = [*picture.notes, *unknown]
        if self.options.prompt and self._is_first():
            notes += prompt_notices(self.colorizer, self.options.prompt)
        if (hints := options.hints) and not isinstance(hints, Tensor):
            height, width = picture.luminance.shape[:2]
            hidden = hidden_hints(hints, _small(picture.luminance), (height, width))
            notes += [hidden] if hidden else []
        notes += notices(picture.pixels, self.options.keep_color)
        if boxes := pages.photos(picture.luminance):
            many = (
                f"{len(boxes)} photos on a page, each of which is" if len(boxes) > 1 else "a photo in a frame, which is"
            )
            notes.append(f"it shows {many} coloured as if it were alone; the rest stays grey")
        notes += pictures.losses(picture, report.job.target)
        report.notes = notes
        return _Ready(report, picture, replace(options, soft_hints=regions), prompt)

    def _size(self, ready: _Ready) -> tuple | None:
        """What pictures that are coloured together have in common: diffused size and palette. None: coloured alone."""
        options = ready.options
        if self.options.batch == 1 or self.options.variants > 1 or options.hints or options.soft_hints is not None:
            return None
        height, width = ready.picture.pixels.shape[:2]
        if pages.photos(ready.picture.luminance) or is_elongated((height, width)):
            return None
        size = diffusion_size((height, width), self._short_side())
        return (*size, tuple(options.palette or ()))

    def _short_side(self) -> int:
        return self.options.colorize.size or self.colorizer.preset.sampling.size

    def _together(self, group: list[_Ready]) -> bool:
        """Colour pictures of one diffused size at once; False if that fails, without telling which picture fails."""
        start, options = time.perf_counter(), group[0].options
        try:
            prompts = [
                caption(self.colorizer, ready.picture.luminance) if ready.prompt is None else ready.prompt
                for ready in group
            ]
            grays = [_gray(ready.picture.luminance) for ready in group]
            small = [resize(gray, diffusion_size(size_of(gray), self._short_side())) for gray in grays]
            chroma = self.colorizer.chroma(torch.cat(small), options, prompt=prompts)
        except (ValueError, OSError, MemoryError, RuntimeError):
            return False
        for ready, prompt, maps in zip(group, prompts, chroma.float().cpu()):
            with self._reporting(ready.report):
                self._check()
                target = ready.report.job.target
                self._save(ready.picture, _merged(maps, ready.picture, target), target)
            ready.report.seconds += (time.perf_counter() - start) / len(group)
            if ready.report.prompt is None:
                ready.report.prompt = prompt
        return True


def load_model(options: ModelOptions) -> Colorizer:
    """The model on its device. Raises CommandError where either cannot be used."""
    if options.device is not None:
        try:
            torch.empty(1, device=options.device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise CommandError(f"device {options.device!r} cannot be used: {one_line(error)}") from None
    try:
        colorizer = Colorizer.from_pretrained(
            options.model,
            options.device,
            None if options.dtype is None else getattr(torch, options.dtype),
            base=options.base,
            control=options.control,
            captioner=options.captioner,
            download=options.download,
            graphs=options.graphs,
        )
        if options.offload and colorizer.device.type == "cpu":
            raise CommandError("--offload saves a GPU's memory, but this runs on the CPU; run without it")
        if options.offload:
            colorizer.offload()
        if options.compile:
            colorizer.compile()
    except ValueError as error:  # CheckpointError is one
        raise CommandError(one_line(error)) from None
    return colorizer


@contextlib.contextmanager
def _loading() -> Iterator[None]:
    """Turns the error of a part that is loaded at first use into a CommandError."""
    try:
        yield
    except CheckpointError as error:
        raise CommandError(one_line(error)) from None


@torch.inference_mode()
def caption(colorizer: Colorizer, luminance: np.ndarray) -> str:
    """The model's caption of a photo given as `Picture.luminance`."""
    return colorizer.caption(_small(luminance).to(colorizer.device))[0]


def _small(luminance: np.ndarray) -> Tensor:
    """`Picture.luminance` at a size for captioners, (1, 1, h, w)."""
    small = Image.fromarray(luminance)
    small.thumbnail((CAPTION_SIZE, CAPTION_SIZE))
    return _gray(np.asarray(small))


def _gray(luminance: np.ndarray) -> Tensor:
    """`Picture.luminance` as (1, 1, H, W) in [0, 1]."""
    gray = torch.tensor(luminance, dtype=torch.float32)[None, None]
    return gray / 255 if luminance.dtype.kind == "u" else gray.clamp(0, 1)


def choose(colorizer: Colorizer, picture: Picture, schemes: Mapping[str, Scheme], prompt: str | None) -> Scheme | None:
    """The only scheme; of several the one nearest to the prompt or, where none is near it, to the photo.

    None where no scheme is near. Raises CommandError where the model has no captioner to compare the photo with.
    """
    if len(schemes) == 1:
        return next(iter(schemes.values()))
    found = retrieve(prompt, schemes, count=1) if prompt else []
    if not found and not colorizer.has("captioner"):
        problem = f"{colorizer.folder} has no captioner.safetensors, through which the palette for a photo is found"
        raise CommandError(f"{problem}; say with --prompt what the photo shows, or name a palette")
    if not found:
        with _loading():
            captioner = colorizer.part("captioner")
        photo = _small(picture.luminance).to(colorizer.device)
        found = retrieve(photo, schemes, captioner, count=1)
    return found[0][0] if found else None


def soft_hints(
    colorizer: Colorizer, picture: Picture, options: WorkOptions
) -> tuple[Tensor | None, str | None, list[str]]:
    """Soft hints from the reference and the prompt's coloured things, the prompt without the colours that are hints,
    and what to say of things that the model does not find in the photo.

    Raises ValueError where the model has no part that finds them.
    """
    prompt = options.prompt
    if options.reference is None and not (prompt and options.words):
        return None, prompt, []
    gray, result, unknown = _small(picture.luminance), None, []
    if options.reference is not None:
        result = reference_hints(colorizer, gray, options.reference)
    if prompt and options.words:
        found, phrases, missing = word_hints(colorizer, gray, prompt, options.regions, options.colorize.seed)
        unknown = [unseen(colorizer, gray, [phrase.thing for phrase in missing])] if missing else []
        if found is not None and result is not None:
            found = over(found, resize_hint_map(result, size_of(found), dense=True))
        result = result if found is None else found
        prompt = without_colors(prompt, phrases)
    return result, prompt, unknown


def colorize(
    colorizer: Colorizer,
    picture: Picture,
    prompt: str | None,
    target: Path,
    seeds: Sequence[int],
    options: ColorizeOptions,
    callback: Callable[[int, int], None] | None = None,
    save: Callable[[Picture, np.ndarray, Path], None] | None = None,
) -> str:
    """Colour one photo and write it to `target`; returns the prompt, or the caption where that is None.

    For several seeds `target` is a contact sheet and each result is written beside it as soon as it is done. Raises
    CommandError for a part of the model that cannot be used, ValueError for options that the model or the photo does
    not allow and for what cannot be written.
    """
    values = picture.luminance
    luminance = Image.fromarray(values)  # mode F for 16-bit photos: nothing is lost
    small = [("input", thumbnail(luminance))]
    boxes = pages.photos(values)
    texts: str | tuple[str, ...] | None = prompt
    if prompt is None:
        with _loading():
            captions = tuple(caption(colorizer, box.of(values)) for box in boxes) or (caption(colorizer, values),)
        texts, prompt = captions if boxes else captions[0], " | ".join(captions)

    def deep(gray: np.ndarray, own: ColorizeOptions, progress: Callable[[int, int], None] | None = None) -> np.ndarray:
        return _merged(colorizer.chroma(_gray(gray), own, callback=progress)[0], picture, target, gray)

    for seed in seeds:
        options = replace(options, prompt=texts, seed=seed)
        with _loading():
            if not picture.is_deep:
                rgb = np.asarray(colorizer(luminance, options, callback=callback))
            elif boxes:
                pages.check_hints(options, values.shape[:2])
                rgb = pages.color_photos(values, boxes, options, deep, callback)
            else:
                rgb = deep(values, options, callback)
        (save or write)(picture, rgb, target if len(seeds) == 1 else variant(target, seed))
        if len(seeds) > 1:
            small.append((f"seed {seed}", thumbnail(pictures.to_pil(Picture(rgb)))))
    if len(seeds) > 1:
        pictures.write(pictures.from_pil(contact_sheet(small)), target)
    return prompt


def _merged(chroma: Tensor, picture: Picture, target: Path, luminance: np.ndarray | None = None) -> np.ndarray:
    """A photo, or the part of it with that luminance, with (Cb, Cr) maps (2, h, w) as RGB (H, W, 3): uint16 if both it
    and `target` have over 8 bits."""
    deep = picture.is_deep and pictures.holds_16_bits(target)
    gray = picture.luminance if luminance is None else luminance
    return merge_tiled(chroma.float().cpu(), gray, dtype=np.uint16 if deep else np.uint8)


def _with_own_colors(rgb: np.ndarray, own: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A result (H, W, 3) with the photo's own pixels (H, W, 3), of 8 or 16 bits, to the share of a mask (H, W)."""
    top = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}
    result = rgb.copy()
    for start in range(0, len(rgb), BAND):
        rows = np.s_[start : start + BAND]
        mine = own[rows].astype(np.float32) * (top[rgb.dtype] / top[own.dtype])
        share = mask[rows][..., None]
        result[rows] = np.round(rgb[rows] + share * (mine - rgb[rows])).astype(rgb.dtype)
    return result


def write(picture: Picture, rgb: np.ndarray, target: Path, quality: int | None = None) -> None:
    """Write a photo in colours, uint8 or uint16 (H, W, 3). Raises PictureError where that fails."""
    target.parent.mkdir(parents=True, exist_ok=True)
    pictures.write(picture.with_rgb(rgb), target, quality)
