"""Parts of a benchmark that fail in every way, for `benchmarks.speed.on_gpu.run`."""

import os
import subprocess
import sys
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
    yield Measure(
        "its child", "", lambda: str(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]).pid)
    )
    time.sleep(600)


def works(device, tiny):
    yield Measure("early", "", lambda: "yes")
    yield None
    yield Measure("device", "", lambda: device)
    yield Measure("warned", "", lambda: warnings.warn("no CUDA graph of it", stacklevel=1) or "eager")


def takes_long(device, tiny):
    yield None
    yield Measure("long", "", lambda: time.sleep(6) or "done")
