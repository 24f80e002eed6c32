"""The results of a webdataset shard: a shard with the same keys, or a folder of pictures.

Results are collected in a folder next to the target, and packed in the shard's order when all are done, so that an
interrupted run can be continued.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from ..files import atomic, shards
from ..files.formats import SUFFIXES
from ..files.pictures import WRITABLE
from ..files.shards import Place, ShardError, read_at


@dataclass(frozen=True)
class Sample:
    """A shard's sample: its members, its photo and the name of the photo's result; or why it cannot have one."""

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
        """The folder of results that are not yet packed."""
        return atomic.part_path(self.target, ending="work") if self.packed else self.target

    def check(self) -> tuple[int, list[str]]:
        """Read the shard's headers and set `todo`; returns how many pictures are done, and why others cannot be.

        Raises ShardError where no picture of the shard can be coloured.
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
            problem = f"{self.target} holds {min(foreign)}, which is not a result of {self.source}"
            raise ShardError(f"{problem}; choose another -o, or use --overwrite")
        return done, refused

    def jobs(self) -> Iterator[tuple[str, Place, Path]]:
        """(member, its place, result) of each picture that is still to be coloured."""
        finished = self._finished()
        if self.packed and self.overwrite:
            shutil.rmtree(self.work, ignore_errors=True)
        with contextlib.suppress(ShardError):  # `check` has reported it
            for sample in self.samples():
                if not sample.error and not self._is_done(sample, finished):
                    yield sample.photo, sample.members[sample.photo], self.work / sample.result

    def samples(self) -> Iterator[Sample]:
        """All samples in order. Raises ShardError after the last readable one of a damaged shard."""
        keys: set[str] = set()
        for key, members in shards.samples(self.source):
            sample = _sample(key, members)
            if key in keys:
                sample = Sample(members, error=f"the key {key!r} is there twice, and both would have one result")
            keys.add(key)
            yield sample

    def pack(self) -> None:
        """Write all results into the target, with its present contents and the samples' other members, and remove the
        folder `work`. Does nothing without results, or where results stay files.

        Raises OSError, with all results still in `work`.
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
        """The members of the target, if it is a shard that is not overwritten."""
        if not self.packed or self.overwrite or not self.target.is_file():
            return {}
        return {name: place for _, members in shards.samples(self.target) for name, place in members.items()}

    def _is_done(self, sample: Sample, finished: dict[str, Place]) -> bool:
        return not self.overwrite and (sample.result in finished or (self.work / sample.result).is_file())


def _sample(key: str, members: dict[str, Place]) -> Sample:
    photos = [name for name in members if _is_picture(name)]
    # `1.jpg` is the photo of a sample that has a `1.mask.png` too
    photos = [name for name in photos if name.count(".", len(key) + 1) == 0] or photos
    if len(photos) != 1:
        found = f"{len(photos)} pictures ({', '.join(photos[:3])})" if photos else "no picture"
        return Sample(members, error=f"sample {key!r} has {found}; one is needed")
    path = PurePosixPath(photos[0])
    if path.is_absolute() or ".." in path.parts:
        return Sample(members, error=f"{photos[0]!r} is a path outside the results' folder")
    result = path if path.suffix.lower() in WRITABLE else path.with_suffix(".png")
    return Sample(members, photos[0], str(result))


def _is_picture(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in SUFFIXES


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)  # no time and owner, so that the same results make the same shard
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))
