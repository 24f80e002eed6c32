"""Runs parts of a benchmark one after another, each in a process of its own: a crash or a hang loses that part alone.

The next part's process starts while one is at work, imports what it needs and waits. One that compiles does that
meanwhile, too, beside parts whose figures depend little on the CPU; their rows say so.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from multiprocessing.connection import Connection, wait
from typing import NamedTuple

from benchmarks import Table

COLUMNS = ("figure", "unit", "of its peer's", "remark")


class Measure(NamedTuple):
    """A figure that is still to be measured.

    Attributes:
        name: the row's name.
        unit: of the figure, "" for a text.
        take: measures it.
        peer: the row that it is divided by in the column of ratios.
    """

    name: str
    unit: str
    take: Callable[[], float | str]
    peer: str | None = None


Measures = Iterator[Measure | None]  # a part's, with one None: what follows must have the machine for itself


@dataclass(frozen=True)
class Part:
    """A part of the benchmark.

    Attributes:
        home, function: the module and the name of the function (device, tiny) -> `Measures`.
        limit: seconds that it may take in its turn.
        early: how many parts before its own turn its process starts.
        compiles: whether it works much before its None, which slows down what is measured meanwhile.
    """

    home: str
    function: str
    limit: float = 60
    early: int = 1
    compiles: bool = False


class Row(NamedTuple):
    """A measured figure, or what went wrong in place of one."""

    name: str
    value: float | str | None
    unit: str
    peer: str | None = None  # the row that it is divided by in the column of ratios
    remark: str = ""


READY, DONE = "ready", "done"
NO_TIME = "skipped, the time is used up"
BESIDE = "beside other work"


def rows(part: Part, device: str, tiny: bool, wait_for_turn: Callable[[], float]) -> Iterator[Row]:
    """A part's rows, one by one; a failure is a row too.

    wait_for_turn: returns when the part has the machine for itself, with the time (`time.monotonic`) when it must end.
    """
    until = float("inf")
    try:
        for measure in getattr(import_module(part.home), part.function)(device, tiny):
            if measure is None:
                until = wait_for_turn()
                continue
            if time.monotonic() > until:
                yield Row(f"{measure.name} and the rest", None, "", remark=NO_TIME)
                return
            try:
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    value = measure.take()
            except Exception as error:
                yield Row(measure.name, None, measure.unit, remark=_one_line(error))
                continue
            # such as that a function could not be recorded and ran as usual, which explains a figure
            said = [str(one.message) for one in caught if "CUDA graph" in str(one.message)]
            yield Row(measure.name, value, measure.unit, measure.peer, "; ".join(dict.fromkeys(said))[:300])
    except Exception as error:
        yield Row(f"{part.function}: the rest", None, "", remark=_one_line(error))


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()).replace("|", "/")
    return f"{type(error).__name__}: {text}"[:300]


def child(part: Part, device: str, tiny: bool, pipe: Connection) -> None:
    """The work of a part's process: sends rows, READY where it waits for its turn, DONE."""
    if hasattr(os, "setpgrp"):
        os.setpgrp()  # what it starts, such as pytest, ends with it, see `Worker.stop`
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)

    def wait_for_turn() -> float:
        pipe.send(READY)
        seconds = pipe.recv()
        return time.monotonic() + seconds  # counted from now: it may have waited for long

    for row in rows(part, device, tiny, wait_for_turn):
        pipe.send(row)
    pipe.send(DONE)


class Results:
    """The table's rows as they come, with their ratios.

    Args:
        make: makes the table, which takes seconds, as it asks the device for its name.
    """

    def __init__(self, make: Callable[[], Table]):
        self.make = make
        self.figures: dict[str, float] = {}

    @cached_property
    def table(self) -> Table:
        return self.make()

    def add(self, row: Row) -> None:
        """Add a row; its peer must have been added before."""
        ratio = None
        if isinstance(row.value, float):
            self.figures[row.name] = row.value
            peer = self.figures.get(row.peer or "")
            ratio = row.value / peer if peer else None
        self.table.add(row.name, row.value, row.unit, ratio, row.remark)


