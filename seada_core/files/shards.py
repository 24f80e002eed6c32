"""Reading webdataset shards: uncompressed tar files, whose members are grouped into samples by their names.

A sample is a run of members whose names agree up to the first dot, the key: `0001.jpg`, `0001.json`. Only headers are
read here; the members' bytes are read by `read_at`.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

Place = tuple[int, int]  # where in a shard something starts, and its length, in bytes

_MEMBER = re.compile(r"((?:.*/)?[^./][^/.]*)\.([^/]+)")  # webdataset's: the key ends at the first dot of the name
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}")
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")  # gzip, bzip2, xz, zstd


class ShardError(ValueError):
    """A shard that cannot be read to its end; the message names it and the `reason`."""

    def __init__(self, message: str, reason: str = ""):
        super().__init__(message)
        self.reason = reason or message


def find(source: str | Path) -> list[Path]:
    """The shards that a source names: a file, the `.tar` files of a folder (none in a folder of pictures), or patterns
    such as `data-{000..007}.tar` and `data-{a,b}.tar`, joined by `::`. They need not exist."""
    path = Path(source)
    if path.is_dir():
        return sorted(path.glob("*.tar"))
    if path.is_file():
        return [path]
    parts = [Path(name) for part in str(source).split("::") for name in expand_braces(part)]
    return [shard for part in parts for shard in (sorted(part.glob("*.tar")) if part.is_dir() else [part])]


def expand_braces(pattern: str) -> list[str]:
    """Brace expansion as in bash: `{000..007}` is a range, in either direction and with leading zeros, and `{a,b}` a
    list. Nested braces are not expanded in bash's order."""
    match = _BRACES.search(pattern)
    if match is None:
        return [pattern]
    first, last, listed = match.groups()
    if listed is not None:
        choices = listed.split(",")
    else:
        padded = any(len(number) > 1 and number[0] == "0" for number in (first, last))
        width = max(len(first), len(last)) if padded else 0
        step = 1 if int(first) <= int(last) else -1
        choices = [f"{number:0{width}}" for number in range(int(first), int(last) + step, step)]
    before, after = pattern[: match.start()], pattern[match.end() :]
    return [name for choice in choices for name in expand_braces(before + choice + after)]


def samples(shard: Path) -> Iterator[tuple[str, dict[str, Place]]]:
    """(key, members) of each sample in order; members map names to places.

    Raises ShardError after the last readable sample if the shard is damaged: it is not a tar, a member is truncated,
    or there is data behind a broken header, which tar readers mistake for the end.
    """
    key = ""
    members: dict[str, Place] = {}
    try:
        length = shard.stat().st_size
        with open(shard, "rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for info in tar:
                tar.members = []  # type: ignore[attr-defined]  # tarfile would keep them all in memory
                if info.size < 0 or info.offset_data + info.size > length:
                    raise EOFError(f"{info.name} is cut off")
                match = _MEMBER.fullmatch(info.name) if info.isfile() else None
                if match is None:
                    continue
                if match[1] != key and members:
                    yield key, members
                    members = {}
                key = match[1]
                members[info.name] = (info.offset_data, info.size)
            if _has_data_after(file, tar.offset):
                raise ValueError(f"no member's header at byte {tar.offset}, and data behind it")
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError, MemoryError) as error:  # absurd sizes
        if members:
            yield key, members
        reason = _reason(shard, error)
        raise ShardError(f"{shard} is not an uncompressed tar, or is damaged or cut short: {reason}", reason) from error
    if members:
        yield key, members


def _has_data_after(file: BinaryIO, end: int) -> bool:
    file.seek(end)
    while chunk := file.read(1 << 20):
        if chunk.strip(b"\0"):
            return True
    return False


def _reason(shard: Path, error: Exception) -> str:
    try:
        with open(shard, "rb") as file:
            if file.read(6).startswith(_COMPRESSED):
                return "it is compressed; unpack it to a plain .tar"
    except OSError:
        pass
    return str(getattr(error, "strerror", None) or error)


def suffix_of(key: str, name: str) -> str:
    """The rest of a member's name after its sample's key, in lower case: "jpg", "mask.png"."""
    return name[len(key) + 1 :].lower()


def read_at(file: BinaryIO, place: Place) -> bytes:
    """The bytes of a member."""
    file.seek(place[0])
    return file.read(place[1])
