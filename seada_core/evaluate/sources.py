"""The pictures of an evaluation: a folder or webdataset shards, a protocol's sizes, other methods' folders, labels."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..color import spaces
from ..files import pictures, shards
from .protocols import Protocol


class SourceError(ValueError):
    """The pictures cannot be evaluated; the message names the files and says what to do."""


@dataclass(frozen=True)
class Entry:
    """One picture of a source: `key` pairs it with other methods' results, `group` is its label or folder, if any."""

    key: str
    name: str  # of the file, by which protocols sort
    group: str | None
    load: Callable[[], Image.Image]


def find(source: str | Path) -> list[Entry]:
    """Every picture of a folder (and of the folders in it) or of webdataset shards (`data-{000..007}.tar`, several
    joined by `::`, a folder of `.tar` files); none is read.

    A key is the path below the folder, or the sample's key in its shard, without the suffix. A group is the `label`
    (json) or `cls` of a shard's sample, or the name of the folder that holds the picture within `source`.

    Raises SourceError where there are none, or where two have the same key.
    """
    paths = shards.find(source)
    entries = [entry for path in paths for entry in _of_shard(path)] if paths else _of_folder(Path(source))
    if not entries:
        raise SourceError(f"no pictures in {source} (looked for {' '.join(sorted(pictures.SUFFIXES))})")
    seen: dict[str, Entry] = {}
    for entry in entries:
        if entry.key in seen:
            raise SourceError(f"{source} holds {seen[entry.key].name} and {entry.name}, both {entry.key!r}: rename one")
        seen[entry.key] = entry
    return entries


def _of_folder(folder: Path) -> list[Entry]:
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in pictures.SUFFIXES and path.name[0] != "." and path.is_file()
    )
    entries = []
    for path in found:
        inside = PurePosixPath(path.relative_to(folder).as_posix())
        group = inside.parent.name or None
        entries.append(Entry(str(inside.with_suffix("")), path.name, group, partial(_read, path)))
    return entries


def _read(path: Path) -> Image.Image:
    return _rgb(pictures.read(path))


def _rgb(picture: pictures.Picture) -> Image.Image:
    image = pictures.to_pil(picture)
    if image.has_transparency_data:  # laid on white, as results are saved
        ground = Image.new("RGBA", image.size, "white")
        ground.alpha_composite(image.convert("RGBA"))
        image = ground
    return image.convert("RGB")


def _of_shard(path: Path) -> list[Entry]:
    """A shard's pictures; only its headers and its small json members are read."""
    if not path.is_file():
        raise SourceError(f"no folder or shard {path}")
    if not tarfile.is_tarfile(path):
        raise SourceError(f"{path} is neither a folder nor a webdataset shard (.tar)")
    places: dict[str, shards.Place] = {}
    groups: dict[str, str | None] = {}
    names: dict[str, str] = {}
    try:
        with open(path, "rb") as file:
            for start, members in shards.samples(path):
                key = str(PurePosixPath(start))
                for name, place in members.items():
                    inside = PurePosixPath(name)
                    if inside.is_absolute() or ".." in inside.parts:
                        raise SourceError(f"{path} holds {name!r}, which is a path outside it: do not trust this shard")
                    suffix = shards.suffix_of(start, name)
                    if f".{suffix.rsplit('.', 1)[-1]}" in pictures.SUFFIXES:
                        places[key], names[key] = place, inside.name
                    elif suffix == "json":
                        about = _about(shards.read_at(file, place), f"{path}: {name}")
                        groups[key] = None if about.get("label") is None else str(about["label"])
                    elif suffix == "cls":
                        groups.setdefault(key, shards.read_at(file, place).decode("utf-8", "replace").strip())
    except shards.ShardError as error:
        raise SourceError(str(error)) from error

    def reader(key: str) -> Callable[[], Image.Image]:
        def read() -> Image.Image:
            with open(path, "rb") as file:
                return _rgb(pictures.read_bytes(shards.read_at(file, places[key]), f"{path}: {names[key]}"))

        return read

    return [Entry(key, names[key], groups.get(key), reader(key)) for key in places]


def _about(text: bytes, name: str) -> dict:
    try:
        about = json.loads(text)
    except ValueError as error:
        raise SourceError(f"{name} is not JSON ({error})") from None
    return about if isinstance(about, dict) else {}


