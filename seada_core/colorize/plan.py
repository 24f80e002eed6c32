"""What a command line asks for: where each picture is, where its result goes, and what is already done.

Pictures are files, in folders, or in webdataset shards (see `shard_results`). Results are written to temporary files
and renamed: a result that exists is complete.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path
from urllib.parse import unquote

from ..errors import CommandError, reason
from ..files import pictures
from ..files.folders import Skipped, nothing_in, search
from ..files.picture import Picture, PictureError
from ..files.pictures import WRITABLE
from ..files.shards import Place, ShardError, read_at
from .shard_results import Shard

JOURNAL = "seada-failures.jsonl"
LONGEST_NAME, LONGEST_PATH = 255, 4095  # bytes


@dataclass(frozen=True)
class Job:
    """A picture to be coloured: where it is, and where its result goes."""

    source: Path
    target: Path
    member: str | None = None  # the name, where `source` is a shard
    place: Place = (0, 0)  # where the picture starts in the shard, and its length in bytes
    shard: int | None = None  # number of the shard in `Plan.shards`
    page: int | None = None  # which picture of a file that has several, from 0

    @property
    def name(self) -> str:
        if self.page is not None:
            return f"{self.source}, page {self.page + 1}"
        return str(self.source) if self.member is None else f"{self.source}:{self.member}"

    def read(self, limit: int | None = None, partial: bool = False) -> Picture:
        """The picture, see `pictures.read`. Raises PictureError where it is not one."""
        if self.member is None:
            return pictures.read(self.source, limit, self.page, partial)
        try:
            with open(self.source, "rb") as file:
                encoded = read_at(file, self.place)
        except OSError as error:
            raise PictureError(f"{self.name} cannot be read: {error.strerror}") from error
        return pictures.read_bytes(encoded, self.name, limit, partial)


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
    notes: list[str] = field(default_factory=list)  # what was assumed, or is lost
    seconds: float = 0.0
    error: str | None = None
    broken: bool = False  # the error is not specific to this picture: no further one can be coloured


@dataclass
class Plan:
    """What is to be done, what is already done, and what cannot be."""

    pictures: list[Job] = field(default_factory=list)
    shards: list[Shard] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)  # what folders hold besides pictures
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
    pages: bool = False,
) -> Plan:
    """What is to be done, every picture once. Only shards and the number of pages are read, and nothing is written.

    Args:
        inputs: picture files, shards (`.tar`), or folders of them.
        output: the result's file, or a folder; None for NAME-color beside each input.
        seeds: with several, `target` is a contact sheet and each has a file of its own, see `variant`.
        overwrite: do everything again. Otherwise a picture whose result exists is done; or, where it is the only input,
            refused.
        recursive: also look in subfolders; results keep their tree.
        unpack: a shard's results become a folder of files, not a shard.
        pages: colour each picture of files that have several, into a file each, see `paged`.
    Raises:
        CommandError: OUT does not fit the inputs.
    """
    out = None if output is None else Path(output)
    if out is not None and _too_long(out):
        raise CommandError(f"{str(out)[:60]}... is longer than a file's name can be; choose a shorter -o", 2)
    problems = {given: problem for given in inputs if (problem := _no_file(given))}
    readable = [given for given in inputs if given not in problems]
    many = len(inputs) > 1 or any(map(Path.is_dir, readable)) or any(map(_is_shard, readable))
    into = many or (output is not None and (Path(output).is_dir() or output.endswith(("/", os.sep))))
    if len(inputs) == 1 and _is_shard(inputs[0]) and not unpack and out and _is_shard(out) and not out.is_dir():
        into = False  # -o names the shard itself
    if out is not None and output is not None and readable:
        _check_out(readable, out, into, recursive, output.endswith(("/", os.sep)))

    result = Plan(folder=out if into else None)
    result.refused += [Refused(given, problem) for given, problem in problems.items()]
    pairs: dict[Path, tuple[Path, Path]] = {}  # resolved input -> input, output
    for given in readable:
        try:
            found = search([given], also=(".tar",), recursive=recursive)
        except PictureError as error:
            result.refused.append(Refused(given, str(error)))
            continue
        result.skipped += found.skipped
        if not found.files:
            result.refused.append(Refused(given, nothing_in(given, found.skipped)))
        for file in found.files:
            suffix = file.suffix if file.suffix.lower() in WRITABLE else ".png"
            if _is_shard(file):
                suffix = "" if unpack else ".tar"
            inside = file.relative_to(given).parent if given.is_dir() else Path()
            if out is not None:
                target = out / inside / named(file.stem, suffix, seeds) if into else out
            elif given.is_dir():
                folder = given.resolve().parent / named(given.resolve().name, "-color")
                target = folder / inside / named(file.stem, suffix, seeds)
            else:
                target = file.with_name(named(file.stem, f"-color{suffix}", seeds))
            pairs.setdefault(file.resolve(), (file, target))

    taken: dict[Path, Path] = {}
    unwritable = lru_cache(_unwritable)
    for file, target, page in _pages(pairs.values()) if pages else ((*pair, None) for pair in pairs.values()):
        paths = [target, *(variant(target, seed) for seed in seeds if len(seeds) > 1)]
        clash = next(filter(None, (_clash(path, pairs, taken) for path in paths)), None)
        if clash is None:
            taken |= dict.fromkeys((path.resolve() for path in paths), file)
        there = [path for path in paths if path.exists()]
        if problem := clash or (None if out else unwritable(target.parent)):
            result.refused.append(Refused(file, problem))
        elif _is_shard(file):
            _plan_shard(result, Shard(file, target, not unpack, overwrite), len(seeds))
        elif overwrite or not there:
            result.pictures.append(Job(file, target, page=page))
        elif (many or page is not None) and there == paths:
            result.done += 1
        else:
            problem = f"{there[0]} exists; use --overwrite to replace it, or choose another -o"
            result.refused.append(Refused(file, problem))
    return result


def _pages(pairs: Iterable[tuple[Path, Path]]) -> Iterator[tuple[Path, Path, int | None]]:
    """(file, target, page) of each picture in files; None for the page of a file that has one."""
    for file, target in pairs:
        count = 1 if _is_shard(file) or not file.is_file() else pictures.page_count(file)
        for page in range(count):
            yield (file, paged(target, page), page) if count > 1 else (file, target, None)


def paged(target: Path, page: int) -> Path:
    """Where the result of one of several pages goes, counted from 1 in its name."""
    return target.with_name(named(target.stem, f"-page{page + 1}{target.suffix}"))


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


def _no_file(path: Path) -> str | None:
    """Why a path cannot be that of a picture, with the way out; None if it can."""
    text = str(path)
    if _too_long(path):
        return f"{text[:60]}... is longer than a file's name can be"
    if os.path.lexists(path):
        return None
    if text == "-":
        return "- is not read: save the picture of standard input to a file, and name that"
    if re.match(r"(?:https?|ftp|s3|gs):/", text):
        return f"{text} is an address: download the picture, and name the file"
    if text.startswith("file:/"):
        return f"{text} is an address: name the file itself, {unquote(re.sub('^file:/+', '/', text))}"
    if set(text) & set("*?["):
        return f"{text} is not a file: shells expand such patterns only outside quotes; or name the folder"
    return None


def _too_long(path: Path) -> bool:
    return any(len(os.fsencode(part)) > LONGEST_NAME for part in path.parts) or len(os.fsencode(path)) > LONGEST_PATH


def _check_out(inputs: Sequence[Path], out: Path, into: bool, recursive: bool, folder_named: bool) -> None:
    for folder in out.parents:
        if folder.exists() and not folder.is_dir():
            raise CommandError(f"{folder} is a file, so {out} cannot be in it; choose another -o", 2)
    if into and out.exists() and not out.is_dir():
        raise CommandError(f"{out} is a file; several pictures need a folder", 2)
    if into and not (out.exists() or folder_named) and out.suffix.lower() in (*WRITABLE, ".tar"):
        raise CommandError(f"{out} names one file; several pictures need a folder, such as {out.with_suffix('')}", 2)
    if not into and not _is_shard(inputs[0]) and out.suffix.lower() not in WRITABLE:
        found = f"{out.suffix!r}" if out.suffix else "no suffix"
        raise CommandError(f"{out} has {found}; results can be written as {', '.join(WRITABLE)}", 2)
    if not into and not out.parent.is_dir():
        raise CommandError(f"{out.parent} does not exist; make that folder first", 2)
    if problem := _unwritable(out if into else out.parent):
        raise CommandError(problem)
    for given in filter(Path.is_dir, inputs):
        if out.resolve() == given.resolve():
            raise CommandError(f"{out} is the folder of the photos; choose another -o for the results", 2)
        if recursive and given.resolve() in out.resolve().parents:
            problem = f"{out} is in {given}, where --recursive would take results for photos"
            raise CommandError(f"{problem}; choose a folder outside it", 2)


def _unwritable(folder: Path) -> str | None:
    """Why no file can be made in a folder, or in the nearest one above it that exists; None if one can."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):  # permissions alone do not tell, on network and read-only disks
            return None
    except OSError as error:
        return f"cannot write in {folder}: {reason(error)}; choose another folder with -o"


def _clash(path: Path, inputs: Container[Path], taken: dict[Path, Path]) -> str | None:
    """Why a path cannot be a result; None if it can."""
    resolved = path.resolve()
    if resolved in inputs:
        return f"{path} is an input, which a result would replace; choose another -o"
    if resolved in taken:
        return f"{path} is already the result of {taken[resolved]}; colour them into different folders"
    return None


def named(stem: str, ending: str, seeds: Sequence[int] = ()) -> str:
    """A file's name, the stem shortened where a file system could not take the name, or that of a `variant`."""
    room = LONGEST_NAME - len(os.fsencode(ending)) - (len(f"-seed{seeds[-1]}") if len(seeds) > 1 else 0)
    return (
        os.fsencode(stem)[:room].decode("utf-8", "ignore") + ending if len(os.fsencode(stem)) > room else stem + ending
    )


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
