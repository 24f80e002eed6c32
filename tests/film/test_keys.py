"""Hints of a film's frames."""

from seada_core.files.hint_format import KEEP, Hint, Stroke
from seada_core.film.keys import _scaled


def test_hints_of_a_frame_keep_their_look_at_the_films_own_size():
    """A frame of 200 x 100 that is worked on at half its size."""
    hint, lock = Hint(100, 40, "#a04040", 8, 0.5), Hint(20, 30, KEEP, 4, -0.25)
    assert _scaled(hint, (0.5, 0.5)) == Hint(49.75, 19.75, "#a04040", 4, 0.5)
    assert _scaled(lock, (0.5, 0.5)) == Hint(9.75, 14.75, KEEP, 2, -0.25)
    stroke = Stroke(((10, 10), (20, 10)), KEEP, 2, 1)
    assert _scaled(stroke, (0.5, 1)) == Stroke(((4.75, 10), (9.75, 10)), KEEP, 1, 1)
