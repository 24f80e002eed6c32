"""What a command line asks for: where each picture is, where its result goes, and what is already done.

Pictures are files, in folders, or in webdataset shards (see `shard_results`). Results are written to temporary files
and renamed: a result that exists is complete.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from ..errors import CommandError
from ..files import pictures
from ..files.folders import find
from ..files.pictures import WRITABLE, Picture, PictureError
from ..files.shards import Place, ShardError, read_at
from .shard_results import Shard

JOURNAL = "seada-failures.jsonl"


@dataclass(frozen=True)
class Job:
    """A picture to be coloured: where it is, and where its result goes."""

    source: Path
    target: Path
    member: str | None = None  # the name, where `source` is a shard
    place: Place = (0, 0)  # where the picture starts in the shard, and its length in bytes
    shard: int | None = None  # number of the shard in `Plan.shards`

    @property
    def name(self) -> str:
        return str(self.source) if self.member is None else f"{self.source}:{self.member}"

    def read(self, limit: int | None = None) -> Picture:
        """The picture, see `pictures.read`. Raises PictureError where it is not one."""
        if self.member is None:
            return pictures.read(self.source, limit)
        try:
            with open(self.source, "rb") as file:
                encoded = read_at(file, self.place)
        except OSError as error:
            raise PictureError(f"{self.name} cannot be read: {error.strerror}") from error
        return pictures.read_bytes(encoded, self.name, limit)


@dataclass(frozen=True)
class Refused:
    """An input that cannot be coloured, and why."""

    source: Path
    error: str


@dataclass
class Report:
    """The outcome of a job."""

    job: Job
    prompt: str | None = None  # as it was given, otherwise the caption
    scheme: str | None = None
    note: str | None = None
    seconds: float = 0.0
    error: str | None = None
    broken: bool = False  # the error is not specific to this picture: no further one can be coloured


@dataclass
class Plan:
    """What is to be done, what is already done, and what cannot be."""

    pictures: list[Job] = field(default_factory=list)
    shards: list[Shard] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    done: int = 0
    folder: Path | None = None  # where all results go, if that is one folder

    @property
    def todo(self) -> int:
        return len(self.pictures) + sum(shard.todo for shard in self.shards)

    def jobs(self) -> Iterator[Job]:
        """The pictures to be coloured; those of a shard are listed when its turn comes, and never all in memory."""
        yield from self.pictures
        for number, shard in enumerate(self.shards):
            for member, place, target in shard.jobs():
                yield Job(shard.source, target, member, place, number)


def plan(
    inputs: Sequence[Path],
    output: str | None,
    seeds: Sequence[int] = (0,),
    overwrite: bool = False,
    recursive: bool = False,
    unpack: bool = False,
) -> Plan:
    """What is to be done, every picture once. Only shards are read, and nothing is written.

    Args:
        inputs: picture files, shards (`.tar`), or folders of them.
        output: the result's file, or a folder; None for NAME-color beside each input.
        seeds: with several, `target` is a contact sheet and each has a file of its own, see `variant`.
        overwrite: do everything again. Otherwise a picture whose result exists is done; or, where it is the only input,
            refused.
        recursive: also look in subfolders; results keep their tree.
        unpack: a shard's results become a folder of files, not a shard.
    Raises:
        CommandError: OUT does not fit the inputs.
    """
    out = None if output is None else Path(output)
    many = len(inputs) > 1 or inputs[0].is_dir() or _is_shard(inputs[0])
    into = many or (output is not None and (Path(output).is_dir() or output.endswith(("/", os.sep))))
    if len(inputs) == 1 and _is_shard(inputs[0]) and not unpack and out and _is_shard(out) and not out.is_dir():
        into = False  # -o names the shard itself
    if out is not None:
        _check_out(inputs, out, into, recursive)

    result = Plan(folder=out if into else None)
    pairs: dict[Path, tuple[Path, Path]] = {}  # resolved input -> input, output
    for given in inputs:
        try:
            files = find([given], also=(".tar",), recursive=recursive)
        except PictureError as error:
            result.refused.append(Refused(given, str(error)))
            continue
        for file in files:
            suffix = file.suffix if file.suffix.lower() in WRITABLE else ".png"
            if _is_shard(file):
                suffix = "" if unpack else ".tar"
            inside = file.relative_to(given).parent if given.is_dir() else Path()
            if out is not None:
                target = out / inside / f"{file.stem}{suffix}" if into else out
            elif given.is_dir():
                target = given.resolve().parent / f"{given.resolve().name}-color" / inside / f"{file.stem}{suffix}"
            else:
                target = file.with_name(f"{file.stem}-color{suffix}")
            pairs.setdefault(file.resolve(), (file, target))

    taken: dict[Path, Path] = {}
    for file, target in pairs.values():
        paths = [target, *(variant(target, seed) for seed in seeds if len(seeds) > 1)]
        clash = next(filter(None, (_clash(path, pairs, taken) for path in paths)), None)
        if clash is None:
            taken |= dict.fromkeys((path.resolve() for path in paths), file)
        there = [path for path in paths if path.exists()]
        if clash is not None:
            result.refused.append(Refused(file, clash))
        elif _is_shard(file):
            _plan_shard(result, Shard(file, target, not unpack, overwrite), len(seeds))
        elif overwrite or not there:
            result.pictures.append(Job(file, target))
        elif many and there == paths:
            result.done += 1
        else:
            reason = f"{there[0]} exists; use --overwrite to replace it, or choose another -o"
            result.refused.append(Refused(file, reason))
    return result


def _plan_shard(result: Plan, shard: Shard, variants: int) -> None:
    if variants > 1:
        raise CommandError(f"{shard.source} is a shard, whose pictures have one result each; do not use --variants", 2)
    try:
        done, refused = shard.check()
        result.done += done
        result.refused += [Refused(shard.source, error) for error in refused]
        result.shards.append(shard)
    except ShardError as error:
        result.refused.append(Refused(shard.source, str(error)))


def _is_shard(path: Path) -> bool:
    return path.suffix.lower() == ".tar"


def _check_out(inputs: Sequence[Path], out: Path, into: bool, recursive: bool) -> None:
    if into and out.exists() and not out.is_dir():
        raise CommandError(f"{out} is a file; several pictures need a folder", 2)
    if not into and not _is_shard(inputs[0]) and out.suffix.lower() not in WRITABLE:
        found = f"{out.suffix!r}" if out.suffix else "no suffix"
        raise CommandError(f"{out} has {found}; results can be written as {', '.join(WRITABLE)}", 2)
    if not into and not out.parent.is_dir():
        raise CommandError(f"{out.parent} does not exist; make that folder first", 2)
    for given in filter(Path.is_dir, inputs):
        if out.resolve() == given.resolve():
            raise CommandError(f"{out} is the folder of the photos; choose another -o for the results", 2)
        if recursive and given.resolve() in out.resolve().parents:
            problem = f"{out} is in {given}, where --recursive would take results for photos"
            raise CommandError(f"{problem}; choose a folder outside it", 2)


def _clash(path: Path, inputs: Container[Path], taken: dict[Path, Path]) -> str | None:
    """Why a path cannot be a result; None if it can."""
    resolved = path.resolve()
    if resolved in inputs:
        return f"{path} is an input, which a result would replace; choose another -o"
    if resolved in taken:
        return f"{path} is already the result of {taken[resolved]}; colour them into different folders"
    return None


def variant(target: Path, seed: int) -> Path:
    """Where the result of one of several seeds goes."""
    return target.with_name(f"{target.stem}-seed{seed}{target.suffix}")


def chunks(jobs: Iterable[Job], size: int) -> Iterator[list[Job]]:
    """`jobs` in lists of `size`, the last one shorter."""
    jobs = iter(jobs)
    while chunk := list(islice(jobs, size)):
        yield chunk


class Journal:
    """The failures of a run, one per JSON line, in the results' folder once it exists; an earlier run's are removed."""

    def __init__(self, folder: Path | None):
        self.path = None if folder is None else folder / JOURNAL
        self.failures: list[str] = []
        self._unwritten: list[str] = []
        if self.path is not None and self.path.is_file():
            self.path.unlink()

    def add(self, name: str, error: str) -> None:
        self.failures.append(error)
        self._unwritten.append(json.dumps({"input": name, "error": error}) + "\n")
        self.write()

    def write(self) -> None:
        """Write what has not been written yet."""
        if self.path is None or not self._unwritten or not self.path.parent.is_dir():
            return
        with contextlib.suppress(OSError):  # on a full disk there is still the list at the end
            with open(self.path, "a", encoding="utf-8") as file:
                file.writelines(self._unwritten)
            self._unwritten = []
