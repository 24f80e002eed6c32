"""Writing to disk: one-line errors for full disks, arrays allocated in advance, logs with a line per step."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from safetensors import SafetensorError

from ..files import atomic

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
TORCH_SAVE = ("PytorchStreamWriter", "inline_container.cc", "iostream error")  # in what torch.save raises


class DiskError(OSError):
    """Something could not be written; the message says what, why, and what to do."""


@contextlib.contextmanager
def writing(what: Path | str, kept: Callable[[], str] = str) -> Iterator[None]:
    """Turn the errors of a full disk while `what` is written into a `DiskError`; its message ends with `kept()`.

    safetensors and torch raise errors of their own, which do not mention the disk.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise DiskError(f"cannot write {what}: {error.strerror}; make room. {kept()}".rstrip()) from error
    except (SafetensorError, RuntimeError) as error:
        if not isinstance(error, SafetensorError) and not any(name in str(error) for name in TORCH_SAVE):
            raise
        reason = str(error).splitlines()[0].rstrip(". ")
        raise DiskError(f"cannot write {what}: {reason}; is the disk full? {kept()}".rstrip()) from error


def create_array(path: Path, dtype: type, shape: tuple[int, ...]) -> np.memmap:
    """A new memory-mapped .npy file with its disk space allocated: without that, a full disk would raise SIGBUS.

    Raises:
        OSError: the disk has too little space.
    """
    array = np.lib.format.open_memmap(path, "w+", dtype, shape)
    if hasattr(os, "posix_fallocate"):
        with open(path, "r+b") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
            except OSError as error:
                if error.errno in FULL:  # other errors: the file system cannot allocate
                    raise
    return array


def discard(folder: Path) -> None:
    """Delete a folder, renamed first, so that no half-deleted folder has its name."""
    part = folder.with_name(folder.name + ".part")
    if folder.suffix != ".part":
        shutil.rmtree(part, ignore_errors=True)
        folder.rename(part)
        folder = part
    shutil.rmtree(folder, ignore_errors=True)


class StepLog:
    """A file with a JSON line per step, each with its `step`; a resumed run appends to it.

    Lines of steps past `last`, which the run repeats, and one that a kill cut short are dropped first.
    """

    def __init__(self, path: Path, last: int):
        kept = []
        if path.is_file():
            for line in path.read_text("utf-8").splitlines():
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue
                if entry["step"] <= last:
                    kept.append(line + "\n")
        atomic.write_text(path, "".join(kept))
        self.file = open(path, "a", encoding="utf-8")  # noqa: SIM115

    def write(self, step: int, **values: float | None) -> None:
        self.file.write(json.dumps({"step": step, **values}) + "\n")
        self.file.flush()

    def close(self) -> None:
        self.file.close()
