"""What an evaluation has measured so far, on disk, so that an interrupted run can be resumed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from ..files import atomic

VERSION = 1


class JournalError(ValueError):
    """The folder holds another evaluation, or a damaged one; the message says how they differ and what to do."""


class Journal:
    """`journal.jsonl`: the settings, then a line per picture; `features/`: pooled features, a file per network and
    method, float32, in the same order. A line is written after its features, so a picture with a line is complete.

    Args:
        folder: created if it does not exist.
        settings: JSON-ready. A journal with other settings is refused.
        resume: continue the journal in the folder.
        widths: of the features by network name.
    Raises:
        JournalError: there is a journal and `resume` is False, or it has other settings.
    """

    def __init__(self, folder: Path, settings: dict, resume: bool, widths: dict[str, int]):
        self.folder, self.widths = folder, widths
        self.path = folder / "journal.jsonl"
        settings = json.loads(json.dumps({"version": VERSION, **settings}))
        self.done: dict[str, bool] = {}  # key to whether the picture was measured (not: skipped)
        kept = 0
        folder.mkdir(parents=True, exist_ok=True)
        if self.path.is_file() and self.path.stat().st_size:
            if not resume:
                raise JournalError(f"{folder} holds an evaluation already; add --resume, or choose another --out")
            kept = self._read(settings)
        if not kept:
            atomic.write_text(self.path, json.dumps({"settings": settings}) + "\n")
            kept = self.path.stat().st_size
        os.truncate(self.path, kept)  # a line that was cut off when a run was killed
        self._lines = open(self.path, "a", encoding="utf-8")  # noqa: SIM115
        self._features: dict[tuple[str, str], BinaryIO] = {}
        measured = sum(self.done.values())
        for path in (folder / "features").glob("*.f32") if (folder / "features").is_dir() else ():
            network = path.stem.split("@")[0]
            size = measured * 4 * widths[network]
            if path.stat().st_size < size:
                raise JournalError(f"{path} is shorter than the journal says; delete {folder} and start again")
            os.truncate(path, size)

    def _read(self, settings: dict) -> int:
        """Read which pictures are done; returns the bytes of complete lines, 0 without a complete line of settings."""
        whole, first = 0, True
        with open(self.path, "rb") as lines:
            for line in lines:
                try:
                    entry = json.loads(line)
                except ValueError:
                    break
                if not line.endswith(b"\n"):
                    break
                if first:
                    self._check(entry.get("settings", {}), settings)
                    first = False
                else:
                    self.done[entry["key"]] = "methods" in entry
                whole += len(line)
        return whole

    def _check(self, then: dict, now: dict) -> None:
        names = sorted({*then, *now})
        changed = [f"{n} was {then.get(n)!r}, now {now.get(n)!r}" for n in names if then.get(n) != now.get(n)]
        if changed:
            raise JournalError(
                f"cannot resume {self.folder} with other settings: {'; '.join(changed)}. Choose another --out"
            )

    def add(self, records: list[dict], features: dict[tuple[str, str], Tensor]) -> None:
        """Record a batch: JSON-ready records with a `key` each, and features (network, method) to (B, width)."""
        (self.folder / "features").mkdir(exist_ok=True)
        for place, vectors in features.items():
            if place not in self._features:
                path = self.folder / "features" / f"{place[0]}@{place[1]}.f32"
                self._features[place] = open(path, "ab")  # noqa: SIM115
            self._features[place].write(vectors.float().cpu().numpy().astype("<f4").tobytes())
            self._features[place].flush()
        for record in records:
            self._lines.write(json.dumps(record) + "\n")
            self.done[record["key"]] = True
        self._lines.flush()

    def skip(self, key: str, **why: str) -> None:
        """Record that a picture is not measured: `error` or `excluded`, and why."""
        self._lines.write(json.dumps({"key": key, **why}) + "\n")
        self._lines.flush()
        self.done[key] = False

    def records(self) -> Iterator[dict]:
        """Every line but the settings, one in memory at a time."""
        with open(self.path, encoding="utf-8") as lines:
            next(lines)
            for line in lines:
                yield json.loads(line)

    def features(self, network: str, method: str, rows: int = 512) -> Iterator[Tensor]:
        """A method's features in batches (up to `rows`, width), in the order of the records."""
        path = self.folder / "features" / f"{network}@{method}.f32"
        if not path.is_file():
            return
        with open(path, "rb") as stream:
            while block := stream.read(rows * 4 * self.widths[network]):
                yield torch.from_numpy(np.frombuffer(block, "<f4").astype(np.float32)).view(-1, self.widths[network])

    def close(self) -> None:
        self._lines.close()
        for stream in self._features.values():
            stream.close()
