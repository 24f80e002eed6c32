"""Parts of a benchmark that fail in every way, for `benchmarks.speed.on_gpu.run`."""

import os
import time
import warnings

from benchmarks.speed.on_gpu.run import Measure


def fails(device, tiny):
    yield None

    def wrong():
        raise ValueError("one row\nfails")

    yield Measure("wrong", "s", wrong)
    yield Measure("half", "s", lambda: 0.5)
    yield Measure("quarter", "s", lambda: 0.25, "half")
    raise RuntimeError("so does the part")


def crashes(device, tiny):
    yield Measure("before the crash", "s", lambda: 1.0)
    yield None
    os._exit(7)


def hangs(device, tiny):
    yield Measure("before it hangs", "s", lambda: 2.0)
    yield None
    time.sleep(600)


def works(device, tiny):
    yield Measure("early", "", lambda: "yes")
    yield None
    yield Measure("device", "", lambda: device)
    yield Measure("warned", "", lambda: warnings.warn("no CUDA graph of it", stacklevel=1) or "eager")
