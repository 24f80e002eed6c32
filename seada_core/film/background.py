"""Work that goes on in a thread of its own while its results are used."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def in_background(items: Iterable[T], ahead: int) -> Generator[T, None, None]:
    """The items, made in another thread, at most `ahead` of them before they are asked for.

    What making them raises is raised here. Closing the generator ends the thread after the item that it is at.
    """
    made: queue.Queue[tuple[str, T | BaseException | None]] = queue.Queue(ahead)
    closed = threading.Event()

    def put(kind: str, value: T | BaseException | None) -> None:
        while not closed.is_set():
            try:
                return made.put((kind, value), timeout=0.1)
            except queue.Full:
                continue

    def make() -> None:
        iterator: Iterator[T] = iter(items)
        try:
            for item in iterator:
                put("item", item)
                if closed.is_set():
                    return
            put("end", None)
        except BaseException as error:
            put("error", error)

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    try:
        while True:
            kind, value = made.get()
            if kind == "end":
                return
            if kind == "error":
                assert isinstance(value, BaseException)
                raise value
            yield value  # type: ignore[misc]
    finally:
        closed.set()
        thread.join()
