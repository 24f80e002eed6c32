import threading
import time

import pytest

from seada_core.film.background import in_background


def test_items_come_in_order_from_another_thread():
    threads = set()

    def items():
        for number in range(50):
            threads.add(threading.get_ident())
            yield number

    assert list(in_background(items(), 4)) == list(range(50))
    assert threading.get_ident() not in threads


def test_no_more_is_made_than_asked_for():
    made = []

    def items():
        for number in range(100):
            made.append(number)
            yield number

    results = in_background(items(), 3)
    assert next(results) == 0
    time.sleep(0.3)
    assert len(made) <= 6
    results.close()
    count = len(made)
    time.sleep(0.3)
    assert len(made) == count


def test_an_error_arrives_after_what_came_before_it():
    def items():
        yield 1
        raise ValueError("broken")

    results = in_background(items(), 4)
    assert next(results) == 1
    with pytest.raises(ValueError, match="broken"):
        next(results)
