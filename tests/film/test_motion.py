from itertools import pairwise

import numpy as np
import pytest
from films import texture

pytest.importorskip("cv2")

from seada_core.film.motion import motions, sample


def luma(height: int = 96, width: int = 128, seed: int = 0) -> np.ndarray:
    return texture(height, width, seed).astype(np.float32) / 255


def test_a_shift_is_found_both_ways():
    wide = luma(110, 150)
    a, b = wide[8:104, 8:136], wide[6:102, 11:139]  # b shows what is 3 px to the right and 2 px up
    there, back = motions(a, b)
    inner = np.s_[12:-12, 12:-12]
    assert np.median(there.flow[inner], (0, 1)) == pytest.approx([-3, 2], abs=0.2)
    assert np.median(back.flow[inner], (0, 1)) == pytest.approx([3, -2], abs=0.2)
    assert there.confidence[inner].mean() > 0.9
    assert abs(there.fetch(b) - a)[inner].mean() < 0.02


def test_what_is_hidden_is_not_certain():
    ground, thing = luma(96, 128, 1), luma(40, 40, 2)
    a, b = ground.copy(), ground.copy()
    a[30:70, 20:60] = thing
    b[30:70, 26:66] = thing
    there, back = motions(a, b)
    assert there.confidence[32:68, 61:65].mean() < 0.5  # ground that the thing covers in b
    assert back.confidence[32:68, 21:25].mean() < 0.5  # ground that it uncovers
    assert min(there.confidence[36:64, 26:54].mean(), there.confidence[:20].mean()) > 0.8


def test_motion_is_followed_through_the_frames_between():
    frames = []
    for x in range(10, 130, 6):
        frame = luma(96, 160, 4)
        frame[30:62, x : x + 32] = luma(32, 32, 3)
        frames.append(frame)
    whole = motions(frames[0], frames[1])
    for before, after in pairwise(frames[1:]):
        whole = motions(frames[0], after, (whole, motions(before, after)))
    inner = np.s_[38:54, 18:34, 0]
    assert np.median(whole[0].flow[inner]) == pytest.approx(114, abs=3)
    assert abs(np.median(motions(frames[0], frames[-1])[0].flow[inner]) - 114) > 20


def test_sample_goes_on_beyond_the_edges():
    maps = np.arange(12, dtype=np.float32).reshape(3, 4)
    flow = np.zeros((3, 4, 2), np.float32)
    flow[..., 0] = 10
    assert np.array_equal(sample(maps, flow), np.repeat(maps[:, 3:], 4, 1))


def test_pairs_before_do_not_change_the_result():
    frames = [luma(seed=seed) for seed in range(4)]
    first = motions(frames[0], frames[1])
    alone = motions(frames[0], frames[2], (first, motions(frames[1], frames[2])))[0].flow
    for _ in range(3):
        motions(frames[2], frames[3], (motions(frames[2], frames[1]), motions(frames[1], frames[3])))
    again = motions(frames[0], frames[2], (first, motions(frames[1], frames[2])))[0].flow
    assert np.array_equal(alone, again)