def choose(entries: list[Entry], protocol: Protocol, names: Sequence[str] | None, limit: int | None) -> list[Entry]:
    """The protocol's pictures, in the order of their file names: those of `names` if given (names or keys, with
    or without suffix), the first `protocol.limit`, and of these the first `limit`.

    Raises SourceError for a listed name that is not there, and for fewer pictures than the protocol has.
    """
    entries = sorted(entries, key=lambda entry: (entry.name, entry.key))
    if names is not None:
        by_name: dict[str, Entry] = {}
        for entry in entries:
            for name in (entry.name, PurePosixPath(entry.name).stem, entry.key):
                by_name.setdefault(name, entry)
        missing = [name for name in names if name not in by_name]
        if missing:
            raise SourceError(f"the list names {len(missing)} pictures that are not there, {few(missing)}")
        entries = [by_name[name] for name in names]
    if protocol.limit is not None:
        if len(entries) < protocol.limit and limit is None:
            raise SourceError(
                f"{protocol.name} is {protocol.limit} pictures, there are {len(entries)}; add --limit {len(entries)} "
                "to go on with these (and say so where you report the figures)"
            )
        entries = entries[: protocol.limit]
    return entries[:limit]


def few(names: Sequence[str], count: int = 3) -> str:
    """Some of a list, for a message: "a, b, c and 7 more"."""
    shown = ", ".join(names[:count])
    return shown if len(names) <= count else f"{shown} and {len(names) - count} more"


def pair(entries: list[Entry], method: str, folder: Path, common: bool) -> dict[str, Entry]:
    """Another method's results by the keys of `entries`; suffixes may differ, and so may folders where file names are
    unique.

    Raises SourceError for pictures without a result unless `common` is set (the caller then skips these), and
    where no name pairs at all.
    """
    if not folder.is_dir():
        raise SourceError(f"--compare {method}={folder}: the folder does not exist")
    results = {entry.key: entry for entry in _of_folder(folder)}
    if not results:
        raise SourceError(f"--compare {method}={folder}: no pictures in it")
    if not any(entry.key in results for entry in entries):
        flat: dict[str, Entry] = {}
        for key, entry in results.items():
            flat[PurePosixPath(key).name] = entry
        if len(flat) == len(results):
            names = {entry.key: flat.get(PurePosixPath(entry.key).name) for entry in entries}
            results = {key: entry for key, entry in names.items() if entry is not None}
    paired = {entry.key: results[entry.key] for entry in entries if entry.key in results}
    if not paired:
        examples = (
            f"{entries[0].name} here, {next(iter(sorted(p.name for p in folder.rglob('*') if p.is_file())))} there"
        )
        raise SourceError(f"--compare {method}={folder}: no name pairs with a picture ({examples})")
    missing = [entry.key for entry in entries if entry.key not in paired]
    if missing and not common:
        raise SourceError(
            f"--compare {method}={folder}: {len(entries)} pictures, {len(paired)} results pair with them; none for "
            f"{few(missing)}. Add what is missing, or --common to evaluate only what every method has"
        )
    return paired


def to_tensor(image: Image.Image) -> Tensor:
    """A picture of any mode as (3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float() / 255


def to_8bit(rgb: Tensor) -> Tensor:
    """The values that a saved file would hold."""
    return (rgb.clamp(0, 1) * 255).round() / 255


def gray_of(rgb: Tensor) -> Tensor:
    """The grey photo, (..., 3, H, W) with three equal channels of 8-bit luminance."""
    return to_8bit(spaces.luminance(rgb)).expand_as(rgb)


def to_image(rgb: Tensor) -> Image.Image:
    """(3, H, W) in [0, 1] as an 8-bit picture."""
    return Image.fromarray((rgb.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy())


def read_truth(entry: Entry, protocol: Protocol) -> tuple[Tensor, tuple[int, int]]:
    """A picture in the protocol's size, (3, H, W), and its own (width, height)."""
    image = entry.load()
    return to_tensor(protocol.fit(image)), image.size


def read_result(entry: Entry, method: str, truth: Tensor, own_size: tuple[int, int], protocol: Protocol) -> Tensor:
    """Another method's result for a truth (3, H, W): of its size, or of the picture's own and then fitted likewise.

    Raises PictureError for any other size.
    """
    image = entry.load()
    wanted = (truth.shape[-1], truth.shape[-2])
    if image.size != wanted and image.size == own_size:
        image = protocol.fit(image)
    if image.size != wanted:
        found, want, own = (f"{w}×{h}" for w, h in (image.size, wanted, own_size))
        also = "" if own == want else f" (or {own}, the picture's own)"
        raise pictures.PictureError(f"{method}: {entry.name} is {found} px, expected {want}{also}")
    return to_tensor(image)
