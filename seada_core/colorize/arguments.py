"""The arguments of `python -m seada_core.colorize`. Whatever is slow to import is imported where it is used."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..files.hint_format import load_hints, parse_hint, parse_palette
from ..presets import HINT_METHODS, SCHEDULERS

if TYPE_CHECKING:
    from torch import Tensor

    from ..hints.palettes import Scheme

REFERENCE_SIDE = 1024  # longest side of a reference, px: more than is looked at


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


def _checked(function: Callable[[str], object]) -> Callable[[str], object]:
    """An argument's type of a function: its message becomes the usage error."""

    def parse(text: str):
        try:
            return function(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse


def _palette(text: str) -> list[str] | dict[str, Scheme]:
    """`--palette`: colours, or the schemes of which one is used."""
    from ..hints import palettes

    if "#" in text:
        return _checked(parse_palette)(text)
    try:
        return palettes.parse_choice(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error} (--list-palettes prints the names)") from None


def _reference(path: str) -> Tensor:
    """`--reference`: sRGB (1, 3, h, w) in [0, 1] of a picture file."""
    import numpy as np
    import torch

    from ..files import pictures

    try:
        picture = pictures.read(path)
    except pictures.PictureError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if picture.pixels.ndim == 2:
        raise argparse.ArgumentTypeError(f"{path} is grey; a reference gives colours")
    image = pictures.to_pil(picture).convert("RGB")
    image.thumbnail((REFERENCE_SIDE, REFERENCE_SIDE))
    return torch.tensor(np.asarray(image)).permute(2, 0, 1)[None] / 255


def _methods(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in HINT_METHODS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(HINT_METHODS)}")
    return names


class _ListPalettes(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str, help: str):
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_):
        from ..hints.palettes import load_schemes

        for scheme in load_schemes().values():
            colors = ", ".join(f"{color} {material}" for color, material in zip(scheme.colors, scheme.materials))
            print(f"{scheme.name} ({scheme.era}): {colors}")
        parser.exit()


def build_parser() -> argparse.ArgumentParser:
    """The parser; what it cannot take ends the process with status 2 and one line."""
    parser = _Parser(
        prog="python -m seada_core.colorize",
        usage="%(prog)s IN... [-o OUT] [options]",
        description="Colour black-and-white photos. Luminance, size, transparency and EXIF data stay as they are.",
        epilog="Exit status: 0 all done, 1 something failed (the other pictures are done), 2 bad usage.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "inputs", metavar="IN", nargs="+", type=Path, help="picture files, webdataset shards (.tar), or folders of them"
    )
    add(
        "-o",
        "--output",
        metavar="OUT",
        help="the result's file; for several pictures a folder (default: NAME-color beside the input)",
    )
    add("-r", "--recursive", action="store_true", help="also the folders in folders; results keep their tree")
    add("--unpack", action="store_true", help="shards' results as files in a folder each, not as shards")
    add("--model", metavar="mini|FOLDER", help="the embedded model (the default), or a folder of part files")
    add(
        "--base",
        metavar="PATH",
        help="Stable Diffusion 1.5 as a diffusers folder, a .safetensors file or a hub name: the UNet and text encoder "
        "where no part file has them; see docs/weights.md",
    )
    add("--control", metavar="PATH", type=Path, help="a stock ControlNet (brightness, recolor) or controlnet_rca file")
    add("--captioner", metavar="PATH", type=Path, help="a CoCa file, or a CoCa, BLIP, BLIP-2 or ClipCap folder")
    add("--download", action="store_true", help="fetch a hub name that is not in the local cache")
    add("--prompt", metavar="TEXT", help="what the photo shows and in which colours (default: ask the captioner)")
    add("--negative-prompt", metavar="TEXT", help="what to keep away from")
    add(
        "--hint",
        metavar="X,Y,#RRGGBB[,RADIUS]",
        dest="hint",
        action="append",
        default=[],
        type=_checked(parse_hint),
        help="a colour at a pixel of the photo, or in a disc around it; may be repeated",
    )
    add(
        "--hints",
        metavar="FILE",
        default=[],
        type=_checked(load_hints),
        help="a JSON file of hints, as the painter saves it",
    )
    add(
        "--palette",
        metavar="COLOURS|NAME|auto|FILE",
        type=_palette,
        help='colours to stay close to, as "#aabbcc,#ddeeff"; or a historical colour scheme by name; auto for the one '
        "that suits each photo; or a JSON file of your own schemes",
    )
    add(
        "--palette-strength",
        metavar="S",
        type=_number(float, 0, 10, "a number from 0 to 10"),
        help="how far a colour scheme is followed (default: 1, softly)",
    )
    add("--list-palettes", action=_ListPalettes, help="print the colour schemes and end")
    add(
        "--reference",
        metavar="FILE",
        type=_reference,
        help="a colour picture: what looks alike in the photo takes its colours",
    )
    add(
        "--regions",
        metavar="recognition|attention|FOLDER",
        default="auto",
        help="who finds the coloured things of the prompt: the captioner's classifier, the UNet's attention, or the "
        "CLIPSeg of a folder (default: the first that the model has)",
    )
    add("--no-words", action="store_true", help="take the prompt as a whole, do not look for its coloured things")
    add(
        "--hint-methods",
        metavar="NAME,...",
        type=_methods,
        default=HINT_METHODS,
        help=f"what makes colours follow hints (default: {','.join(HINT_METHODS)})",
    )
    count = _number(int, 1, 10**6, "a whole number of at least 1")
    add("--steps", metavar="N", type=count, help="denoising steps (default: the model's)")
    add("--saturation", metavar="S", type=_number(float, 0, 10, "a number from 0 to 10"), help="factor on the colours")
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
        help="pictures of N seeds: OUT is a contact sheet, and each is a file of its own, OUT-seed0 and so on; without "
        "--steps they take 3 at least, since in one seeds hardly differ",
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
    add(
        "--scheduler",
        choices=SCHEDULERS,
        default="ddim",
        help="unipc and dpm++ need about half of ddim's --steps (default: ddim)",
    )
    add(
        "--shared-control",
        action="store_true",
        help="with guidance, run the controller with the prompt alone: quicker, the prompt counts a little less",
    )
    add(
        "--batch",
        metavar="N",
        type=_number(int, 1, 1024, "a whole number from 1 to 1024"),
        default=1,
        help="pictures of one size coloured together: quicker, equal to one by one but for rounding (default: 1)",
    )
    add("--compile", action="store_true", help="torch.compile the model: minutes at first, quicker from then on")
    add("--offload", action="store_true", help="keep on the GPU only those parts of the model that are at work")
    add(
        "--engine",
        choices=("plain", "ray"),
        default="plain",
        help="ray: Ray Data, with a worker for each GPU of a machine or cluster, or for some of its CPUs",
    )
    add(
        "--workers",
        metavar="N",
        type=_number(int, 1, 10**5, "a whole number of at least 1"),
        help="of --engine ray (default: one for each GPU, else for every four CPUs)",
    )
    add("--device", metavar="D", help="such as cpu or cuda:1 (default: cuda where there is one)")
    add("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="default: float32")
    add(
        "--max-megapixels",
        metavar="N",
        type=_number(float, 1e-6, 1e6, "a number of megapixels above 0"),
        help="largest photo that is read (default: 200, or SEADA_MAX_MEGAPIXELS of the environment); larger ones are "
        "refused before they are decoded",
    )
    add("--overwrite", action="store_true", help="replace existing results (default: of several, only what is missing)")
    add("--json", action="store_true", help="one JSON line a picture on standard output, and nothing else there")
    return parser
