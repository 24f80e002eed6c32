"""Steady colours for a film: chroma of key frames, carried along the motion to every frame.

Key frames are coloured on their own, so that their colours differ. Along the motion they are averaged over the keys
before and after, with a memory that lasts as long as a thing is seen: these are a shot's colours. Every frame between
two keys takes the colours of both, by its nearness and by how certainly the motion is known. What neither has is filled
from what lies nearby and has a similar luminance. What comes back has the colours that it had, see `memory`.

Everything is at the model's size: luminance (h, w) in [0, 1], chroma (h, w, 2) as (Cb, Cr). Frames come and go one by
one, and memory does not depend on their number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from .background import in_background
from .fill import fill
from .memory import Views, recalled, remembered
from .motion import Array, Motion, motions

SPACING = 8  # frames from key to key
AHEAD = 7  # keys after a frame that its colours depend on
REACH = 10.0  # seconds that given colours are carried back
MEMORY = 30.0  # keys' worth of weight that the past has at most
COVERED = 0.6  # share of a frame that a key must explain; where it is less, the next key comes earlier
WAITING = 1  # chains between two keys that wait for the painter, and painted ones that wait to be used
CUT = 0.25  # share of a frame that is found in the one before; where it is less, a shot begins


class Painter(Protocol):
    """Where the colours of key frames come from."""

    def begin(self, luma: Array, time: float) -> Any:
        """What the keys of a shot have in common, from its first frame."""

    def paint(self, luma: Array, time: float, shot: Any) -> Array:
        """Chroma of a key frame and its weights, (h, w, 4): as the model's colours, and as colours that were given."""


@dataclass
class Key:
    """A key frame: number, time in seconds, its shot, what was painted, and that averaged with the keys before."""

    index: int
    time: float
    luma: Array
    shot: Any
    own: Array
    past: Array
    ends_shot: bool = False
    views: Views = ()  # that the shot remembers

    @classmethod
    def first(cls, index: int, time: float, luma: Array, shot: Any, own: Array) -> Key:
        """The first key of a shot."""
        return cls(index, time, luma, shot, own, own, views=remembered((), luma, own[..., :2]))

    def next(self, index: int, time: float, luma: Array, own: Array, to_this: Motion) -> Key:
        """The key after this one, averaged over what is carried here along its motion to this one, and remembered."""
        carried = _carried(self.past, to_this)
        found = recalled(self.views, luma, np.minimum(carried[..., 2] + carried[..., 3], 1))
        if found is not None:
            colors, trust = found
            carried = _joined(carried, np.dstack([colors, MEMORY * trust, np.zeros_like(trust)]))
        past = _joined(own, carried)
        return Key(index, time, luma, self.shot, own, past, views=remembered(self.views, luma, past[..., :2]))


@dataclass
class Interval:
    """From a key to the next one: the frames between, and motions to `first` and to `last`.

    `to_first` has those of the frames between and of `last`, `to_last` those of `first` and of the frames between.
    `last` is None at the end of a shot whose last frame `first` is.
    """

    first: Key
    last: Key | None = None
    lumas: list[Array] = field(default_factory=list)
    to_first: list[Motion] = field(default_factory=list)
    to_last: list[Motion] = field(default_factory=list)
    ends_shot: bool = False


@dataclass
class Steady:
    """A frame's result: chroma (h, w, 2), and the key, where it is one, from which `steady` can go on."""

    index: int
    chroma: Array
    key: Key | None = None


def steady(
    frames: Iterable[tuple[float, Array]],
    painter: Painter,
    spacing: int = SPACING,
    given: Sequence[float] = (),
    resume: Key | None = None,
) -> Iterator[Steady]:
    """Steady chroma of each frame, in order.

    Args:
        frames: times in seconds and luminances. All have one size.
        given: times of frames that are keys in any case, since colours are given for them.
        resume: a key of an earlier run; `frames` are those after it.
    """
    chains = in_background(_chains(frames, spacing, given, resume), WAITING)
    painted = in_background(_painted(chains, painter, None if resume is None else resume.shot), WAITING)
    with closing(painted):
        yield from _steady(_intervals(painted, resume), given, resume)


