"""Webdataset shards of photos (uncompressed tar): what is in them, and the shards of their results.

A shard's results gather in a folder beside its target, and are packed when none is left to do, in the shard's order; so
a run that was broken off goes on where it was.
"""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from . import atomic

_MEMBER = re.compile(r"((?:.*/)?[^./][^/.]*)\.([^/]+)")  # webdataset's: the key ends at the first dot of the name
Place = tuple[int, int]  # where in a shard something starts, and its length, in bytes


class ShardError(ValueError):
    """A shard that cannot be read, or not to its end; the message names it and the reason."""


@dataclass(frozen=True)
class Sample:
    """A shard's sample: its members, and its photo and the name of that one's result, or why it has none."""

    members: dict[str, Place]
    photo: str = ""
    result: str = ""
    error: str | None = None


@dataclass
class Shard:
    """A webdataset shard and its result: a shard with the same keys, or a folder of pictures."""

    source: Path
    target: Path
    packed: bool = True
    overwrite: bool = False
    todo: int = 0  # pictures to be coloured, as `check` found

    @property
    def work(self) -> Path:
        """The folder where results lie until they are packed."""
        return atomic.part_path(self.target, ending="work") if self.packed else self.target

    def check(self) -> tuple[int, list[str]]:
        """Look through the shard: sets `todo`, gives how many pictures are done, and what cannot be done and why.

        Raises ShardError where nothing of the shard can be done.
        """
        if self.target.exists() and self.target.is_dir() == self.packed:
            what = "a folder, and a shard's result is a file" if self.packed else "a file, and --unpack needs a folder"
            raise ShardError(f"{self.target} is {what}; choose another -o")
        finished, done, refused = self._finished(), 0, []
        foreign = {name for name in finished if _is_picture(name)}
        try:
            for sample in self.samples():
                foreign -= {sample.result, *sample.members}
                if sample.error:
                    refused.append(f"{self.source}: {sample.error}")
                elif self._is_done(sample, finished):
                    done += 1
                else:
                    self.todo += 1
        except ShardError as error:
            if self.todo + done == 0:
                raise
            refused.append(str(error))
        if foreign:
            problem = f"{self.target} holds {min(foreign)}, which is no result of {self.source}"
            raise ShardError(f"{problem}; choose another -o, or use --overwrite")
        return done, refused

    def jobs(self) -> Iterator[tuple[str, Place, Path]]:
        """(member, its place, result) of each picture that `check` found to be done."""
        finished = self._finished()
        if self.packed and self.overwrite:
            shutil.rmtree(self.work, ignore_errors=True)
        with contextlib.suppress(ShardError):  # `check` has reported it
            for sample in self.samples():
                if not sample.error and not self._is_done(sample, finished):
                    yield sample.photo, sample.members[sample.photo], self.work / sample.result

    def samples(self) -> Iterator[Sample]:
        """All samples in order. Raises ShardError where the shard ends badly, after what came before that."""
        keys: set[str] = set()
        for key, members in _grouped(self.source):
            sample = _sample(key, members)
            if key in keys:
                sample = Sample(members, error=f"the key {key!r} is there twice, and both would have one result")
            keys.add(key)
            yield sample

    def pack(self) -> None:
        """Put all results into the target, beside what it holds already and the samples' other members, and remove
        the folder they lay in. Does nothing for a shard whose results are files, or where there are none.

        Raises OSError, with all results still where they were.
        """
        if not self.packed or not self.work.is_dir():
            return
        finished = self._finished()
        with (
            atomic.opened(self.target) as file,
            open(self.source, "rb") as source,
            tarfile.open(fileobj=file, mode="w") as tar,
            contextlib.suppress(ShardError),
        ):
            for sample in self.samples():
                self._pack_sample(tar, sample, source, finished)
        shutil.rmtree(self.work)

    def _pack_sample(self, tar: tarfile.TarFile, sample: Sample, source: BinaryIO, finished: dict[str, Place]) -> None:
        result = self.work / sample.result
        if sample.error:
            return
        if result.is_file():
            _add(tar, sample.result, result.read_bytes())
        elif sample.result in finished:
            with open(self.target, "rb") as before:
                _add(tar, sample.result, read_at(before, finished[sample.result]))
        else:
            return
        for name, place in sample.members.items():
            if name != sample.photo:
                _add(tar, name, read_at(source, place))

    def _finished(self) -> dict[str, Place]:
        """The members of the target, where it is a shard that is kept."""
        if not self.packed or self.overwrite or not self.target.is_file():
            return {}
        return {name: place for _, members in _grouped(self.target) for name, place in members.items()}

    def _is_done(self, sample: Sample, finished: dict[str, Place]) -> bool:
        return not self.overwrite and (sample.result in finished or (self.work / sample.result).is_file())


def _grouped(shard: Path) -> Iterator[tuple[str, dict[str, Place]]]:
    """(key, members) of each sample of a tar: members that follow each other and agree up to the name's first dot."""
    key, members = None, {}
    try:
        length = shard.stat().st_size
        with tarfile.open(shard, "r:") as tar:
            for info in tar:
                tar.members = []  # it would keep them all
                if info.size < 0 or info.offset_data + info.size > length:
                    raise EOFError(f"{info.name} has no end")
                match = _MEMBER.fullmatch(info.name) if info.isfile() else None
                if match is None:
                    continue
                if match[1] != key and members:
                    yield key, members
                    members = {}
                key = match[1]
                members[info.name] = (info.offset_data, info.size)
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError, MemoryError) as error:  # of wild sizes
        if members:
            yield key, members
        reason = getattr(error, "strerror", None) or error
        raise ShardError(f"{shard} is no uncompressed tar, or is damaged or cut short: {reason}") from error
    if members:
        yield key, members


def _sample(key: str, members: dict[str, Place]) -> Sample:
    from .pictures import WRITABLE

    photos = [name for name in members if _is_picture(name)]
    # `1.jpg` is the photo of a sample that has a `1.mask.png` too
    photos = [name for name in photos if name.count(".", len(key) + 1) == 0] or photos
    if len(photos) != 1:
        found = f"{len(photos)} pictures ({', '.join(photos[:3])})" if photos else "no picture"
        return Sample(members, error=f"sample {key!r} has {found}; one is needed")
    path = PurePosixPath(photos[0])
    if path.is_absolute() or ".." in path.parts:
        return Sample(members, error=f"{photos[0]!r} would lead out of the results' folder")
    result = path if path.suffix.lower() in WRITABLE else path.with_suffix(".png")
    return Sample(members, photos[0], str(result))


def _is_picture(name: str) -> bool:
    from .pictures import SUFFIXES

    return PurePosixPath(name).suffix.lower() in SUFFIXES


def read_at(file: BinaryIO, place: Place) -> bytes:
    file.seek(place[0])
    return file.read(place[1])


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)  # no time and no owner: the same results make the same shard
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))
