"""Labels to ImageNet's 1000 classes."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path

from ..models.classifier import class_words
from .sources import SourceError

# imagenette's names, where open_clip's differ
_OTHER_NAMES = {"english springer": 217, "chain saw": 491}


@functools.lru_cache(maxsize=1)
def _indices() -> dict[str, int]:
    found = dict(_OTHER_NAMES)
    for index, words in enumerate(class_words()):
        found.setdefault(_plain(words.split(":")[0]), index)
    return found


def _plain(name: str) -> str:
    return " ".join(re.split(r"[\s_-]+", name.casefold().strip()))


def class_index(label: str | None) -> int | None:
    """The index, 0 to 999, of a class by its number or its English name (open_clip's); None for any other label."""
    if label is None:
        return None
    if re.fullmatch(r"\d{1,3}", label):
        return int(label)
    return _indices().get(_plain(label))


def class_indices(groups: Sequence[str | None]) -> list[int | None]:
    """The class of each of a source's groups. Folder names as ImageNet has them (n01440764, ...) are ranked, so all
    1000 must be there."""
    distinct = sorted({group for group in groups if group is not None})
    if distinct and all(re.fullmatch(r"n\d{8}", group) for group in distinct):
        ranks: dict[str | None, int]
        ranks = {group: rank for rank, group in enumerate(distinct)} if len(distinct) == 1000 else {}
        return [ranks.get(group) for group in groups]
    return [class_index(group) for group in groups]


def read_labels(path: Path) -> dict[str, str]:
    """A file of labels, one line per picture: its file name (with or without suffix), then a space, comma or tab, then
    the class as a number (0 to 999) or name.

    Raises SourceError for any other line.
    """
    labels = {}
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if not line.strip():
            continue
        parts = re.split(r"[\s,]+", line.strip(), maxsplit=1)
        if len(parts) != 2 or class_index(parts[1]) is None:
            raise SourceError(f"{path}, line {number}: expected a file name and a class of ImageNet, not {line!r}")
        labels[parts[0]] = parts[1].strip()
    return labels
