"""Reading training pictures: folders and webdataset shards, or a share of them; unreadable ones are counted."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..files import shards

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
MOST_BROKEN = 0.1  # share of the pictures that may be unreadable
FEW = 20  # unreadable pictures that are reported one by one; beyond them, reading stops once `MOST_BROKEN` is exceeded


class DataError(ValueError):
    """The training data cannot be used; the message says what to do."""


@dataclass
class Tally:
    """Counts of a source's pictures; `log` gets a line for each of the first `FEW` pictures that are skipped."""

    source: str
    log: Callable[[str], None] = print
    read: int = 0
    left_out: int = 0
    without_captions: int = 0
    cut_short: list[str] = field(default_factory=list)

    def add(self, record: dict) -> None:
        self.read += 1
        self.without_captions += not any(record.get("captions") or ())

    def skip(self, key: str, error: Exception | str) -> None:
        """Count an unreadable picture. Raises DataError where there are too many."""
        self.left_out += 1
        if self.left_out <= FEW:
            self.log(f"skipped {key}: {error}")
        if self.left_out > FEW and self.left_out > MOST_BROKEN * (self.read + self.left_out):
            self.finish()

    def cut(self, shard: str, reason: str) -> None:
        self.cut_short.append(shard)
        self.log(f"{shard} is cut short ({reason}): the rest of it is skipped")

    def finish(self) -> None:
        """Check the counts and report them.

        Raises:
            DataError: nothing was read, or more than one picture in ten was unreadable.
        """
        if not self.read and not self.left_out:
            raise DataError(f"{self.source}: no pictures")
        if self.left_out * 10 > self.read:
            raise DataError(
                f"{self.source}: {self.read} pictures could be read and {self.left_out} could not: "
                "repair or remove those (at most one in ten may be broken)"
            )
        if self.left_out:
            self.log(f"{self.source}: {self.left_out} of {self.read + self.left_out} pictures skipped")
        if self.without_captions:
            self.log(f"{self.source}: {self.without_captions} of {self.read} pictures have no caption: it is empty")

    def to_dict(self) -> dict:
        return {
            "read": self.read,
            "left_out": self.left_out,
            "without_captions": self.without_captions,
            "cut_short": self.cut_short,
        }


def samples(
    source: str, share: int = 0, shares: int = 1, tally: Tally | None = None
) -> Iterator[tuple[str, bytes, dict]]:
    """(key, encoded picture, record) of every picture of `source`, or of one of `shares` disjoint shares of it.

    source: webdataset shards (`data-{000..007}.tar`, several joined by `::`, or a folder that holds `.tar` files) or a
    folder of pictures. A record's `captions` come from the sample's json, a `.txt` beside the picture, or the folder's
    `metadata.jsonl` (`file_name`, `text`). Whole shards belong to a share where there are enough of them. Samples with
    unreadable text, and the rest of shards that are cut short, are skipped and counted in `tally`.

    Raises:
        DataError: there is no such source, or nothing in it.
    """
    tally = tally or Tally(source)
    paths = shards.find(source)
    if not paths:
        yield from _folder_samples(Path(source), share, shares, tally)
        return
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise DataError(f"no such shard or folder: {missing[0]}")
    whole = len(paths) >= shares
    for path in paths[share::shares] if whole else paths:
        try:
            yield from _shard_samples(path, tally, *((0, 1) if whole else (share, shares)))
        except shards.ShardError as error:
            tally.cut(path.name, error.reason)


def _shard_samples(path: Path, tally: Tally, share: int, shares: int) -> Iterator[tuple[str, bytes, dict]]:
    """A shard's samples with pictures, or one of several disjoint shares of them. Raises ShardError."""
    with open(path, "rb") as file:
        for key, members in itertools.islice(shards.samples(path), share, None, shares):
            places = {shards.suffix_of(key, name): place for name, place in members.items()}
            picture = next((s for s in places if f".{s.rsplit('.')[-1]}" in SUFFIXES), None)
            if picture is None:
                continue
            try:
                record = json.loads(shards.read_at(file, places["json"])) if "json" in places else {}
                if "txt" in places:
                    record.setdefault("captions", [shards.read_at(file, places["txt"]).decode("utf-8").strip()])
            except (ValueError, AttributeError) as error:
                tally.skip(key, f"its text cannot be read ({error})")
                continue
            yield key, shards.read_at(file, places[picture]), record


def _folder_samples(folder: Path, share: int, shares: int, tally: Tally) -> Iterator[tuple[str, bytes, dict]]:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise DataError(f"no pictures and no .tar shards in {folder}")
    texts = {}
    listing = folder / "metadata.jsonl"
    if listing.is_file():
        for number, line in enumerate(listing.read_text("utf-8").splitlines(), 1):
            try:
                entry = json.loads(line)
                texts[entry["file_name"]] = entry["text"]
            except (ValueError, KeyError, TypeError):
                raise DataError(f'{listing}, line {number}: expected {{"file_name": ..., "text": ...}}') from None
    for path in paths[share::shares]:
        name = path.relative_to(folder).as_posix()
        beside = path.with_suffix(".txt")
        try:
            text = texts.get(name) or (beside.read_text("utf-8").strip() if beside.is_file() else None)
            encoded = path.read_bytes()
        except (OSError, ValueError) as error:
            tally.skip(name, error)
            continue
        yield name, encoded, {"captions": [text]} if text else {}
