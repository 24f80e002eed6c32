"""Fields of dataclasses as command-line options: names and types come from the fields."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from typing import Any, get_args, get_origin, get_type_hints

from .command_line import number

Container = argparse.ArgumentParser | argparse._ArgumentGroup  # both take arguments


def add_fields(parser: Container, config: type, prefix: str = "", defaults: object | None = None) -> None:
    """Add an option for each field of a dataclass: `--layers-per-block` for `layers_per_block`, with `prefix` "unet."
    `--unet.layers-per-block`. What is given is read back by `given_fields`.

    A bool is `--flag` or `--no-flag`; a tuple takes several values.

    Args:
        config: the dataclass; its fields are bool, int, float, str, or tuples of one of these.
        defaults: the instance whose values the help names; by default what the class itself says.
    """
    kinds = get_type_hints(config)
    for of in dataclasses.fields(config):
        default = of.default if defaults is None else getattr(defaults, of.name)
        _add_field(parser, prefix, of.name, kinds[of.name], default)


def given_fields(found: argparse.Namespace, config: type, prefix: str = "") -> dict[str, Any]:
    """The fields of a dataclass that were given on the command line, by name."""
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in vars(found).items()}
    names = [of.name for of in dataclasses.fields(config)]
    return {name: values[prefix + name] for name in names if prefix + name in values}


def _add_field(parser: Container, prefix: str, name: str, kind: Any, default: object) -> None:
    hyphenated = name.replace("_", "-")
    named = " ".join(map(str, default)) if isinstance(default, tuple) else default
    options: dict[str, Any] = {"dest": prefix + name, "default": argparse.SUPPRESS, "help": f"(default: {named})"}
    if kind is bool:
        parser.add_argument(f"--{prefix}{hyphenated}", action="store_const", const=True, **options)
        options["help"] = argparse.SUPPRESS
        parser.add_argument(f"--{prefix}no-{hyphenated}", action="store_const", const=False, **options)
        return
    if get_origin(kind) is tuple:
        options["nargs"], kind = "+", get_args(kind)[0]
    types: dict[Any, Callable[[str], Any]] = {bool: _boolean, int: number(int), float: number(float), str: str}
    metavar = {bool: "True|False", int: "N", float: "X", str: "TEXT"}[kind]
    parser.add_argument(f"--{prefix}{hyphenated}", type=types[kind], metavar=metavar, **options)


def _boolean(text: str) -> bool:
    if text not in ("True", "False"):
        raise argparse.ArgumentTypeError(f"{text!r} is not True or False")
    return text == "True"
