"""What a shot remembers: earlier views of it with their colours, for what leaves the picture and comes back.

Optical flow follows a thing as long as it is seen. What appears in a key frame is looked for in the views by its
features (SIFT, Lowe 2004), at least `AGREED` of which must have moved together (RANSAC); from there the flow finds each
pixel, with a confidence as between any two frames.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .motion import Array, Motion, motions, opencv

Bytes = np.ndarray[Any, np.dtype[np.uint8]]

VIEWS = 8  # at most; then every second one is dropped
COVERED = 0.75  # share of the last view that a key must show; where it shows less, it becomes a view itself
APPEARED = 0.02  # share of a key that must be new to be looked for
RATIO = 0.8  # of a feature's distances to its nearest match and to the second one, at most
AGREED = 12  # features that must have moved together
MISS = 3.0  # px by which they may miss
SURE, EDGE = 0.8, 4  # confidence in the motion from which colours are taken, and px around without it
AROUND = 24  # px around such features in which colours are taken


@dataclass
class View:
    """A key frame as it was: luminance (h, w) uint8, and chroma (h, w, 2) float16, small to be saved with segments."""

    luma: Bytes
    chroma: np.ndarray[Any, np.dtype[np.float16]]

    @classmethod
    def of(cls, luma: Array, chroma: Array) -> View:
        return cls(_bytes(luma), chroma.astype(np.float16))

    @cached_property
    def features(self) -> tuple[Array, Array]:
        """Positions (n, 2) and descriptors (n, 128)."""
        return _features(self.luma)

    @property
    def light(self) -> Array:
        """Its luminance in [0, 1]."""
        return self.luma.astype(np.float32) / np.float32(255)


Views = tuple[View, ...]


def remembered(views: Views, luma: Array, chroma: Array) -> Views:
    """The views after another key: the last one with its newest colours, or one more."""
    if views:
        last = views[-1]
        there, _ = motions(last.light, luma)
        if there.confidence.mean() >= COVERED:
            newest = np.where(_sure(there)[..., None], there.fetch(chroma), last.chroma)
            newer = copy.copy(last)  # with its features
            newer.chroma = newest.astype(np.float16)
            return *views[:-1], newer
    if len(views) == VIEWS:
        views = views[::2]
    return *views, View.of(luma, chroma)


def recalled(views: Sequence[View], luma: Array, known: Array) -> tuple[Array, Array] | None:
    """Chroma (h, w, 2) of what a key has and `known` (h, w) in [0, 1] has not, as it was when it was last seen, and the
    trust in it (h, w); None where nothing was found."""
    new = 1 - known
    if not views or float(new.mean()) < APPEARED:
        return None
    places, descriptors = _features(_bytes(luma), (new > 0.5).astype(np.uint8))
    chroma, trust = np.zeros((*luma.shape, 2), np.float32), np.zeros_like(luma)
    for view in reversed(views):
        wanted = new[places[:, 1].astype(int), places[:, 0].astype(int)] > 0.5
        if wanted.sum() < AGREED:
            break
        found = _moved(places[wanted], descriptors[wanted], view)
        if found is None:
            continue
        there, near = _found(luma, view, *found)
        here = near * new * _sure(there)
        better = here > trust
        chroma[better], trust[better] = there.fetch(view.chroma.astype(np.float32))[better], here[better]
        new = new * (1 - here)
    return (chroma, trust) if trust.any() else None


def _sure(motion: Motion) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Where a motion is certain (h, w), not right beside where it is not: colours spill over edges of things."""
    around = np.ones((2 * EDGE + 1, 2 * EDGE + 1), np.uint8)
    return opencv().erode(motion.confidence, around) > SURE


def _found(luma: Array, view: View, turn: Any, agreed: Array) -> tuple[Motion, Array]:
    """The motion to a view, and 1 near the features (n, 2) that the map `turn` moves to it, 0 elsewhere."""
    cv2 = opencv()
    back = cv2.invertAffineTransform(turn)
    there, _ = motions(luma, view.light, start=(_field(turn, luma.shape), _field(back, luma.shape)))
    hull = np.zeros(luma.shape, np.float32)
    cv2.fillConvexPoly(hull, cv2.convexHull(agreed.round().astype(np.int32)), 1.0)
    return there, cv2.dilate(hull, np.ones((2 * AROUND + 1, 2 * AROUND + 1), np.uint8))


def _features(luma: Bytes, mask: Bytes | None = None) -> tuple[Array, Array]:
    points, descriptors = opencv().SIFT_create(nfeatures=1000).detectAndCompute(luma, mask)
    places = np.array([point.pt for point in points], np.float32).reshape(-1, 2)
    return places, np.zeros((0, 128), np.float32) if descriptors is None else descriptors


def _moved(places: Array, descriptors: Any, view: View) -> tuple[Any, Array] | None:
    """How features have moved, turned and grown together to their places in a view (2, 3), and those that have."""
    cv2 = opencv()
    theirs, others = view.features
    if len(theirs) < 2:
        return None
    pairs = cv2.BFMatcher().knnMatch(descriptors, others, k=2)
    pairs = [(first.queryIdx, first.trainIdx) for first, second in pairs if first.distance < RATIO * second.distance]
    if len(pairs) < AGREED:
        return None
    here, there = (np.array(numbers) for numbers in zip(*pairs))
    turn, agreed = cv2.estimateAffinePartial2D(places[here], theirs[there], ransacReprojThreshold=MISS)
    if turn is None or agreed.sum() < AGREED:
        return None
    return turn, places[here][agreed[:, 0] > 0]


def _field(turn: Any, size: tuple[int, ...]) -> Array:
    """An affine map (2, 3) as vectors (h, w, 2)."""
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32)
    ends = np.stack([turn[i, 0] * x + turn[i, 1] * y + turn[i, 2] for i in range(2)], -1)
    return (ends - np.stack([x, y], -1)).astype(np.float32)


def _bytes(luma: Array) -> Bytes:
    return (luma * 255 + 0.5).astype(np.uint8)
