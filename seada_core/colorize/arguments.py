"""The arguments of `python -m seada_core.colorize`. What is slow to import is imported where it is used."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..choices import HINT_METHODS, SCHEDULERS
from ..command_line import Parser, checked, names, number, within
from ..errors import CommandError
from ..files.hint_format import parse_hint, parse_palette
from ..options import ColorizeOptions
from .film_arguments import add_film_arguments, film_options, hints_at, without_hints
from .options import ModelOptions, RunOptions, WorkOptions

if TYPE_CHECKING:
    from torch import Tensor

    from ..hints.palettes import Scheme

SEED = number(int, 0, 2**63 - 1, "a whole number from 0 to 2^63 - 1")
REFERENCE_SIDE = 1024  # longest side of a reference, px: more than is looked at


def _palette(text: str) -> list[str] | dict[str, Scheme]:
    """`--palette`: colours, or the schemes of which one is used."""
    from ..hints import palettes

    if set(text) & set("#,("):  # which no scheme's name has
        return checked(parse_palette)(text)
    try:
        return palettes.parse_choice(text)
    except ValueError as error:
        with contextlib.suppress(ValueError):
            return parse_palette(text)  # one colour's name
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
    parser = Parser(
        prog="python -m seada_core.colorize",
        usage="%(prog)s IN... [-o OUT] [options]",
        description="Colour black-and-white photos and films. Luminance, size, transparency, EXIF data and sound stay "
        "as they are.",
        epilog="Exit status: 0 all done, 1 something failed (the other pictures are done), 2 bad usage.",
    )
    add = parser.add_argument
    add(
        "inputs",
        metavar="IN",
        nargs="+",
        type=Path,
        help="picture files, films, webdataset shards (.tar), or folders of them (of films: of frames, see --film)",
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
        metavar="X,Y,COLOUR[,RADIUS[,SPREAD]]",
        dest="hint",
        action="append",
        default=[],
        type=checked(parse_hint),
        help="a colour, as CSS writes it, or keep (what the model gives the place), at a pixel of the photo or in a "
        "disc around it; spread: how far it reaches beyond, -1 (little) to 1 (far); may be repeated",
    )
    add(
        "--hints",
        metavar="[TIME=]FILE",
        action="append",
        default=[],
        type=checked(hints_at),
        help="a JSON file of hints, as the painter saves it; for a film, of the frame at TIME, such as 00:00:03.2",
    )
    add(
        "--palette",
        metavar="COLOURS|NAME|auto|FILE",
        type=_palette,
        help='colours to stay close to, as "#aabbcc,navy,rgb(90,60,30)"; or a historical colour scheme by name; auto '
        "for the one that suits each photo; or a JSON file of your own schemes",
    )
    add(
        "--palette-strength",
        metavar="S",
        type=within(ColorizeOptions.limits("palette_strength")),
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
        type=names(HINT_METHODS),
        help=f"what makes colours follow hints, of {','.join(HINT_METHODS)} (default: what suits the model)",
    )
    limits = ColorizeOptions.limits
    add("--steps", metavar="N", type=within(limits("steps")), help="denoising steps (default: the model's)")
    add("--saturation", metavar="S", type=within(limits("saturation")), help="factor on the colours")
    add(
        "--skin",
        metavar="S",
        type=within(limits("skin")),
        default=1.0,
        help="how far people's skin is brought to one tone, 0 to 1 (default: 1)",
    )
    add("--guidance", metavar="G", type=within(limits("guidance")), help="weight of the prompt")
    add(
        "--strength",
        metavar="S",
        type=within(limits("strength")),
        default=1.0,
        help="of the controller that keeps to the photo (default: 1)",
    )
    add(
        "--seed",
        metavar="N",
        type=SEED,
        default=0,
        help="the same seed gives the same picture (default: 0)",
    )
    add(
        "--variants",
        metavar="N",
        type=number(int, 1, 256),
        default=1,
        help="pictures of N seeds: OUT is a contact sheet, and each is a file of its own, OUT-seed0 and so on; without "
        "--steps they take 3 at least, since in one seeds hardly differ",
    )
    add(
        "--size",
        metavar="N",
        type=within(limits("size")),
        help="short side of the picture that is diffused, px (default: the model's)",
    )
    add(
        "--token-steps",
        metavar="N",
        type=within(limits("token_steps")),
        default=0,
        help="steps of token diffusion (default: 0, none)",
    )
    add(
        "--temperature",
        metavar="T",
        type=within(limits("temperature")),
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
        type=number(int, 1, 1024),
        default=1,
        help="pictures of one size coloured together: quicker, equal to one by one but for rounding (default: 1)",
    )
    add("--compile", action="store_true", help="torch.compile the model: minutes at first, quicker from then on")
    add(
        "--graphs",
        action=argparse.BooleanOptionalAction,
        help="on a GPU, record the model as CUDA graphs for sizes that come again, at the cost of memory: quicker, and "
        "needs no compiler (default: for small models)",
    )
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
        type=number(int, 1),
        help="photos at a time: on the CPU one for each core (at most 8); with --engine ray one for each GPU, else for "
        "every four CPUs; results do not depend on it",
    )
    add("--device", metavar="D", help="such as cpu or cuda:1 (default: cuda where there is one)")
    add(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="default: float16 on a GPU, float32 on the CPU; bfloat16 is too coarse for the embedded model",
    )
    add(
        "--max-megapixels",
        metavar="N",
        type=number(float, 1e-6, 1e6, "a number of megapixels above 0"),
        help="largest photo that is read (default: 200, or SEADA_MAX_MEGAPIXELS of the environment); larger ones are "
        "refused before they are decoded",
    )
    add(
        "--pages",
        choices=("first", "all"),
        default="first",
        help="of files with several pictures (TIFF, MPO, GIF, APNG): the first, with a notice, or all, into a file "
        "each, OUT-page1 and so on",
    )
    add(
        "--keep-color",
        action="store_true",
        help="leave photos as they are that have colours already, and stamps and other coloured parts of grey ones",
    )
    add("--partial", action="store_true", help="colour what is there of files that are cut short")
    add(
        "--quality",
        metavar="N",
        type=number(int, 1, 100),
        help="of JPEG and WebP, 1 to 100 (default: 95; a lossless WebP stays lossless)",
    )
    add("--overwrite", action="store_true", help="replace existing results (default: of several, only what is missing)")
    add("--json", action="store_true", help="one JSON line a picture on standard output, and nothing else there")
    add_film_arguments(parser)
    return parser


def parse(argv: Sequence[str] | None = None) -> RunOptions:
    """The command line as options.

    Raises:
        SystemExit: after the help, or after the one line that says what is wrong (status 2).
        CommandError: options that exclude each other.
    """
    args = build_parser().parse_args(argv)
    if args.offload and args.graphs:
        raise CommandError("--offload moves what --graphs recorded in one place; use one of the two", 2)
    if args.offload and args.compile:
        raise CommandError("--offload moves what --compile made for one place; use one of the two", 2)
    schemes = args.palette if isinstance(args.palette, dict) else None
    colorize = ColorizeOptions(
        prompt=args.prompt,
        negative_prompt=args.negative_prompt,
        hints=(*(hint for time, hints in args.hints if time is None for hint in hints), *args.hint),
        hint_methods=args.hint_methods,
        palette=None if schemes else args.palette,
        palette_strength=1.0 if schemes and args.palette_strength is None else args.palette_strength,
        steps=args.steps,
        guidance=args.guidance,
        strength=args.strength,
        seed=args.seed,
        size=args.size,
        saturation=args.saturation,
        skin=args.skin,
        token_steps=args.token_steps,
        temperature=args.temperature,
        scheduler=args.scheduler,
        shared_control=args.shared_control,
    )
    model = ModelOptions(
        model=args.model,
        base=args.base,
        control=args.control,
        captioner=args.captioner,
        download=args.download,
        device=args.device,
        dtype=args.dtype,
        offload=args.offload,
        compile=args.compile,
        graphs=args.graphs,
    )
    work = WorkOptions(
        colorize=colorize,
        model=model,
        schemes=schemes,
        reference=args.reference,
        regions=args.regions,
        words=not args.no_words,
        variants=args.variants,
        batch=args.batch,
        max_megapixels=args.max_megapixels,
        partial=args.partial,
        keep_color=args.keep_color,
        quality=args.quality,
    )
    film = film_options(args, args.inputs, work)
    return RunOptions(
        inputs=tuple(args.inputs),
        work=work if film is None else without_hints(work),
        film=film,
        output=args.output,
        recursive=args.recursive,
        unpack=args.unpack,
        pages=args.pages == "all",
        overwrite=args.overwrite,
        engine=args.engine,
        workers=args.workers,
        json=args.json,
    )