class Worker:
    """A part's process, started; see `child`."""

    def __init__(self, name: str, part: Part, device: str, tiny: bool):
        context = multiprocessing.get_context("spawn")
        self.name, self.part = name, part
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=child, args=(part, device, tiny, other), daemon=False)
        self.process.start()
        other.close()
        self.ready = self.ended = False
        self.seconds: float | None = None

    @property
    def is_preparing(self) -> bool:
        """Whether it works before its turn."""
        return self.part.compiles and not self.ready and not self.ended

    def go(self, seconds: float) -> None:
        """Its turn has come, for so many seconds."""
        self.seconds = seconds
        if self.ready:
            self._send_turn()

    def _send_turn(self) -> None:
        with contextlib.suppress(OSError):  # it has died, which `receive` finds
            self.pipe.send(self.seconds)

    def receive(self) -> Row | None:
        """What the process has sent, if that is a row."""
        try:
            message = self.pipe.recv()
        except (EOFError, OSError):
            self.ended = True
            self.process.join(5)
            return Row(f"{self.name}: the rest", None, "", remark=f"the process ended, status {self.process.exitcode}")
        if message == DONE:
            self.ended = True
            self.process.join(1)  # what it still has to tidy up must not disturb the next part
            return None
        if message == READY:
            self.ready = True
            if self.seconds is not None:
                self._send_turn()
            return None
        return message

    def stop(self) -> None:
        """End the process and what it has started, if these still run."""
        if self.process.is_alive():
            with contextlib.suppress(AttributeError, OSError):  # not POSIX; killed before it had a group of its own
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.kill()
        self.process.join(5)


def in_processes(parts: Mapping[str, Part], device: str, tiny: bool, results: Results, seconds: float) -> None:
    """Run parts in order, each in its process, for so many seconds in all; rows are added as they come."""
    end = time.monotonic() + seconds
    names = list(parts)
    workers: dict[str, Worker] = {}

    def start(at: int) -> None:
        for place, name in enumerate(names):
            if name not in workers and place - parts[name].early <= at:
                workers[name] = Worker(name, parts[name], device, tiny)

    def listen(until: float) -> None:
        running = {worker.pipe: worker for worker in workers.values() if not worker.ended}
        for pipe in wait(list(running), max(0.0, until - time.monotonic())):
            preparing = [worker for worker in workers.values() if worker.is_preparing]
            row = running[pipe].receive()
            if row is not None:
                beside = preparing and len(running) > 1 and not row.remark
                results.add(row._replace(remark=BESIDE) if beside else row)

    try:
        for at, name in enumerate(names):
            left = end - time.monotonic()
            if left < 1:
                results.add(Row(name, None, "", remark=NO_TIME))
                continue
            start(at)
            assert results.table.file  # made while the first part's process imports
            worker, limit = workers[name], min(parts[name].limit, left)
            until = time.monotonic() + limit
            worker.go(limit)
            while not worker.ended and time.monotonic() < until:
                listen(until)
            if not worker.ended:
                worker.ended = True
                results.add(Row(f"{name}: the rest", None, "", remark=f"stopped after {limit:.0f} s"))
            worker.stop()
    finally:
        for worker in workers.values():
            worker.stop()


def in_this_process(parts: Mapping[str, Part], device: str, tiny: bool, results: Results, seconds: float) -> None:
    """Run parts in order without processes of their own: what the code does is the same, a crash ends all of it."""
    end = time.monotonic() + seconds
    for name, part in parts.items():
        if time.monotonic() > end:
            results.add(Row(name, None, "", remark=NO_TIME))
            continue
        until = min(time.monotonic() + part.limit, end)
        for row in rows(part, device, tiny, lambda until=until: until):
            results.add(row)
