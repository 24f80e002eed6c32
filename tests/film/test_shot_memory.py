"""What leaves the picture and comes back, with a painter whose colours have changed meanwhile."""

import numpy as np
import pytest
from films import texture

pytest.importorskip("cv2")

from seada_core.film import memory
from seada_core.film.segments import Segments
from seada_core.film.steady import steady

RED, BLUE = np.array([-0.1, 0.3], np.float32), np.array([0.3, -0.1], np.float32)
HEIGHT, WIDTH, STEP = 128, 160, 6
THERE = list(range(0, 121, STEP))
PLACES = [0] * 3 + THERE + [120] * 10 + THERE[::-1] + [0] * 3  # of the camera, px
AWAY = np.s_[:, :100]  # of the first and the last frame: what was outside for at least 16 frames


class Changing:
    """One colour until `time`, another one from then on."""

    def __init__(self, time: int = 24):
        self.time = time

    def begin(self, luma, time):
        return None

    def paint(self, luma, time, shot):
        row = np.array([*(RED if time < self.time else BLUE), 1, 0], np.float32)
        return np.broadcast_to(row, (*luma.shape, 4)).copy()


def lumas(places, seed: int = 0):
    world = texture(HEIGHT, WIDTH + 120, seed).astype(np.float32) / 255
    return [np.ascontiguousarray(world[:, x : x + WIDTH]) for x in places]


@pytest.fixture(scope="module")
def film():
    return [(float(number), luma) for number, luma in enumerate(lumas(PLACES))]


@pytest.fixture(scope="module")
def results(film):
    return list(steady(film, Changing(), spacing=4))


def test_what_leaves_and_comes_back_keeps_its_colour(results):
    assert abs(results[0].chroma[AWAY] - RED).mean() < 0.02
    assert abs(results[-1].chroma[AWAY] - RED).mean() < 0.1  # as far from blue as 0.4


def test_what_looks_otherwise_gets_no_colours_of_what_left():
    """The camera pans over another texture on its way back."""
    here, other = lumas(PLACES), lumas(PLACES, seed=5)
    half = len(PLACES) // 2
    frames = here[:half] + [a * (1 - s) + b * s for a, b, s in zip(here[half:], other[half:], np.linspace(0, 1, 5))]
    frames += other[half + 5 :]
    found = list(steady([(float(i), luma) for i, luma in enumerate(frames)], Changing(), spacing=4))
    assert abs(found[-1].chroma[AWAY] - BLUE).mean() < 0.1


def test_a_saved_shot_goes_on_with_the_same_memory(film, results, tmp_path):
    segments = Segments(tmp_path)
    key = next(result.key for result in results if result.key is not None and result.index > 28)
    segments.save(key, 0)
    rest = list(steady(film[key.index + 1 :], Changing(), spacing=4, resume=segments.latest()))
    for result in rest:
        assert np.array_equal(result.chroma, results[result.index].chroma), result.index


def test_views_are_few_and_reach_to_the_beginning():
    views = ()
    for seed in range(40):
        views = memory.remembered(views, lumas([0], seed)[0], np.zeros((HEIGHT, WIDTH, 2), np.float32))
        assert len(views) <= memory.VIEWS
    assert np.array_equal(views[0].luma, texture(HEIGHT, WIDTH + 120, 0)[:, :WIDTH])


def test_a_view_keeps_the_newest_colours_while_it_is_seen():
    first, second = (np.broadcast_to(color, (HEIGHT, WIDTH, 2)) for color in (RED, BLUE))
    views = memory.remembered((), lumas([0])[0], first)
    (view,) = memory.remembered(views, lumas([8])[0], np.ascontiguousarray(second))
    assert abs(view.chroma[:, 20:] - BLUE).mean() < 0.02
    assert abs(view.chroma[:, :5] - RED).mean() < 0.02  # outside by now


@pytest.mark.parametrize("luma", [np.zeros((HEIGHT, WIDTH), np.float32), np.full((8, 8), 0.5, np.float32)])
def test_frames_without_features_recall_nothing(luma):
    chroma = np.zeros((*luma.shape, 2), np.float32)
    views = memory.remembered((), luma, chroma)
    assert memory.recalled(views, luma, np.zeros_like(luma)) is None
