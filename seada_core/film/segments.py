"""What is done of a film, on disk: encoded segments, and the state from which the rest goes on.

A segment ends at a key frame. The state at that key (see `steady.Key`) is written before the segment is renamed to its
final name: whatever interrupts a run, the next one continues after the last complete segment and gets the same frames.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..files import atomic
from .memory import View
from .steady import Key
from .streams import FilmError

LENGTH = 96  # frames of a segment, at least


@dataclass(frozen=True)
class Segments:
    """The folder of a result's segments, beside the result."""

    folder: Path

    @classmethod
    def of(cls, target: Path) -> Segments:
        return cls(target.with_name(f".{target.name}.segments"))

    def begin(self, job: dict[str, Any], overwrite: bool) -> None:
        """Make the folder for a job, or find what is there of the same job.

        Raises:
            FilmError: it holds segments of another job.
        """
        note = self.folder / "job.json"
        other = note.exists() and json.loads(note.read_text("utf-8")) != json.loads(json.dumps(job))
        if other and overwrite:
            self.discard()
        elif other:
            raise FilmError(
                f"{self.folder} has frames of an interrupted run with other options or another film: repeat that "
                "command to go on, or use --overwrite to discard them"
            )
        if not note.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            atomic.write_text(note, json.dumps(job, indent=1))

    def done(self) -> tuple[list[Path], Key | None, int | None]:
        """The complete segments in order, the key to go on from, and its pts."""
        paths, key, pts, following = [], None, None, 0
        found = {
            int(m[1]): (int(m[2]), path) for path in self.folder.glob("*.nut") if (m := _NAME.fullmatch(path.name))
        }
        while following in found:
            last, path = found[following]
            restored = self._state(last)
            if restored is None:
                break
            paths.append(path)
            key, pts = restored
            following = last + 1
        return paths, key, pts

    def latest(self) -> Key | None:
        """The last key frame whose state was saved."""
        for path in sorted(self.folder.glob("*.npz"), reverse=True):
            restored = self._state(int(path.stem))
            if restored is not None:
                return restored[0]
        return None

    def path(self, first: int, last: int) -> Path:
        """The file of the segment of frames `first` to `last`."""
        return self.folder / f"{first:08d}-{last:08d}.nut"

    def save(self, key: Key, pts: int) -> None:
        """Write the state at a key frame."""
        with atomic.opened(self.folder / f"{key.index:08d}.npz") as file:
            text = json.dumps({"shot": key.shot, "time": key.time, "pts": pts, "ends_shot": key.ends_shot})
            maps: dict[str, Any] = {"luma": key.luma, "own": key.own, "past": key.past}
            for name in ("luma", "chroma"):
                maps[f"view_{name}s"] = np.stack([getattr(view, name) for view in key.views])
            np.savez(file, **maps, state=text)

    def _state(self, index: int) -> tuple[Key, int] | None:
        try:
            with np.load(self.folder / f"{index:08d}.npz", allow_pickle=False) as maps:
                state = json.loads(str(maps["state"]))
                views = tuple(map(View, maps["view_lumas"], maps["view_chromas"]))
                past = maps["own"], maps["past"]
                key = Key(index, state["time"], maps["luma"], state["shot"], *past, state["ends_shot"], views)
        except (OSError, ValueError, KeyError):
            return None
        return key, state["pts"]

    def discard(self) -> None:
        """Delete the folder."""
        atomic.discard(self.folder)


_NAME = re.compile(r"(\d+)-(\d+)\.nut")
