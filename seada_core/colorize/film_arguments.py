"""The command's arguments for films."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from ..command_line import checked, number
from ..errors import CommandError
from ..files.hint_format import Hint, Stroke, load_hints
from .options import FilmOptions, WorkOptions

SUFFIXES = frozenset(f".{name}" for name in (
    "mp4", "m4v", "mov", "mkv", "webm", "avi", "mpg", "mpeg", "ts", "mts", "m2ts", "wmv", "flv", "ogv", "3gp", "mxf",
    "vob", "nut", "y4m",
))  # fmt: skip
TIME = re.compile(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d*)?)")  # [[HH:]MM:]SS[.fff]
ONLY = {"codec": "--codec", "crf": "--crf", "spacing": "--spacing", "start": "--start", "end": "--end"}

Hints = tuple[float | None, list[Hint | Stroke]]


def parse_time(text: str) -> float:
    """ "00:00:03.2", "0:03.2" or "3.2" in seconds. Raises ValueError for anything else."""
    match = TIME.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a time, such as 00:01:23.5 or 83.5")
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return 3600 * hours + 60 * minutes + seconds


def hints_at(text: str) -> Hints:
    """ "FILE" or "TIME=FILE" as hints with their time. Raises ValueError for a file that is not one of hints."""
    time, equals, path = text.partition("=")
    if equals and TIME.fullmatch(time):
        return parse_time(time), load_hints(path)
    return None, load_hints(text)


def still_at(text: str) -> tuple[float, Path]:
    """ "TIME=FILE" as a time and the path of a picture. Raises ValueError for anything else."""
    time, _, path = text.partition("=")
    if not path:
        raise ValueError(f"{text!r}: expected TIME=FILE, such as 00:00:03.2=still.png")
    if not Path(path).is_file():
        raise ValueError(f"{path} does not exist; a key frame is a picture file")
    return parse_time(time), Path(path)


def add_film_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options for films to the command's parser."""
    add = parser.add_argument_group("films", "mp4, mkv, mov and others; pip install comfyui-seada[film]").add_argument
    add("--film", action="store_true", help="folders are films: their numbered frames get steady colours")
    add(
        "--keyframe",
        metavar="TIME=FILE",
        dest="stills",
        action="append",
        default=[],
        type=checked(still_at),
        help="a coloured still of the frame at that time, from an artist or another model, whose colours its shot "
        "gets; may be repeated",
    )
    add("--codec", metavar="NAME", help="FFmpeg's name of an encoder (default: libx264, or libvpx-vp9 for .webm)")
    add(
        "--crf",
        metavar="N",
        type=number(int, 0, 63),
        help="constant rate factor of a film's codec, smaller is better (default: 14)",
    )
    add("--spacing", metavar="N", type=number(int, 1, 64), help="frames between those that are coloured (default: 8)")
    add("--start", metavar="TIME", type=checked(parse_time), help="where to start, such as 00:01:23.5")
    add("--end", metavar="TIME", type=checked(parse_time), help="where to end")


def film_options(args: argparse.Namespace, inputs: Iterable[Path], work: WorkOptions) -> FilmOptions | None:
    """What the arguments ask for films; None where the inputs are pictures.

    Raises:
        CommandError: pictures and films together, or options that only the other kind has.
    """
    # not Path.is_dir, which fails for names that no file can have
    films = [args.film if os.path.isdir(path) else path.suffix.lower() in SUFFIXES for path in inputs]
    timed = [(time, tuple(hints)) for time, hints in args.hints if time is not None]
    if not any(films):
        given = [name for field, name in ONLY.items() if getattr(args, field) is not None]
        given += ["--film"] * args.film + ["--keyframe"] * bool(args.stills) + ["--hints TIME=FILE"] * bool(timed)
        if given:
            raise CommandError(
                f"{given[0]} is for films, and {args.inputs[0]} is none; give films, or use no {given[0]}", 2
            )
        return None
    if not all(films):
        odd = next(path for path, film in zip(inputs, films) if not film)
        more = "; --film takes a folder as a film" if odd.is_dir() else ""
        raise CommandError(f"{odd} is not a film, and others are: colour pictures and films separately{more}", 2)
    refused = {"--variants": work.variants > 1, "--engine ray": args.engine == "ray", "--unpack": args.unpack}
    for name, used in refused.items():
        if used:
            raise CommandError(f"{name} is not for films", 2)
    if work.schemes is not None and len(work.schemes) > 1:
        raise CommandError("a film needs one palette: name it (--list-palettes prints the names)", 2)
    if args.start is not None and args.end is not None and args.start >= args.end:
        raise CommandError(f"--start {args.start:g} s is not before --end {args.end:g} s", 2)
    if work.colorize.hints:
        timed.append((args.start or 0.0, tuple(work.colorize.hints)))  # those without a time
    if (args.stills or timed) and len(films) > 1:
        raise CommandError("--keyframe and --hints belong to one film: colour films with them one by one", 2)
    return FilmOptions(
        folders=args.film,
        codec=args.codec,
        quality=args.crf,
        spacing=args.spacing,
        start=args.start,
        end=args.end,
        stills=tuple(args.stills),
        hints=tuple(timed),
    )


def without_hints(work: WorkOptions) -> WorkOptions:
    """The same work, whose hints belong to single frames."""
    return replace(work, colorize=replace(work.colorize, hints=()))
