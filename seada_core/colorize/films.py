"""One run of the command over films: each is checked, coloured and reported."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from .. import __version__
from ..command_line import INTERRUPTED
from ..errors import CommandError, one_line
from ..files import pictures
from ..files.picture import Picture, PictureError
from ..film import frame_folder
from ..film.keys import KeyPainter, Prepare, Steering
from ..film.motion import opencv
from ..film.steady import SPACING
from ..film.streams import FilmError, probe
from ..film.work import colorize_film
from ..film.writing import Encoding
from ..options import ColorizeOptions
from ..pipeline import Colorizer
from .options import RunOptions
from .worker import load_model, soft_hints


class FilmRun:
    """Colours films as the command's options say."""

    def __init__(self, options: RunOptions):
        assert options.film is not None
        self.options, self.film = options, options.film
        self.failed = 0

    @cached_property
    def colorizer(self) -> Colorizer:
        """The model, loaded once the first film is known to be one."""
        return load_model(self.options.work.model)

    def __call__(self) -> int:
        """Colour all films; returns the exit status."""
        try:
            opencv()
        except ImportError as missing:
            raise CommandError(one_line(missing)) from None
        for source in self.options.inputs:
            start, error, target, count = time.perf_counter(), None, self.target(source), 0
            try:
                if (
                    target.exists()
                    and not self.options.overwrite
                    and not (source.is_dir() and self._unfinished(target))
                ):
                    raise FilmError(f"{target} exists; use --overwrite to replace it, or choose another -o")
                count = self.colorize_frames(source, target) if source.is_dir() else self.colorize(source, target)
            except (ValueError, OSError, MemoryError, RuntimeError) as problem:
                error = one_line(problem)
                self.failed += 1
            except KeyboardInterrupt:
                raise CommandError("interrupted; what is done is kept, the same command goes on", INTERRUPTED) from None
            self.report(source, target, count, time.perf_counter() - start, error)
        return 1 if self.failed else 0

    def target(self, source: Path) -> Path:
        """Where a film's result goes."""
        output = self.options.output
        suffix = source.suffix.lower()
        suffix = "" if source.is_dir() else suffix if suffix in (".mp4", ".m4v", ".mov", ".mkv", ".webm") else ".mkv"
        if output is None:
            return source.resolve().with_name(f"{source.resolve().stem}-color{suffix}")
        out = Path(output)
        several = len(self.options.inputs) > 1 or (not source.is_dir() and (out.is_dir() or output.endswith("/")))
        if out.resolve() == source.resolve():
            raise CommandError(f"{out} is the film itself; choose another -o", 2)
        return out / f"{source.stem}{suffix}" if several else out

    @staticmethod
    def _unfinished(folder: Path) -> bool:
        return folder.with_name(f".{folder.name}.segments").exists()

    def colorize(self, source: Path, target: Path) -> int:
        """Colour a film file; returns the number of frames."""
        film, options = probe(source), self.film
        part = None
        if options.start is not None or options.end is not None:
            first = film.near(options.start or 0.0)
            last = int(film.times[-1]) if options.end is None else film.near(options.end)
            part = first, last
        target.parent.mkdir(parents=True, exist_ok=True)
        encoding = Encoding.for_target(target, options.codec, options.quality)

        def exact(seconds: float) -> float:
            pts = film.near(seconds)
            if part is not None and not part[0] <= pts <= part[1]:
                raise FilmError(f"{seconds:.2f} s is outside --start and --end")
            return film.seconds(pts)

        painter = self.painter(film.size, self.steering(exact))
        for note in film.notes:
            self.note(f"{film.name}: {note}")
        with self.bar(len(film.times)) as bar:

            def progress(done: int, total: int, *_: Any) -> None:
                bar.total = total
                if bar.n == 0 and done > 1:
                    bar.initial = done - 1
                bar.update(done - bar.n)

            notes = colorize_film(
                film,
                target,
                painter,
                encoding,
                part=part,
                spacing=options.spacing or SPACING,
                job=self.job(source, encoding),
                overwrite=self.options.overwrite,
                progress=progress,
            )
        for note in notes:
            self.note(f"{film.name}: {note}")
        return len(film.times)

    def colorize_frames(self, source: Path, target: Path) -> int:
        """Colour a folder of numbered frames; returns their number."""
        paths, options = frame_folder.numbered(source), self.film
        first, last = ((None if t is None else round(t * frame_folder.RATE)) for t in (options.start, options.end))
        paths = paths[first or 0 : None if last is None else last + 1]
        if not paths:
            raise FilmError(f"{source} has no frames between --start and --end, at {frame_folder.RATE} frames a second")
        if options.codec is not None or options.quality is not None:
            raise CommandError("--codec and --crf are for film files; frames stay what they are", 2)

        def exact(seconds: float) -> float:
            number = round(seconds * frame_folder.RATE) - (first or 0)
            if not 0 <= number < len(paths):
                raise FilmError(f"{seconds:.2f} s is not in {source}, at {frame_folder.RATE} frames a second")
            return frame_folder.time_of(number)

        painter = self.painter(frame_folder.size_of(paths), self.steering(exact))
        with self.bar(len(paths)) as bar:
            frame_folder.colorize_frames(
                paths,
                target,
                painter,
                spacing=options.spacing or SPACING,
                job=self.job(source, None),
                overwrite=self.options.overwrite,
                progress=lambda done, total: bar.update(done - bar.n),
            )
        return len(paths)

    def painter(self, size: tuple[int, int], steering: Steering) -> KeyPainter:
        """What colours the key frames of a film of (height, width) `size`."""
        work = self.options.work
        options = work.colorize
        if work.schemes:
            options = dataclasses.replace(options, palette=next(iter(work.schemes.values())).colors)
        return KeyPainter(self.colorizer, options, size, steering, self.prepare())

    def prepare(self) -> Prepare | None:
        """Adds soft hints for coloured words and a reference picture to a key frame's options."""
        work = self.options.work
        if work.reference is None and not (work.prompt and work.words):
            return None

        def prepare(gray: Tensor, options: ColorizeOptions) -> ColorizeOptions:
            small = Picture(gray[0, 0].mul(255).round().to(torch.uint8).numpy())
            regions, prompt, _ = soft_hints(self.colorizer, small, work)
            return dataclasses.replace(options, soft_hints=regions, prompt=prompt or options.prompt)

        return prepare

    def steering(self, exact: Any) -> Steering:
        """The given stills and hints at the times of frames; `exact` gives a frame's time from one nearby."""
        stills = {exact(at): _still(path) for at, path in self.film.stills}
        return Steering(stills, {exact(at): {"hints": hints} for at, hints in self.film.hints})

    def job(self, source: Path, encoding: Encoding | None) -> dict[str, Any]:
        """What a result depends on: remains of an interrupted run are used only where this is the same."""
        status = source.stat()
        asked = repr((self.film, dataclasses.replace(self.options.work, reference=None), encoding))
        given = [(str(path), path.stat().st_size, path.stat().st_mtime) for _, path in self.film.stills]
        reference = self.options.work.reference
        return {
            "version": __version__,
            "film": [str(source.resolve()), status.st_size, status.st_mtime],
            "asked": asked,
            "stills": given,
            "reference": None if reference is None else [list(reference.shape), float(reference.sum())],
        }

    def bar(self, total: int) -> tqdm:
        """A bar of frames on standard error, where that is a terminal."""
        return tqdm(total=total, unit="frame", smoothing=0.05, disable=not sys.stderr.isatty())

    def note(self, text: str) -> None:
        print(f"note: {text}", file=sys.stderr)

    def report(self, source: Path, target: Path, count: int, seconds: float, error: str | None) -> None:
        """Print the outcome of a film."""
        if self.options.json:
            record = {"input": str(source), "output": None if error else str(target), "frames": count}
            print(json.dumps({**record, "seconds": round(seconds, 3), "error": error}), flush=True)
        elif error is None:
            print(f"{source} -> {target} ({count} frames, {seconds:.1f} s, {count / seconds:.1f} frames/s)", flush=True)
        if error is not None:
            print(f"error: {error if str(source) in error else f'{source}: {error}'}", file=sys.stderr)


def _still(path: Path) -> Tensor:
    """A coloured still, sRGB (3, H, W) in [0, 1]."""
    try:
        picture = pictures.read(path)
    except PictureError as error:
        raise FilmError(str(error)) from error
    if picture.pixels.ndim == 2:
        raise FilmError(f"{path} is grey; a key frame gives colours")
    return torch.from_numpy(np.asarray(pictures.to_pil(picture).convert("RGB")).copy()).permute(2, 0, 1) / 255
