"""Steady colours for a film: chroma of key frames, carried along the motion to every frame.

Key frames are coloured on their own, so that their colours differ. Along the motion they are averaged over the keys
before and after, with a memory that lasts as long as a thing is seen: that is a shot's colour at each key. Every frame
between two keys takes the colours of both, by its nearness and by how certainly the motion is known. What neither has is
filled from what lies nearby and has a similar luminance.

Everything is at the model's size: luminance (h, w) in [0, 1], chroma (h, w, 2) as (Cb, Cr). Frames come and go one by
one, and memory does not depend on their number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from .fill import fill
from .motion import Array, Flow, Motion

SPACING = 8  # frames from key to key
AHEAD = 5  # keys after a frame that its colours depend on
MEMORY = 12.0  # keys' worth of weight that the past counts at most
COVERED = 0.6  # share of a frame that a key must explain, or the next key comes earlier
CUT = 0.25  # share of a frame that is found in the one before, below which a shot begins


@dataclass
class Key:
    """A key frame. `own`: its chroma with two weights (h, w, 4): the model's, and that of colours that were given."""

    index: int
    luma: Array
    own: Array
    past: Array | None = None  # like `own`, averaged over this key and those before


@dataclass
class Interval:
    """The frames from a key to the next: their luminance, and each one's motion to both keys."""

    first: Key
    last: Key
    to_first: list[Motion]  # of the frames between, and of the last key
    to_last: list[Motion]  # of the first key, and of the frames between
    lumas: list[Array]  # of the frames between
    ends: bool = False  # the shot ends at `last`


Ask = Callable[[int, Array, bool], Array]


def steady(
    lumas: Iterable[Array], ask: Ask, spacing: int = SPACING, ahead: int = AHEAD
) -> Iterator[tuple[int, Array]]:
    """Steady chroma (h, w, 2) of each frame, in order.

    Args:
        lumas: the frames.
        ask: colours of a key frame, from its number, its luminance, and whether a shot begins: (h, w, 4).
    """
    waiting: deque[Interval] = deque()
    settled: Array | None = None  # of the first waiting interval's first key
    for interval in intervals(lumas, ask, spacing):
        waiting.append(interval)
        while waiting and (waiting[-1].ends or len(waiting) > ahead):
            now = waiting[0]
            if settled is None:
                settled = settle(now.first, waiting)
                yield now.first.index, settled
            waiting.popleft()
            if now.last is now.first:
                settled = None
                continue
            following = settle(now.last, waiting)
            for number, luma in enumerate(now.lumas):
                share = (number + 1) / (len(now.lumas) + 1)
                yield now.first.index + number + 1, between(luma, settled, following, now.to_first[number], now.to_last[number + 1], share)
            yield now.last.index, following
            settled = None if now.ends else following


def intervals(lumas: Iterable[Array], ask: Ask, spacing: int) -> Iterator[Interval]:
    """The intervals of all shots, keys coloured and averaged over the past."""
    flow: Flow | None = None
    key: Key | None = None
    chain: list[Array] = []
    for index, luma in enumerate(lumas):
        flow = flow or Flow()
        if key is None:
            key = begin(index, luma, ask)
            chain, there, steps = [luma], [], []
            continue
        step = flow(chain[-1], luma)
        if step[1].confidence.mean() < CUT:
            yield close(key, chain, there, steps, flow, ask, ends=True)
            key = begin(index, luma, ask)
            chain, there, steps = [luma], [], []
            continue
        there.append(step if not there else flow(chain[0], luma, (there[-1], step)))
        steps.append(step)
        chain.append(luma)
        if len(steps) == spacing or there[-1][1].confidence.mean() < COVERED:
            interval = close(key, chain, there, steps, flow, ask)
            yield interval
            key, chain, there, steps = interval.last, [luma], [], []
    if key is not None:
        yield close(key, chain, there, steps, flow, ask, ends=True)


def begin(index: int, luma: Array, ask: Ask) -> Key:
    own = ask(index, luma, True)
    return Key(index, luma, own, own)


def close(key, chain, there, steps, flow, ask, ends=False) -> Interval:
    if len(chain) == 1:
        return Interval(key, key, [], [], [], ends)
    index = key.index + len(steps)
    last = Key(index, chain[-1], ask(index, chain[-1], False))
    back = [steps[-1]]
    for number in range(len(steps) - 2, 0, -1):
        back.insert(0, flow(chain[number], chain[-1], (steps[number], back[0])))
    to_last = [there[-1][0], *(motions[0] for motions in back)][: len(steps)]
    if len(steps) == 1:
        to_last = [there[-1][0]]
    to_first = [motions[1] for motions in there]
    last.past = joined(last.own, carried(key.past, to_first[-1]))
    return Interval(key, last, to_first, to_last, chain[1:-1], ends)


def carried(maps: Array, motion: Motion) -> Array:
    moved = motion.fetch(maps)
    moved[..., 2] = np.minimum(moved[..., 2], MEMORY)
    moved[..., 2:] *= motion.confidence[..., None]
    return moved


def joined(a: Array, b: Array) -> Array:
    """Two maps (h, w, 4) averaged by their weights, which are added."""
    weight_a, weight_b = a[..., 2:].sum(-1, keepdims=True), b[..., 2:].sum(-1, keepdims=True)
    chroma = a[..., :2] + (b[..., :2] - a[..., :2]) * (weight_b / np.maximum(weight_a + weight_b, 1e-6))
    return np.concatenate([chroma, a[..., 2:] + b[..., 2:]], -1)


def settle(key: Key, following: Iterable[Interval]) -> Array:
    """Chroma of a key, averaged over it, the keys before and those of the intervals that follow it."""
    future: Array | None = None
    for interval in reversed(list(following)):
        if interval.last is not interval.first:
            here = interval.last.own if future is None else joined(interval.last.own, future)
            future = carried(here, interval.to_last[0])
    assert key.past is not None
    return (key.past if future is None else joined(key.past, future))[..., :2]


def between(luma: Array, first: Array, last: Array, to_first: Motion, to_last: Motion, share: float) -> Array:
    """Chroma of a frame that is `share` of the way from one key to the next."""
    weights = (1 - share) * to_first.confidence, share * to_last.confidence
    total = weights[0] + weights[1]
    a, b = to_first.fetch(first), to_last.fetch(last)
    chroma = a + (b - a) * (weights[1] / np.maximum(total, 1e-6))[..., None]
    certain = np.maximum(to_first.confidence, to_last.confidence)
    return fill(chroma, certain, luma)
