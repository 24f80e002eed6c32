"""Colour photos from the command line: `python -m seada_core.colorize IN... [-o OUT]`."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

# `--help` must be quick: whatever imports torch or Pillow is imported once the arguments are known to be good.
if TYPE_CHECKING:
    from PIL import Image

    from .pictures import Picture
    from .pipeline import Colorizer

CAPTION_SIZE = 512  # longest side of what the captioner sees, px: far more than it looks at
SHEET_TILE = 384  # longest side of a picture on a contact sheet, px
SHEET_MARGIN = 8
SHEET_LABEL = 24  # height of a label, px
SHEET_MIN_WIDTH = 160  # room for a label under a very narrow picture, px
INTERRUPTED = 130  # what shells report for a command that Ctrl-C ended


class CommandError(Exception):
    """What no picture can be coloured with: the message is the whole error line."""


@dataclass(frozen=True)
class Job:
    """One picture: where it is, where its result goes (None where that is not known), and why it cannot be done."""

    source: Path
    target: Path | None
    error: str | None = None


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        self.exit(2, f"error: {message} (--help lists the options)\n")


def _number(kind: type, low: float, high: float, what: str, multiple: int = 1) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high or (multiple > 1 and value % multiple):
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
        return value

    return parse


def _from_hints(name: str) -> Callable[[str], object]:
    """A function of `hints` as an argument's type: its message becomes the usage error."""

    def parse(text: str):
        from . import hints

        try:
            return getattr(hints, name)(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse


def _build_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m seada_core.colorize",
        description="Colour black-and-white photos. Luminance, size, transparency and EXIF data stay as they are.",
        epilog="Exit status: 0 all done, 1 something failed (the other pictures are done), 2 bad usage.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("inputs", metavar="IN", nargs="+", type=Path, help="picture files, or folders of them")
    add(
        "-o",
        "--output",
        metavar="OUT",
        help="the result's file; for several pictures a folder (default: NAME-color beside the input)",
    )
    add("--model", default="mini", metavar="mini|FOLDER", help="the embedded model, or a folder of part files")
    add("--prompt", metavar="TEXT", help="what the photo shows and in which colours (default: ask the captioner)")
    add("--negative-prompt", metavar="TEXT", help="what to keep away from")
    add(
        "--hint",
        metavar="X,Y,#RRGGBB[,RADIUS]",
        dest="hint",
        action="append",
        default=[],
        type=_from_hints("parse_hint"),
        help="a colour at a pixel of the photo, or in a disc around it; may be repeated",
    )
    add("--hints", metavar="FILE", default=[], type=_from_hints("load_hints"), help="a JSON file of hints")
    add("--palette", metavar='"#aabbcc,#ddeeff"', type=_from_hints("parse_palette"), help="colours to stay close to")
    count = _number(int, 1, 10**6, "a whole number of at least 1")
    add("--steps", metavar="N", type=count, help="denoising steps (default: the model's)")
    add("--guidance", metavar="G", type=_number(float, 0, 100, "a number from 0 to 100"), help="weight of the prompt")
    add(
        "--strength",
        metavar="S",
        type=_number(float, 0, 10, "a number from 0 to 10"),
        default=1.0,
        help="of the controller that keeps to the photo (default: 1)",
    )
    add(
        "--seed",
        metavar="N",
        type=_number(int, 0, 2**63 - 1, "a whole number from 0 to 2^63 - 1"),
        default=0,
        help="the same seed gives the same picture (default: 0)",
    )
    add(
        "--variants",
        metavar="N",
        type=_number(int, 1, 256, "a whole number from 1 to 256"),
        default=1,
        help="pictures of N seeds: OUT is a contact sheet, and each is a file of its own, OUT-seed0 and so on",
    )
    add(
        "--size",
        metavar="N",
        type=_number(int, 8, 8192, "a multiple of 8 from 8 to 8192", multiple=8),
        help="short side of the picture that is diffused, px (default: the model's)",
    )
    add(
        "--token-steps",
        metavar="N",
        type=_number(int, 0, 10**6, "a whole number of at least 0"),
        default=0,
        help="steps of token diffusion (default: 0, none)",
    )
    add(
        "--temperature",
        metavar="T",
        type=_number(float, sys.float_info.min, 1e6, "a number above 0"),
        default=1.0,
        help="of token diffusion (default: 1)",
    )
    add("--device", metavar="D", help="such as cpu or cuda:1 (default: cuda where there is one)")
    add("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="default: float32")
    add("--overwrite", action="store_true", help="replace existing results")
    add("--json", action="store_true", help="one JSON line a picture on standard output, and nothing else there")
    return parser


def plan(inputs: Sequence[Path], output: str | None, variants: int = 1, overwrite: bool = False) -> list[Job]:
    """What is to be done, every picture once. Nothing is read or written.

    Raises CommandError where OUT does not fit the inputs.
    """
    from .pictures import WRITABLE, PictureError, find

    out = None if output is None else Path(output)
    if out is not None:
        folder = len(inputs) > 1 or inputs[0].is_dir() or out.is_dir() or output.endswith(("/", os.sep))
        if folder and out.exists() and not out.is_dir():
            raise CommandError(f"{out} is a file; several pictures need a folder")
        if not folder and out.suffix.lower() not in WRITABLE:
            found = f"{out.suffix!r}" if out.suffix else "no suffix"
            raise CommandError(f"{out} has {found}; results can be written as {', '.join(WRITABLE)}")
        if not folder and not out.parent.is_dir():
            raise CommandError(f"{out.parent} does not exist; make that folder first")

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
        error = None
        for path in (target, *(_variant(target, k) for k in range(variants if variants > 1 else 0))):
            if path.resolve() in pairs:
                error = f"{path} is an input, and would be replaced by a result; choose another -o"
            elif path.resolve() in taken:
                error = f"{path} is already the result of {taken[path.resolve()]}; colour them into different folders"
            elif path.exists() and not overwrite:
                error = f"{path} exists; use --overwrite to replace it, or choose another -o"
            if error:
                break
        else:
            taken[target.resolve()] = file
        jobs.append(Job(file, target, error and f"{file}: {error}"))
    return bad + jobs


def _variant(target: Path, seed: int) -> Path:
    return target.with_name(f"{target.stem}-seed{seed}{target.suffix}")
