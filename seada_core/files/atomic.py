"""Atomic writes: a kill, a power cut or a full disk never leaves half a file.

A file is written under a temporary name in the same folder, flushed to the disk, and then renamed in one step. After
any interruption the name refers to the old file or to the complete new one.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_KEPT = 100  # bytes of a name that its temporary name repeats: file systems allow 255, some 143
_NO_FSYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)  # file systems that cannot flush a folder


def part_path(target: Path, unique: bool = False, ending: str = "part") -> Path:
    """The temporary name beside `target`: `.NAME.part`; long names are truncated and made distinct by a hash.

    The name is the same for every writer, so that a new attempt replaces the remains of a killed one. `unique` makes
    it different every time, for targets that several processes may write at once.
    """
    name = os.fsencode(target.name)
    mark = secrets.token_hex(4) if unique else ""
    if len(name) > _KEPT and not unique:
        mark = hashlib.blake2b(name, digest_size=4).hexdigest()
    kept = target.name if len(name) <= _KEPT else name[:_KEPT].decode("utf-8", "ignore")
    return target.with_name(".".join(["", kept, *filter(None, [mark]), ending]))


@contextlib.contextmanager
def replacing(target: Path, unique: bool = False, durable: bool = True) -> Iterator[Path]:
    """A path to write a file or folder to; at the end of the block it is renamed to `target`, see `rename`.

    On an error it is deleted, and `target` is unchanged.
    """
    part = part_path(target, unique)
    try:
        yield part
        rename(part, target, durable)
    except BaseException:
        discard(part)
        raise


@contextlib.contextmanager
def opened(target: Path, unique: bool = False, durable: bool = True) -> Iterator[BinaryIO]:
    """A file to write bytes to, renamed to `target` at the end of the block, see `replacing`."""
    with replacing(target, unique, durable) as part, open(part, "wb") as file:
        yield file


@contextlib.contextmanager
def new_folder(target: Path, overwrite: bool = False) -> Iterator[Path]:
    """An empty folder to write into, renamed to `target` at the end of the block, see `replacing`.

    overwrite: replace whatever has that name. Otherwise a folder that is not empty raises OSError.
    """
    old = part_path(target, ending="old")
    try:
        with replacing(target) as part:
            discard(part)
            part.mkdir(parents=True)
            yield part
            if overwrite and target.exists():
                discard(old)
                os.replace(target, old)
    except BaseException:
        if overwrite and old.exists() and not target.exists():
            os.replace(old, target)
        raise
    if overwrite:
        discard(old)


def write_text(target: Path, text: str) -> None:
    """Write a text file (UTF-8), see `replacing`."""
    with opened(target) as file:
        file.write(text.encode())


def rename(part: Path, target: Path, durable: bool = True) -> None:
    """Rename a written file or folder, once all of it is on the disk.

    durable: also flush the name. Otherwise a power cut within seconds may undo the renaming, but never damages a file.
    """
    for path in (*part.rglob("*"), part) if part.is_dir() else (part,):
        _to_disk(path)
    os.replace(part, target)
    if durable:
        _to_disk(target.parent)


def discard(part: Path) -> None:
    """Delete a temporary file or folder if it exists, ignoring errors."""
    if part.is_dir():
        shutil.rmtree(part, ignore_errors=True)
        return
    with contextlib.suppress(OSError):
        if part.exists():
            part.unlink()


def _to_disk(path: Path) -> None:
    folder = path.is_dir()
    if folder and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not folder or error.errno not in _NO_FSYNC:
            raise
    finally:
        os.close(descriptor)
