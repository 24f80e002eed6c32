"""Measure colourised pictures as the field does: `python -m seada_core.evaluate --images DIR`."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from ..colorize.arguments import _number, _Parser
from .protocols import PROTOCOLS

# `--help` must be quick: whatever imports torch is imported once the arguments are known to be good.

STEERING = ("steps", "guidance", "saturation", "strength", "size", "token_steps", "temperature", "prompt", "seed")
INTERRUPTED = 130


def _comparison(text: str) -> tuple[str, Path]:
    name, separator, folder = text.partition("=")
    if not separator or not folder or not re.fullmatch(r"[\w.+-]{1,40}", name) or name in ("truth", "gray", "ours"):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not NAME=DIR with a name of letters, digits, '.', '+' and '-' (not truth, gray or ours)"
        )
    return name, Path(folder)


def build_parser() -> argparse.ArgumentParser:
    """The parser; what it cannot take ends the process with status 2 and one line."""
    parser = _Parser(
        prog="python -m seada_core.evaluate",
        usage="%(prog)s --images SOURCE [--model M] [--compare NAME=DIR]... [--out DIR] [options]",
        description="Colour the luminance of every picture, and compare with the pictures themselves, with leaving "
        "them grey, and with other methods' results. Writes report.json and report.html, and prints a table.",
        epilog="Protocols: "
        + "; ".join(f"{p.name}: {p.about}" for p in PROTOCOLS.values())
        + ". Features and perceptual distances: docs/evaluation.md says what each is and which file it needs. Exit "
        "status: 0 all measured, 1 something failed (the rest is measured), 2 bad usage.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    count = _number(int, 1, 10**9, "a whole number of at least 1")
    add("--images", required=True, metavar="SOURCE", help="a folder of colour pictures, or webdataset shards")
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
    add("--steps", type=count, metavar="N", help="denoising steps (default: the model's, as the next four)")
    add("--guidance", type=_number(float, 0, 100, "a number from 0 to 100"), metavar="G")
    add("--saturation", type=_number(float, 0, 10, "a number from 0 to 10"), metavar="S")
    add("--strength", type=_number(float, 0, 10, "a number from 0 to 10"), metavar="S")
    add("--size", type=_number(int, 8, 8192, "a multiple of 8 from 8 to 8192", multiple=8), metavar="N")
    add("--token-steps", type=_number(int, 0, 10**6, "a whole number of at least 0"), metavar="N")
    add("--temperature", type=_number(float, 1e-6, 1e6, "a number above 0"), metavar="T", help="of token diffusion")
    add("--prompt", metavar="TEXT", help="for every picture, in place of the captioner's")
    add("--seed", type=_number(int, 0, 2**63 - 1, "a whole number from 0 to 2^63 - 1"), default=0, metavar="N")
    add("--batch", type=count, default=16, metavar="N", help="pictures of one shape at once (default: 16)")
    add("--device", metavar="D", help="such as cpu or cuda:1 (default: cuda where there is one)")
    add("--resume", action="store_true", help="go on with an evaluation that was broken off")
    add("--json", action="store_true", help="print the report as JSON, and nothing else")
    return parser


def _options(args: argparse.Namespace, made: str):
    """The arguments as `run.Options`. Ends the process with status 2 for what does not fit together."""
    import torch

    from .features import FEATURES, PERCEPTUAL
    from .measure import Networks
    from .run import Options

    def refuse(message: str):
        raise argparse.ArgumentTypeError(message)

    protocol = PROTOCOLS[args.protocol]
    for names, known, option in ((args.features, FEATURES, "features"), (args.perceptual, PERCEPTUAL, "perceptual")):
        for name in names:
            if name not in known:
                refuse(f"--{option}: no {name!r}; known are {', '.join(known)}")
    compare = dict(args.compare)
    if len(compare) < len(args.compare):
        refuse("--compare: two methods have the same name")
    if args.no_model and not compare:
        refuse("--no-model leaves nothing to evaluate without --compare")
    if args.no_truth and args.exclude_gray:
        refuse("--no-truth and --exclude-gray exclude each other: where there is no truth, none is grey")
    counts = protocol.hint_counts if args.hint_counts is None else tuple(sorted(set(args.hint_counts)))
    if counts and (protocol.shape == "own" or not protocol.hint_counts or args.no_truth):
        refuse("--hint-counts needs --protocol icolorit, and a truth")
    if counts and args.no_model:
        counts = ()  # hints are ours to follow; other methods' results had theirs
    unknown = [count for count in counts if count not in (0, 1, 2, 5, 10, 20, 50, 100, 200)]
    if unknown:
        refuse(f"--hint-counts: the protocol has 0, 1, 2, 5, 10, 20, 50, 100 and 200, not {unknown[0]}")
    steering = {name: getattr(args, name) for name in STEERING if getattr(args, name) is not None}
    names = None
    if args.list is not None:
        names = tuple(line.strip() for line in args.list.read_text("utf-8").splitlines() if line.strip())
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    return Options(
        images=args.images,
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
        steering=steering,
        batch=args.batch,
        resume=args.resume,
        made=made,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status: 0 fine, 1 something failed, 2 bad usage, 130 interrupted."""
    try:
        args = build_parser().parse_args(argv)
    except SystemExit as end:  # of argparse: help, or bad usage already reported
        return int(end.code or 0)
    try:
        options = _options(args, shlex.join(["python", "-m", "seada_core.evaluate", *(argv or sys.argv[1:])]))
    except argparse.ArgumentTypeError as error:
        print(f"error: {error} (--help lists the options)", file=sys.stderr)
        return 2
    except (OSError, UnicodeDecodeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    from .report import table
    from .run import evaluate

    try:
        report = evaluate(options)
    except KeyboardInterrupt:
        print(f"error: interrupted; add --resume to go on with {options.out}", file=sys.stderr)
        return INTERRUPTED
    # SourceError, JournalError, WeightsError, PictureError and CheckpointError are ValueErrors
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps(report, ensure_ascii=False))
    else:
        print(table(report))
        print(f"wrote {options.out / 'report.json'} and {options.out / 'report.html'}")
    return 1 if report["unreadable"] else 0


if __name__ == "__main__":
    sys.exit(main())
