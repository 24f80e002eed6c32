"""The arguments of `python -m seada_core.evaluate`. Torch, which is slow to import, is imported after parsing."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from ..colorize.arguments import SEED
from ..command_line import FAILED, Parser, number, within
from ..options import ColorizeOptions
from .options import STEERING, EvaluateOptions, Networks
from .protocols import HINT_COUNTS, PROTOCOLS


def _comparison(text: str) -> tuple[str, Path]:
    name, separator, folder = text.partition("=")
    if not separator or not folder or not re.fullmatch(r"[\w.+-]{1,40}", name) or name in ("truth", "gray", "ours"):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not NAME=DIR with a name of letters, digits, '.', '+' and '-' (not truth, gray or ours)"
        )
    return name, Path(folder)


def build_parser() -> argparse.ArgumentParser:
    """The parser; what it cannot take ends the process with status 2 and one line."""
    parser = Parser(
        prog="python -m seada_core.evaluate",
        usage="%(prog)s --images SOURCE | --clips DIR [--model M] [--compare NAME=DIR]... [--out DIR] [options]",
        description="Colour the luminance of every picture, and compare with the pictures themselves, with leaving "
        "them grey, and with other methods' results. Writes report.json and report.html, and prints a table.",
        epilog="Protocols: "
        + "; ".join(f"{p.name}: {p.about}" for p in PROTOCOLS.values())
        + ". Features and perceptual distances: docs/evaluation.md says what each is and which file it needs. Exit "
        "status: 0 all measured, 1 something failed (the rest is measured), 2 bad usage.",
    )
    add = parser.add_argument
    count, limits = number(int, 1), ColorizeOptions.limits
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--images", metavar="SOURCE", help="a folder of colour pictures, or webdataset shards")
    what.add_argument(
        "--clips", type=Path, metavar="DIR", help="films instead: a folder of numbered colour frames for each clip"
    )
    add("--model", default="mini", metavar="mini|FOLDER", help="the embedded model, or a folder of part files")
    add("--no-model", action="store_true", help="evaluate the --compare folders alone")
    add(
        "--compare",
        metavar="NAME=DIR",
        action="append",
        default=[],
        type=_comparison,
        help="another method's results, named as the pictures are (any suffix); may be repeated",
    )
    add("--out", type=Path, default=Path("evaluation"), metavar="DIR", help="default: evaluation")
    add("--protocol", choices=PROTOCOLS, default="own", help="which pictures, at which size (default: own)")
    add("--list", type=Path, metavar="FILE", help="evaluate the pictures that this file names, one a line")
    add("--labels", type=Path, metavar="FILE", help="a line a picture: its file name, then its class of ImageNet")
    add("--limit", type=count, metavar="N", help="only the first N pictures")
    add(
        "--features",
        nargs="*",
        default=["efficientnet-lite0"],
        metavar="NAME",
        help="networks of the Fréchet distances (default: efficientnet-lite0, which also recognises classes)",
    )
    add("--perceptual", nargs="*", default=[], metavar="NAME", help="LPIPS and its kin (default: none)")
    add("--hint-counts", nargs="*", type=int, metavar="K", help="hints a picture (protocol icolorit; default: its own)")
    add("--no-truth", action="store_true", help="the pictures are no colour truth (old photos): colourfulness alone")
    add("--exclude-gray", action="store_true", help="leave out pictures that are grey themselves")
    add("--common", action="store_true", help="leave out pictures that some method has no result for")
    add(
        "--steps",
        type=within(limits("steps")),
        metavar="N",
        help="denoising steps (these and the next five: by default as in seada_core.colorize)",
    )
    add("--guidance", type=within(limits("guidance")), metavar="G")
    add("--saturation", type=within(limits("saturation")), metavar="S")
    add("--skin", type=within(limits("skin")), metavar="S")
    add("--strength", type=within(limits("strength")), metavar="S")
    add("--size", type=within(limits("size")), metavar="N")
    add("--token-steps", type=within(limits("token_steps")), metavar="N")
    add("--temperature", type=within(limits("temperature")), metavar="T", help="of token diffusion")
    add("--prompt", metavar="TEXT", help="for every picture, in place of the captioner's")
    add("--seed", type=SEED, default=0, metavar="N")
    add("--batch", type=count, default=16, metavar="N", help="pictures of one shape at once (default: 16)")
    add("--device", metavar="D", help="such as cpu or cuda:1 (default: cuda where there is one)")
    add("--resume", action="store_true", help="continue an evaluation that was interrupted")
    add("--json", action="store_true", help="print the report as JSON, and nothing else")
    return parser


def parse(argv: Sequence[str] | None = None) -> EvaluateOptions:
    """The command line as options.

    Raises:
        SystemExit: after the help, or after the one line that says what is wrong.
    """
    parser = build_parser()
    args = parser.parse_args(argv)
    import torch

    from .features import FEATURES, PERCEPTUAL

    protocol = PROTOCOLS[args.protocol]
    for chosen, known, option in ((args.features, FEATURES, "features"), (args.perceptual, PERCEPTUAL, "perceptual")):
        for name in chosen:
            if name not in known:
                parser.error(f"--{option}: no {name!r}; known are {', '.join(known)}")
    compare = dict(args.compare)
    if len(compare) < len(args.compare):
        parser.error("--compare: two methods have the same name")
    if args.no_model and not compare:
        parser.error("--no-model leaves nothing to evaluate without --compare")
    if args.no_truth and args.exclude_gray:
        parser.error("--no-truth and --exclude-gray exclude each other: where there is no truth, none is grey")
    counts = protocol.hint_counts if args.hint_counts is None else tuple(sorted(set(args.hint_counts)))
    if counts and (protocol.shape == "own" or not protocol.hint_counts or args.no_truth):
        parser.error("--hint-counts needs --protocol icolorit, and a truth")
    if counts and args.no_model:
        counts = ()  # hints are ours to follow; other methods' results had theirs
    unknown = [count for count in counts if count not in HINT_COUNTS]
    if unknown:
        *most, last = map(str, HINT_COUNTS)
        parser.error(f"--hint-counts: the protocol has {', '.join(most)} and {last}, not {unknown[0]}")
    names = None
    if args.list is not None:
        try:
            names = tuple(line.strip() for line in args.list.read_text("utf-8").splitlines() if line.strip())
        except (OSError, UnicodeDecodeError) as error:
            parser.exit(FAILED, f"error: {error}\n")
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    return EvaluateOptions(
        images=args.images or "",
        clips=args.clips,
        out=args.out,
        model=None if args.no_model else args.model,
        compare=compare,
        protocol=protocol,
        names=names,
        labels=args.labels,
        limit=args.limit,
        networks=Networks(tuple(dict.fromkeys(args.features)), tuple(dict.fromkeys(args.perceptual)), device),
        truth=not args.no_truth,
        exclude_gray=args.exclude_gray,
        common=args.common,
        hint_counts=counts,
        colorize=ColorizeOptions(**{n: getattr(args, n) for n in STEERING if getattr(args, n) is not None}),
        batch=args.batch,
        resume=args.resume,
        made=shlex.join(["python", "-m", "seada_core.evaluate", *(argv or sys.argv[1:])]),
        json=args.json,
    )
