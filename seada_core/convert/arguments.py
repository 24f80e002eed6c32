"""The arguments of `python -m seada_core.convert`."""

from __future__ import annotations

from argparse import BooleanOptionalAction
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from ..command_fields import add_fields, given_fields
from ..command_line import Parser
from .options import ConvertOptions

SIZES = {  # fields of `ConvertOptions` that are sizes -> whose sizes they are
    "unet": "The UNet of a single file, which does not name its sizes.",
    "text": "The text encoder of a single file.",
    "vae_sizes": "The VAE of a single file.",
    "controller": "A controller that starts from a ControlNet.",
}
DEFAULTS = ConvertOptions("")


def build_parser() -> Parser:
    """The parser; bad usage ends the process with status 2 and one line."""
    parser = Parser(
        prog="python -m seada_core.convert",
        usage="%(prog)s SOURCE [OUT] [options]",
        description="Convert weights between Stable Diffusion 1.5's forms and part files, and say of every tensor "
        "where it went. Without OUT nothing is written: what SOURCE is and how it fits is reported, from its headers "
        "alone.",
        epilog="Exit status: 0 converted, 1 something does not fit or cannot be read, 2 bad usage.",
    )
    add = parser.add_argument
    add(
        "source",
        metavar="SOURCE",
        help="a single file in the original names, a diffusers folder or a hub name, of Stable Diffusion 1.5, of a VAE "
        'of its latents or of a ControlNet; or a folder of part files, or "mini"',
    )
    add("out", metavar="OUT", nargs="?", type=Path, help="a new folder")
    add(
        "--to",
        choices=("parts", "diffusers"),
        default="parts",
        help="part files, for the nodes and the other commands (the default); or what diffusers loads",
    )
    add(
        "--base",
        metavar="PATH",
        help="Stable Diffusion 1.5, whose UNet and text encoder join part files that have none",
    )
    add(
        "--control",
        metavar="PATH",
        help="a stock ControlNet: a controller starts from it (parts), or it joins the pipeline (diffusers)",
    )
    add("--vae", metavar="PATH", help="a VAE for the pipeline, in place of SOURCE's own")
    add(
        "--dtype",
        choices=("float32", "float16", "bfloat16"),
        default="float32",
        help="in which the weights are stored (default: float32)",
    )
    flag: dict[str, Any] = {"action": BooleanOptionalAction, "default": False}
    add("--ema", **flag, help="take the averaged UNet of a single file that holds both")
    add(
        "--strict",
        **flag | {"default": True},
        help="fail where a tensor is missing, unexpected or misshapen (the default); otherwise what does not fit is "
        "skipped, and what is missing is random",
    )
    add("--download", **flag, help="fetch a hub name that is not in the local cache")
    add("--overwrite", **flag, help="replace OUT")
    add("--json", **flag, help="one JSON object on standard output, and nothing else there")
    for name, description in SIZES.items():
        sizes = getattr(DEFAULTS, name)
        group = parser.add_argument_group(f"{_prefix(name)}* options", description)
        add_fields(group, type(sizes), _prefix(name), sizes, switches=True)
    return parser


def _prefix(name: str) -> str:
    return f"{name.replace('_', '-')}."


def parse(argv: Sequence[str] | None = None) -> ConvertOptions:
    """The command line as options.

    Raises:
        SystemExit: after the help, or after the one line that says what is wrong (status 2).
    """
    args = build_parser().parse_args(argv)
    own = {option.name: getattr(args, option.name) for option in fields(ConvertOptions) if option.name not in SIZES}
    sizes = {name: getattr(DEFAULTS, name) for name in SIZES}
    given = {name: replace(config, **given_fields(args, type(config), _prefix(name))) for name, config in sizes.items()}
    return ConvertOptions(**own, **given)