def _steady(intervals: Iterable[Interval], given: Sequence[float], resume: Key | None) -> Iterator[Steady]:
    """The frames of all intervals."""
    waiting: deque[Interval] = deque()  # of one shot
    settled: Array | None = None  # of the first one's first key
    for interval in intervals:
        waiting.append(interval)
        while waiting:
            now = waiting[0]
            if now.last is None:  # a shot of one frame, or the end of one whose last key is done
                if settled is None and now.first is not resume:
                    yield Steady(now.first.index, now.first.past[..., :2], now.first)
                settled = None
                waiting.popleft()
                continue
            ahead = _ahead(now.last, list(waiting)[1:], given)
            if ahead is None:
                break
            if settled is None:
                settled = _settle(now.first, _ahead(now.first, list(waiting), given) or ())
                if now.first is not resume:
                    yield Steady(now.first.index, settled, now.first)
            following = _settle(now.last, ahead)
            for number, (luma, back, on) in enumerate(zip(now.lumas, now.to_first, now.to_last[1:]), 1):
                share = number / (len(now.lumas) + 1)
                yield Steady(now.first.index + number, _between(luma, settled, following, back, on, share))
            yield Steady(now.last.index, following, now.last)
            settled = None if now.ends_shot else following
            waiting.popleft()


def _ahead(key: Key, following: Sequence[Interval], given: Sequence[float]) -> list[Interval] | None:
    """The intervals after a key that its colours depend on; None if they are not all known yet.

    They depend on the key and the film alone, not on what else was read: a resumed film gets the same colours.
    """
    reach, last = key.time + REACH, key
    for number in range(len(following) + 1):
        enough = number >= AHEAD and not any(last.time < time <= reach for time in given)
        if enough or last.ends_shot:
            return list(following[:number])
        if number < len(following):
            last = following[number].last or last
    return None


@dataclass
class _Chain:
    """The frames from a key to the next one, and the motion along them. A chain of one frame is a shot's last key."""

    index: int  # of the first frame
    times: list[float]
    lumas: list[Array]
    begins_shot: bool = False
    ends_shot: bool = False
    to_first: list[Motion] = field(default_factory=list)  # of each frame after the first
    to_last: list[Motion] = field(default_factory=list)  # of each frame before the last, once it is closed

    @property
    def length(self) -> int:
        return len(self.times) - 1


def _chains(
    frames: Iterable[tuple[float, Array]], spacing: int, given: Sequence[float], resume: Key | None
) -> Iterator[_Chain]:
    """The frames from key to key."""
    chain = _Chain(resume.index, [resume.time], [resume.luma]) if resume is not None else None
    steps: list[tuple[Motion, Motion]] = []  # from each frame of the chain to the next, and back
    whole: tuple[Motion, Motion] | None = None  # from its first frame to its last, and back
    for index, (time, luma) in enumerate(frames, 0 if resume is None else resume.index + 1):
        if chain is not None:
            step = motions(chain.lumas[-1], luma)
            if float(step[1].confidence.mean()) >= CUT:
                whole = motions(chain.lumas[0], luma, (whole, step)) if whole is not None else step
                steps.append(step)
                chain.times.append(time)
                chain.lumas.append(luma)
                chain.to_first.append(whole[1])
                if time in given or chain.length == spacing or float(whole[1].confidence.mean()) < COVERED:
                    yield _closed(chain, steps, whole)
                    chain, steps, whole = _Chain(index, [time], [luma]), [], None
                continue
            chain.ends_shot = True
            yield _closed(chain, steps, whole)
        chain, steps, whole = _Chain(index, [time], [luma], begins_shot=True), [], None
    if chain is not None:
        chain.ends_shot = True
        yield _closed(chain, steps, whole)


