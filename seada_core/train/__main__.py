"""Train a part of the model: `python -m seada_core.train STAGE --data SOURCE --out DIR`."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence

from ..command_fields import add_fields, given_fields
from ..command_line import FAILED, Parser, exit_status
from ..presets import MINI, PRESETS, Preset, TrainConfig
from .options import ALL, TrainOptions
from .stages.registry import STAGES

OWN = ("stage", "preset", "recipe")  # fields of `TrainOptions` that are not options of their own
SECTIONS = [of.name for of in dataclasses.fields(Preset) if of.name not in ("name", "training", "recipe")]


def build_parser(preset: Preset = MINI) -> Parser:
    """The parser; the help names the sizes of `preset`."""
    parser = Parser(
        prog="python -m seada_core.train",
        usage="%(prog)s STAGE --data SOURCE --out DIR [options]",
        description="Train one stage of the model, or with `all` every stage of the preset's recipe in order.",
        epilog="Exit status: 0 fine, 1 failed, 2 bad usage.",
    )
    parser.add_argument("stage", metavar="STAGE", choices=[*STAGES, ALL], help=f"{', '.join(STAGES)} or {ALL}")
    parser.add_argument("--preset", choices=PRESETS, default=MINI.name, help="sizes and recipes (default: %(default)s)")
    add_fields(parser, TrainOptions, skip=OWN, switches=True)
    recipe = parser.add_argument_group("recipe", "In place of the values that the preset has for the stage.")
    add_fields(recipe, TrainConfig, name_defaults=False)  # each stage has its own
    for name in SECTIONS:
        sizes = getattr(preset, name)
        group = parser.add_argument_group(f"{name} sizes", type(sizes).__doc__)
        add_fields(group, type(sizes), f"{name}.", sizes)
    return parser


def parse(argv: Sequence[str]) -> TrainOptions:
    """The options of a command line. Bad usage ends the process with status 2 and one line."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)  # the help names this preset's sizes
    first.add_argument("--preset", default=MINI.name)
    preset = PRESETS.get(first.parse_known_args(argv)[0].preset, MINI)
    found = build_parser(preset).parse_args(argv)
    sizes = {}
    for name in SECTIONS:
        section = getattr(preset, name)
        sizes[name] = dataclasses.replace(section, **given_fields(found, type(section), f"{name}."))
    return TrainOptions(
        **{
            name: value for name, value in given_fields(found, TrainOptions).items() if name not in ("preset", "recipe")
        },
        preset=dataclasses.replace(preset, **sizes),
        recipe=given_fields(found, TrainConfig),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status: 0 fine, 1 failed, 2 bad usage, 130 interrupted."""
    return exit_status(
        lambda: _run(sys.argv[1:] if argv is None else argv), "--resume goes on from the last checkpoint"
    )


def _run(argv: Sequence[str]) -> int:
    options = parse(argv)
    try:
        from .run import run  # torch, diffusers and accelerate: slow, and not needed for --help
    except ModuleNotFoundError as error:
        if error.name != "accelerate":
            raise
        needed = 'pip install "comfyui-seada[train]" (or pip install accelerate)'
        print(f"error: training needs accelerate: {needed}", file=sys.stderr)
        return FAILED
    return run(options)


if __name__ == "__main__":
    sys.exit(main())
