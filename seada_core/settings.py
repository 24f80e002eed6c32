"""Fields of configs: their help texts and limits, and configs as plain values and back."""

from __future__ import annotations

import dataclasses
import reprlib
from dataclasses import dataclass, field
from typing import Any, get_args, get_origin, get_type_hints

MOST_ENTRIES = 16  # of a tuple


LIMIT = 2**16  # default upper limit of numbers


@dataclass(frozen=True)
class Setting:
    """Metadata of a config's field: its help text and allowed values; see `setting` and `choice`.

    Attributes:
        help: a line for `--help`.
        low, high: the limits of a number, or of each entry of a tuple. The default of `low` is 1 for int and 0 for
            float.
        choices: the allowed values of a string; empty for any.
    """

    help: str = ""
    low: float | None = None
    high: float = LIMIT
    choices: tuple[str, ...] = ()

    def limits(self, kind: type) -> tuple[float, float]:
        """The smallest and the largest allowed number of a kind, int or float."""
        return (1 if kind is int else 0) if self.low is None else self.low, self.high


def setting(default: Any, help: str = "", low: float | None = None, high: float = LIMIT) -> Any:
    """A dataclass field with its help text and limits, see `Setting`. `dataclasses.MISSING` makes it a required one."""
    return field(default=default, metadata={"setting": Setting(help, low, high)})


def choice(default: Any, choices: tuple[str, ...], help: str = "") -> Any:
    """A dataclass field with a fixed set of strings, see `Setting`."""
    return field(default=default, metadata={"setting": Setting(help, choices=choices)})


def setting_of(of: dataclasses.Field) -> Setting:
    """The `Setting` of a config's field."""
    return of.metadata.get("setting", Setting())


def to_dict(config) -> dict:
    """A config as JSON-compatible values."""
    return dataclasses.asdict(config)


def from_dict(cls, values: dict):
    """The inverse of `to_dict` for a flat config class, with untrusted values: lists become tuples.

    Raises:
        TypeError: unknown names, or values of the wrong type.
        ValueError: values outside a field's limits or choices, see `Setting`.
    """
    if not isinstance(values, dict):
        raise TypeError(f"{cls.__name__} is {reprlib.repr(values)}, expected an object")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    kinds = get_type_hints(cls)
    unknown = sorted(values.keys() - fields.keys())
    if unknown:
        raise TypeError(f"{cls.__name__} has no field {reprlib.repr(unknown[0])}")
    return cls(**{name: _checked(name, setting_of(fields[name]), kinds[name], value) for name, value in values.items()})


def _checked(name: str, allowed: Setting, kind: Any, value: object) -> Any:
    """A field's value, if it has the field's type and lies within its limits."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is tuple:
        if not isinstance(value, list | tuple) or not 1 <= len(value) <= MOST_ENTRIES:
            raise TypeError(f"{name} is {reprlib.repr(value)}, expected 1 to {MOST_ENTRIES} values")
        return tuple(_checked(name, allowed, inner[0], entry) for entry in value)
    if type(None) in inner:
        return None if value is None else _checked(name, allowed, inner[0], value)
    if isinstance(value, bool) != (kind is bool) or not isinstance(value, int | float if kind is float else kind):
        raise TypeError(f"{name} is {reprlib.repr(value)}, expected {kind.__name__}")
    if kind in (int, float):
        low, high = allowed.limits(kind)
        if not low <= value <= high:
            raise ValueError(f"{name} is {reprlib.repr(value)}, expected {low} to {high}")
    if allowed.choices and value not in allowed.choices:
        raise ValueError(f"{name} is {reprlib.repr(value)}, expected one of {', '.join(allowed.choices)}")
    return value
