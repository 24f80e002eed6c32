"""Training pictures as they come: folders and webdataset shards, or a share of them; what is wrong is counted."""

from __future__ import annotations

import itertools
import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
MOST_BROKEN = 0.1  # share of the pictures that may be unreadable
FEW = 20  # so many are forgiven before the share is looked at while reading, and reported one by one


class DataError(ValueError):
    """The training data cannot be used; the message says what to do."""


@dataclass
class Tally:
    """What reading a source came to; `log` hears of every picture that is left out, the first `FEW` one by one."""

    source: str
    log: Callable[[str], None] = print
    read: int = 0
    left_out: int = 0
    without_captions: int = 0
    cut_short: list[str] = field(default_factory=list)

    def add(self, record: dict) -> None:
        self.read += 1
        self.without_captions += not any(record.get("captions") or ())

    def leave_out(self, key: str, error: Exception | str) -> None:
        """Raises DataError where too many are broken to go on."""
        self.left_out += 1
        if self.left_out <= FEW:
            self.log(f"left out {key}: {error}")
        if self.left_out > FEW and self.left_out > MOST_BROKEN * (self.read + self.left_out):
            self.finish()

    def cut(self, shard: str, error: Exception) -> None:
        if shard in self.cut_short:  # each step of the reader meets the fault anew
            return
        self.cut_short.append(shard)
        self.log(f"{shard} is cut short ({error}): the rest of it is left out")

    def finish(self) -> None:
        """Sum up.

        Raises:
            DataError: nothing was read, or too much could not be.
        """
        if not self.read and not self.left_out:
            raise DataError(f"{self.source}: no pictures")
        if self.left_out * 10 > self.read:
            raise DataError(
                f"{self.source}: {self.read} pictures could be read and {self.left_out} could not: "
                "mend or remove those (at most one in ten may be broken)"
            )
        if self.left_out:
            self.log(f"{self.source}: {self.left_out} of {self.read + self.left_out} pictures left out")
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
    unreadable text, and the rest of shards that are cut short, are left out and told to `tally`.

    Raises:
        DataError: there is no such source, or nothing in it.
    """
    tally = tally or Tally(source)
    folder = Path(source)
    if folder.is_dir() and not any(folder.glob("*.tar")):
        yield from _folder_samples(folder, share, shares, tally)
        return
    import webdataset as wds

    if folder.is_dir():
        urls = [str(path) for path in sorted(folder.glob("*.tar"))]
    else:
        urls = [url for part in source.split("::") for url in wds.shardlists.expand_urls(part)]
    missing = [url for url in urls if not Path(url).is_file()]
    if missing:
        raise DataError(f"no such shard or folder: {missing[0]}")
    whole = len(urls) >= shares
    for url in urls[share::shares] if whole else urls:

        def cut(error: Exception, url: str = url) -> bool:
            tally.cut(Path(url).name, error)
            return True

        # shares are taken above: webdataset is not to split them among processes again
        found = wds.WebDataset([url], shardshuffle=False, empty_check=False, handler=cut, nodesplitter=lambda it: it)
        for sample in found if whole else itertools.islice(found, share, None, shares):
            picture = next((sample[k] for k in sample if f".{k.rsplit('.')[-1].lower()}" in SUFFIXES), None)
            if picture is None:
                continue
            try:
                record = json.loads(sample["json"]) if "json" in sample else {}
                if "txt" in sample:
                    record.setdefault("captions", [sample["txt"].decode("utf-8").strip()])
            except (ValueError, AttributeError) as error:
                tally.leave_out(sample["__key__"], f"its text cannot be read ({error})")
                continue
            yield sample["__key__"], picture, record
        fault = _beyond_the_end(Path(url))
        if fault is not None:
            tally.cut(Path(url).name, fault)


def _beyond_the_end(shard: Path) -> Exception | None:
    """What is wrong where reading a tar ended: for readers a broken header, or a hole of zeros, is its end."""
    try:
        with tarfile.open(shard, "r:") as tar:
            while tar.next() is not None:
                tar.members.clear()
            end = tar.offset
    except tarfile.TarError:  # compressed, with check sums of its own; or told already
        return None
    with open(shard, "rb") as file:
        file.seek(end)
        while chunk := file.read(1 << 20):
            if chunk.strip(b"\0"):
                return ValueError(f"no member's header at byte {end}, and data behind it")
    return None


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
            tally.leave_out(name, error)
            continue
        yield name, encoded, {"captions": [text]} if text else {}
