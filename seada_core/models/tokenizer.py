"""CLIP's byte-pair tokenizer, optionally with a reduced vocabulary for small models."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from open_clip.tokenizer import SimpleTokenizer

START, END = 49406, 49407  # CLIP's own ids


@cache
def _clip_bpe() -> SimpleTokenizer:
    """open_clip's tokenizer, from its module alone: importing the whole package takes longer than colouring a photo."""
    package = importlib.util.find_spec("open_clip")
    folder = Path(next(iter(package.submodule_search_locations or ()))) if package else Path()
    spec = importlib.util.spec_from_file_location("seada_open_clip_tokenizer", folder / "tokenizer.py")
    if package is None or spec is None or spec.loader is None:
        raise ImportError("texts need open_clip's tokenizer: pip install open_clip_torch")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.SimpleTokenizer()


class Tokenizer:
    """Text to fixed-length token ids, and back.

    With `vocabulary`, CLIP token ids are renumbered by their index in that list, and tokens outside it are dropped, so
    that a small text model needs no 49,408-row embedding. Padding, start and end are the ids `pad`, `start`, `end`.
    The full vocabulary pads with `end`, as SD1.5 does.
    """

    def __init__(self, length: int, vocabulary: Iterable[int] | None = None):
        self.length = length
        self.vocabulary = None if vocabulary is None else list(vocabulary)
        if self.vocabulary is None:
            self.start, self.end, self.pad, self.size = START, END, END, 49408
        else:
            # 0, 1, 2 are pad, start, end: they come before the vocabulary's own tokens
            self._compact = {clip_id: i + 3 for i, clip_id in enumerate(self.vocabulary)}
            self.pad, self.start, self.end, self.size = 0, 1, 2, len(self.vocabulary) + 3

    @classmethod
    def from_captions(cls, captions: Iterable[str], length: int, size: int) -> Tokenizer:
        """The `size` - 3 most frequent CLIP tokens of `captions`."""
        counts: Counter[int] = Counter()
        for caption, n in Counter(captions).items():
            for token in _clip_bpe().encode(caption):
                counts[token] += n
        kept: list[int] = []
        for token, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
            if len(kept) >= size - 3:
                break
            if token not in kept:
                kept.append(token)
        return cls(length, kept)

    def encode(self, text: str) -> list[int]:
        """Token ids of `text` without start, end and padding."""
        ids = _clip_bpe().encode(text)
        if self.vocabulary is None:
            return ids
        return [self._compact[i] for i in ids if i in self._compact]

    def knows(self, text: str) -> bool:
        """Whether the vocabulary has all of a text's tokens."""
        return self.vocabulary is None or all(i in self._compact for i in _clip_bpe().encode(text))

    def __call__(self, texts: list[str]) -> Tensor:
        """(B, length) long: start, tokens (cut to fit), end, padding."""
        rows = torch.full((len(texts), self.length), self.pad, dtype=torch.long)
        for row, text in zip(rows, texts):
            ids = [self.start, *self.encode(text)[: self.length - 2], self.end]
            row[: len(ids)] = torch.tensor(ids)
        return rows

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids, up to the first `end`, without special tokens."""
        kept = []
        for i in map(int, ids):
            if i == self.end:
                break
            if self.vocabulary is None:
                if i < START:
                    kept.append(i)
            elif i >= 3:
                kept.append(self.vocabulary[i - 3])
        return _clip_bpe().decode(kept).strip()

    def mask(self, ids: Tensor) -> Tensor:
        """(B, L) bool: True from start up to and including the first end, False for padding."""
        is_end = (ids == self.end).long()
        return (is_end.cumsum(-1) - is_end) == 0