def _closed(chain: _Chain, steps: list[tuple[Motion, Motion]], whole: tuple[Motion, Motion] | None) -> _Chain:
    """The chain with the motions to its last frame, which becomes a key."""
    if whole is not None:
        rest = steps[-1]  # from a frame to the last, and back
        for number in range(chain.length - 1, 0, -1):
            if number < chain.length - 1:
                rest = motions(chain.lumas[number], chain.lumas[-1], (steps[number], rest))
            chain.to_last.insert(0, rest[0])
        chain.to_last.insert(0, whole[0])
    return chain


def _painted(
    chains: Generator[_Chain, None, None], painter: Painter, shot: Any
) -> Iterator[tuple[_Chain, Any, list[Array]]]:
    """Chains with their shots, and what is painted of their keys: the first of a shot, and the last of every chain.

    Args:
        shot: of the key that a film goes on from.
    """
    with closing(chains):
        for chain in chains:
            keys = []
            if chain.begins_shot:
                shot = painter.begin(chain.lumas[0], chain.times[0])
                keys.append(0)
            if chain.length:
                keys.append(-1)
            yield chain, shot, [painter.paint(chain.lumas[key], chain.times[key], shot) for key in keys]


def _intervals(painted: Iterable[tuple[_Chain, Any, list[Array]]], key: Key | None) -> Iterator[Interval]:
    """The intervals of all shots. Every key is averaged over the past."""
    for chain, shot, own in painted:
        if chain.begins_shot:
            key = Key.first(chain.index, chain.times[0], chain.lumas[0], shot, own[0])
        assert key is not None
        if not chain.length:
            key.ends_shot = True
            yield Interval(key, ends_shot=chain.ends_shot)
            continue
        last = key.next(chain.index + chain.length, chain.times[-1], chain.lumas[-1], own[-1], chain.to_first[-1])
        last.ends_shot = chain.ends_shot
        yield Interval(key, last, chain.lumas[1:-1], chain.to_first, chain.to_last, chain.ends_shot)
        key = last


def _carried(maps: Array, motion: Motion) -> Array:
    """What is known at one key, (h, w, 4), moved to another one, with weights by the motion's confidence."""
    moved = motion.fetch(maps)
    moved[..., 2] = np.minimum(moved[..., 2], MEMORY)
    moved[..., 2:] *= motion.confidence[..., None]
    return moved


def _joined(a: Array, b: Array) -> Array:
    """Two maps (h, w, 4), averaged by their weights, which are added."""
    weight_a, weight_b = a[..., 2] + a[..., 3], b[..., 2] + b[..., 3]
    joined = a + b
    share = weight_b / np.maximum(weight_a + weight_b, 1e-6)
    joined[..., :2] = a[..., :2] + (b[..., :2] - a[..., :2]) * share[..., None]
    return joined


def _settle(key: Key, following: Iterable[Interval]) -> Array:
    """Chroma of a key: the average over it, the keys before, and those of the intervals that follow it."""
    future: Array | None = None
    for interval in reversed(list(following)):
        if interval.last is not None:
            here = interval.last.own if future is None else _joined(interval.last.own, future)
            future = _carried(here, interval.to_last[0])
    return (key.past if future is None else _joined(key.past, future))[..., :2]


def _between(luma: Array, first: Array, last: Array, to_first: Motion, to_last: Motion, share: float) -> Array:
    """Chroma of a frame that is `share` of the way from one key to the next."""
    weights = np.float32(1 - share) * to_first.confidence, np.float32(share) * to_last.confidence
    a, b = to_first.fetch(first), to_last.fetch(last)
    chroma = a + (b - a) * (weights[1] / np.maximum(weights[0] + weights[1], 1e-6))[..., None]
    return fill(chroma, np.maximum(to_first.confidence, to_last.confidence), luma)
