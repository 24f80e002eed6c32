import numpy as np
import pytest
from films import panning, texture

pytest.importorskip("cv2")

from seada_core.film.fill import fill
from seada_core.film.keys import GIVEN
from seada_core.film.steady import AHEAD, SPACING, WAITING, Key, steady

RED, BLUE = np.array([-0.1, 0.3], np.float32), np.array([0.3, -0.1], np.float32)


class Flickering:
    """Colours of the frames' content, `color(time)`, with a tint that changes from key to key."""

    def __init__(self, color=lambda time: RED, tint: float = 0.1, given=()):
        self.color, self.tint, self.given = color, tint, dict(given)
        self.shots, self.times = [], []

    def begin(self, luma, time):
        self.shots.append(time)
        return time

    def paint(self, luma, time, shot):
        self.times.append(time)
        chroma = self.color(time) + self.tint * np.random.default_rng(round(time)).standard_normal(2)
        weights = [1, 0]
        if time in self.given:
            chroma, weights = self.given[time], [0, GIVEN]
        row = np.array([*chroma, *weights], np.float32)
        return np.broadcast_to(row, (*luma.shape, 4)).copy()


def lumas(frames) -> list[np.ndarray]:
    return [frame.astype(np.float32) / 255 for frame in frames]


def film(frames, start: int = 0):
    return [(float(start + i), luma) for i, luma in enumerate(lumas(frames))]


def chromas(frames, painter, **options) -> list[np.ndarray]:
    results = list(steady(film(frames), painter, **options))
    assert [result.index for result in results] == list(range(len(frames)))
    return [result.chroma for result in results]


@pytest.mark.parametrize("count", [1, 2, SPACING, SPACING + 1, 30])
def test_every_frame_comes_once_and_in_order(count):
    painter = Flickering()
    assert len(chromas(panning(count), painter)) == count
    assert painter.shots == [0]
    assert painter.times[-1] == count - 1


def test_colours_do_not_flicker():
    painter = Flickering(tint=0.1)
    means = np.array([chroma.mean((0, 1)) for chroma in chromas(panning(60), painter)])
    assert abs(np.diff(means, axis=0)).max() < 0.01  # keys differ by 0.14 on average
    assert abs(means - RED).max() < 0.1


def test_a_cut_separates_colours():
    frames = panning(13, seed=1) + panning(13, seed=2)
    painter = Flickering(lambda time: RED if time < 13 else BLUE, tint=0)
    found = chromas(frames, painter)
    assert painter.shots == [0, 13]
    assert abs(np.array(found[:13]) - RED).max() < 1e-4
    assert abs(np.array(found[13:]) - BLUE).max() < 1e-4


def test_two_cuts_in_a_row():
    frames = panning(4, seed=1) + [texture(48, 64, 9)] + panning(4, seed=2)
    painter = Flickering()
    assert len(chromas(frames, painter)) == 9
    assert painter.shots == [0, 4, 5]


def test_a_dimmed_light_is_not_a_cut():
    frames = [(frame * (1 - i / 40)).astype(np.uint8) for i, frame in enumerate(panning(20))]
    painter = Flickering()
    chromas(frames, painter)
    assert painter.shots == [0]


def test_a_thing_that_passes_leaves_no_ghost():
    ground, thing = texture(96, 160, 1), texture(40, 40, 2)
    frames = []
    for x in range(0, 104, 4):
        frame = ground.copy()
        frame[20:60, x : x + 40] = thing
        frames.append(frame)

    class Painter(Flickering):
        def paint(self, luma, time, shot):
            own = super().paint(luma, time, shot)
            own[..., :2] = BLUE
            x = 4 * round(time)
            own[20:60, x : x + 40, :2] = RED
            return own

    for number, chroma in enumerate(chromas(frames, Painter())):
        x = 4 * number
        redness = (chroma - BLUE) @ (RED - BLUE) / ((RED - BLUE) @ (RED - BLUE))
        assert redness[28:52, x + 8 : x + 32].mean() > 0.95, number
        outside = np.ones_like(redness, bool)
        outside[12:68, max(0, x - 8) : x + 48] = False
        assert (redness[outside] > 0.25).mean() < 0.005, number


def test_given_colours_reach_their_whole_shot_and_no_other():
    frames = [texture(48, 64, 1)] * 100 + panning(10, seed=2)
    still = 80 / 24
    painter = Flickering(lambda time: BLUE, tint=0, given={still: RED})
    times = [(time / 24, luma) for time, luma in film(frames)]
    found = [result.chroma.mean((0, 1)) for result in steady(times, painter, given=[still])]
    assert still in painter.times
    assert abs(np.array(found[:100]) - RED).max() < 0.12
    assert abs(found[80] - RED).max() < 0.015
    assert abs(np.array(found[100:]) - BLUE).max() < 1e-4


@pytest.mark.parametrize("given", [(), (27.0,)])
def test_a_film_goes_on_from_any_key_with_the_same_colours(given):
    frames = film(panning(30, seed=3) + panning(15, seed=4))
    painter = Flickering(given=dict.fromkeys(given, BLUE))
    whole = list(steady(frames, painter, given=given))
    keys = [result.key for result in whole if result.key is not None]
    assert len(keys) > 6
    for key in keys[::2]:
        restored = Key(key.index, key.time, key.luma, key.shot, key.own, key.past, key.ends_shot, key.views)
        rest = list(steady(frames[key.index + 1 :], painter, given=given, resume=restored))
        assert [result.index for result in rest] == list(range(key.index + 1, 45))
        for result in rest:
            assert np.array_equal(result.chroma, whole[result.index].chroma), (key.index, result.index)


def test_no_more_is_read_ahead_than_colours_depend_on():
    read = []

    def frames():
        for time, luma in film(panning(110)):
            read.append(time)
            yield time, luma

    for result in steady(frames(), Flickering()):
        assert len(read) <= result.index + (AHEAD + 3 + 3 * WAITING) * SPACING + 1


def test_fast_motion_gets_more_keys():
    slow, fast = Flickering(), Flickering()
    chromas(panning(33, height=64, width=96), slow)
    chromas(panning(33, height=64, width=96, step=9), fast)
    assert len(fast.times) > len(slow.times)


def test_fill_takes_the_colours_of_similar_luminance_nearby():
    luma = np.full((64, 96), 0.2, np.float32)
    luma[:, 48:] = 0.8
    chroma = np.where(luma[..., None] < 0.5, RED, BLUE)
    certain = np.ones_like(luma)
    certain[20:40, 30:70] = 0
    spoilt = np.where(certain[..., None] > 0, chroma, 0).astype(np.float32)
    assert abs(fill(spoilt, certain, luma) - chroma).max() < 0.02
    assert np.isfinite(fill(spoilt, np.zeros_like(luma), luma)).all()


def test_the_past_is_remembered_but_not_for_ever():
    painter = Flickering(lambda time: RED if time < 100 else BLUE, tint=0)
    found = chromas([texture(48, 64)] * 270, painter, spacing=3)
    assert abs(found[100 - 3 * AHEAD - 4] - RED).max() < 0.01
    assert abs(found[269] - BLUE).max() < 0.12
