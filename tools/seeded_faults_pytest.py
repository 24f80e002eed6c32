"""Runs pytest in processes forked from this one, which has imported the modules that its arguments name.

Each line of standard input is JSON: the folder to run in, a file for the output, pytest's arguments. Answers with two
lines: the process, which leads a session of its own, and its exit status.
"""

import contextlib
import json
import os
import sys


def run(folder: str, log: str, arguments: list[str]) -> int:
    os.setsid()
    os.chdir(folder)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    import pytest

    status = pytest.main(arguments)
    sys.stdout.flush()
    return int(status)


if __name__ == "__main__":
    sys.path.pop(0)  # the folder of this file
    for name in sys.argv[1:]:
        with contextlib.suppress(ImportError):
            __import__(name)
    for line in sys.stdin:
        process = os.fork()
        if not process:
            status = 3  # pytest's for an error of its own
            try:
                status = run(*json.loads(line))
            finally:
                os._exit(status)
        print(process, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
