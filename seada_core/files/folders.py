"""Finding picture files in folders."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from ..errors import reason
from .pictures import SUFFIXES, PictureError


def find(paths: Sequence[str | os.PathLike], also: Collection[str] = (), recursive: bool = False) -> list[Path]:
    """The picture files that `paths` name: files unchanged (even missing ones, which `read` reports), folders as the
    sorted picture files in them, without duplicates.

    Args:
        also: suffixes besides those of pictures.
        recursive: also search subfolders; hidden ones are skipped.
    Raises:
        PictureError: a folder without pictures, or one that cannot be read.
    """
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        if not path.is_dir():
            found[path] = None
            continue
        inside = [p for p in _files(path, recursive) if p.suffix.lower() in SUFFIXES or p.suffix.lower() in also]
        if not inside:
            raise PictureError(f"no pictures in {path} (looked for {' '.join(sorted(SUFFIXES))})")
        found.update(dict.fromkeys(sorted(inside)))
    return list(found)


def _files(folder: Path, recursive: bool) -> Iterator[Path]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_file():
                    yield Path(entry.path)
                elif recursive and entry.is_dir(follow_symlinks=False):
                    yield from _files(Path(entry.path), recursive)
    except OSError as error:
        raise PictureError(f"{folder} cannot be read: {reason(error)}") from error
