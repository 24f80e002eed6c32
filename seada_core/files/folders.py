"""Finding picture files in folders."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import reason
from .formats import FOREIGN, SUFFIXES
from .picture import PictureError

LINK, BROKEN, FOLDER = "linked folder", "broken link", "folder"
HELP = {
    LINK: "links to folders are not followed; name the folder itself",
    BROKEN: "what it links to does not exist",
    FOLDER: "use --recursive for what is in it",
}


@dataclass(frozen=True)
class Skipped:
    """A folder's entry that is not taken: `kind` is a suffix, or one of LINK, BROKEN and FOLDER."""

    path: Path
    kind: str

    @property
    def help(self) -> str:
        """Why, and the way out; empty for files that are not pictures."""
        if self.kind in FOREIGN:
            return f"{FOREIGN[self.kind][0]} is not read: {FOREIGN[self.kind][1]}"
        return HELP.get(self.kind, "")


@dataclass
class Found:
    """The picture files of some paths, and what else was in the folders among them; hidden files do not count."""

    files: list[Path] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)


def find(paths: Sequence[str | os.PathLike], also: Collection[str] = (), recursive: bool = False) -> list[Path]:
    """The files of `search`. Raises PictureError where that does, and for folders without pictures."""
    found = search(paths, also, recursive)
    if not found.files:
        raise PictureError(nothing_in(paths[0], found.skipped))
    return found.files


def nothing_in(path: str | os.PathLike, skipped: Iterable[Skipped]) -> str:
    """That a folder has no pictures, and what it has."""
    there = f"; it has {counted(skipped)}" if skipped else f" (looked for {' '.join(sorted(SUFFIXES))})"
    return f"no pictures in {path}{there}"


def search(paths: Sequence[str | os.PathLike], also: Collection[str] = (), recursive: bool = False) -> Found:
    """The picture files that `paths` name: files unchanged (even missing ones, which `read` reports), folders as the
    sorted picture files in them, without duplicates.

    Args:
        also: suffixes besides those of pictures.
        recursive: also search subfolders; hidden ones are skipped.
    Raises:
        PictureError: a folder that cannot be read.
    """
    found: dict[Path, None] = {}
    skipped: list[Skipped] = []
    for path in map(Path, paths):
        if not path.is_dir():
            found[path] = None
            continue
        inside = []
        for entry in _entries(path, recursive):
            if isinstance(entry, Skipped):
                skipped.append(entry)
            elif entry.suffix.lower() in SUFFIXES or entry.suffix.lower() in also:
                inside.append(entry)
            else:
                skipped.append(Skipped(entry, entry.suffix.lower() or "without a suffix"))
        found.update(dict.fromkeys(sorted(inside)))
    return Found(list(found), sorted(skipped, key=lambda one: one.path))


def counted(skipped: Iterable[Skipped]) -> str:
    """How many of each kind were skipped, in words: "2 .pdf, 1 linked folder"."""
    counts = Counter(one.kind for one in skipped)
    return ", ".join(
        f"{count} {kind}{'s' if count > 1 and kind in HELP else ''}"
        for kind, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    )


def _entries(folder: Path, recursive: bool) -> Iterator[Path | Skipped]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                path = Path(entry.path)
                if entry.name.startswith("."):
                    continue
                if entry.is_file():
                    yield path
                elif entry.is_dir() and recursive and not entry.is_symlink():
                    yield from _entries(path, recursive)
                elif entry.is_dir():
                    yield Skipped(path, LINK if recursive else FOLDER)
                elif entry.is_symlink():
                    yield Skipped(path, BROKEN)
                else:
                    yield Skipped(path, entry.name)
    except OSError as error:
        raise PictureError(f"{folder} cannot be read: {reason(error)}") from error
