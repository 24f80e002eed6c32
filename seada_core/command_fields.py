"""Fields of dataclasses as command-line options: names, types, limits and help texts come from the fields."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from .command_line import number
from .settings import Setting, setting_of

Container = argparse.ArgumentParser | argparse._ArgumentGroup  # both take arguments


def add_fields(
    parser: Container,
    config: type,
    prefix: str = "",
    defaults: object | None = None,
    name_defaults: bool = True,
    skip: Collection[str] = (),
    switches: bool = False,
) -> None:
    """Add an option for each field of a dataclass: `--layers-per-block` for `layers_per_block`; with `prefix` "unet.",
    `--unet.layers-per-block`. `given_fields` returns the values that were given.

    A bool is `--flag`, `--no-flag` or `--flag True|False`; a tuple takes several values; an optional field also takes
    `None`. Limits, choices and help texts are those of the fields, see `settings.Setting`.

    Args:
        config: the dataclass; its fields are bool, int, float, str, Path, a Literal of texts, a tuple, or optional.
        defaults: the instance whose values the help shows; by default the defaults of the class, and a field without
            one is a required option.
        name_defaults: whether the help shows defaults.
        skip: fields that do not become options.
        switches: bools take no value, so that `--flag` may precede a positional argument.
    """
    kinds = get_type_hints(config)
    for of in dataclasses.fields(config):
        if of.name not in skip:
            default = of.default if defaults is None else getattr(defaults, of.name)
            default = default if name_defaults else None
            _add_field(parser, prefix, of.name, kinds[of.name], setting_of(of), default, switches)


def given_fields(found: argparse.Namespace, config: type, prefix: str = "") -> dict[str, Any]:
    """The fields of a dataclass that were given on the command line, by name."""
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in vars(found).items()}
    names = [of.name for of in dataclasses.fields(config)]
    return {name: values[prefix + name] for name in names if prefix + name in values}


def _add_field(
    parser: Container, prefix: str, name: str, kind: Any, allowed: Setting, default: object, switches: bool
) -> None:
    hyphenated = name.replace("_", "-")
    options: dict[str, Any] = {
        "dest": prefix + name,
        "default": argparse.SUPPRESS,
        "help": _help(allowed.help, default),
    }
    inner = [arg for arg in get_args(kind) if arg is not type(None)]
    optional = len(inner) < len(get_args(kind)) and get_origin(kind) is not tuple
    kind = inner[0] if optional else kind
    if kind is bool:
        taken = {"action": "store_const"} if switches else {"nargs": "?", "type": _boolean, "metavar": "True|False"}
        parser.add_argument(f"--{prefix}{hyphenated}", const=True, **taken, **options)
        options["help"] = argparse.SUPPRESS
        parser.add_argument(f"--{prefix}no-{hyphenated}", action="store_const", const=False, **options)
        return
    if get_origin(kind) is tuple:
        entries = get_args(kind)
        options["nargs"] = "+" if entries[-1] is Ellipsis else len(entries)
        kind = entries[0]
    if get_origin(kind) is Literal:
        options["choices"] = get_args(kind)
    elif allowed.choices:
        options["choices"] = allowed.choices
    else:
        options["type"] = _parser(kind, allowed, optional)
        options["metavar"] = _metavar(kind)
    if default is dataclasses.MISSING:
        options["required"] = True
    parser.add_argument(f"--{prefix}{hyphenated}", **options)


def _parser(kind: type, allowed: Setting, optional: bool) -> Callable[[str], Any]:
    """A function from an option's text to a value of a type, or to None for `None` if that is allowed."""
    parse: Callable[[str], Any] = kind
    if kind is bool:
        parse = _boolean
    elif kind in (int, float):
        parse = number(kind, *allowed.limits(kind))
    return (lambda text: None if text == "None" else parse(text)) if optional else parse


def _boolean(text: str) -> bool:
    if text not in ("True", "False"):
        raise argparse.ArgumentTypeError(f"{text!r} is not True or False")
    return text == "True"


def _metavar(kind: type) -> str:
    return {bool: "True|False", int: "N", float: "X", Path: "PATH"}.get(kind, "TEXT")


def _help(text: str, default: object) -> str:
    if default is dataclasses.MISSING:
        return text.replace("%", "%%")
    if isinstance(default, tuple):
        default = " ".join(map(str, default))
    named = "" if default is None else f"(default: {default})"
    return f"{text} {named}".strip().replace("%", "%%")
