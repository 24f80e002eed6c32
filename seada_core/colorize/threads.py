"""Several photos at a time on the CPU, each by one thread: two cores that share one small picture wait for each other.

A photo's result depends neither on the number of these threads nor on what the others do. Files are read, coloured and
written by the same thread, so that one thread's file work overlaps with the other threads' colouring.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor

import torch

from ..threads import torch_threads
from .options import RunOptions
from .plan import Job, Report
from .worker import Worker

MOST = 8  # threads unless more are asked for: beyond that they wait for Python's lock
AHEAD = 2  # groups that wait for each thread


def count(options: RunOptions) -> int:
    """How many threads colour photos: one for each core that torch may use; 0 where a GPU or a compiled model takes
    them one by one."""
    model = options.work.model
    on_cpu = model.device == "cpu" or (model.device is None and not torch.cuda.is_available())
    if not on_cpu or model.compile:
        return 0
    return options.workers or min(torch.get_num_threads(), MOST)


def run(worker: Worker, groups: Iterable[Sequence[Job]], threads: int) -> Generator[Report, None, None]:
    """The reports of groups of pictures, in order.

    Args:
        groups: pictures that a thread takes at a time.
        threads: how many groups are at work at once.
    """
    pending: deque[Future[list[Report]]] = deque()
    ended = threading.Event()

    def work(group: Sequence[Job]) -> list[Report]:
        if ended.is_set():
            raise CancelledError
        try:
            return worker(group)
        except BaseException:  # such as a full disk: none of the groups that wait may begin
            ended.set()
            raise

    with torch_threads(1), ThreadPoolExecutor(threads, "colorize", torch.set_num_threads, (1,)) as pool:
        try:
            for group in groups:
                pending.append(pool.submit(work, group))
                if len(pending) > AHEAD * threads:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
