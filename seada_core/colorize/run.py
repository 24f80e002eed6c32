"""One run of the command: plan, colour, report."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TextIO

from tqdm import tqdm

from .options import RunOptions
from .plan import Journal, Plan, Report, chunks, variant
from .plan import plan as plan_run

# the engines import torch, and do so once there is something to colour

LISTED = 50  # failures listed at the end, where a journal has them all


class Run:
    """One run of the command: what was planned, and what became of it."""

    def __init__(self, options: RunOptions):
        self.options, self.out = options, sys.stdout
        self.seeds = options.work.seeds
        self.plan = plan_run(
            options.inputs, options.output, self.seeds, options.overwrite, options.recursive, options.unpack
        )
        self.journal = Journal(self.plan.folder)
        self.broken: str | None = None
        self.coloured, self.start = 0, time.perf_counter()
        self.left = [shard.todo for shard in self.plan.shards]

    def __call__(self) -> int:
        """Colour what is to be coloured. Returns the exit status."""
        engine = _plain if self.options.engine == "plain" else _ray
        try:
            for job in self.plan.refused:
                error = job.error if str(job.source) in job.error else f"{job.source}: {job.error}"
                self.take(Report(job, self.options.work.colorize.prompt, error=error))
            for number, left in enumerate(self.left):
                if left == 0:
                    self.pack(number)
            # standard output is for reports: what Ray has to say of dying workers goes to standard error
            with (
                contextlib.redirect_stdout(sys.stderr),
                _bar(self.plan.todo) as bar,
                contextlib.closing(engine(self.options, self.plan)) as reports,
            ):
                for report in reports:
                    self.take(report, bar)
                    if self.broken and not self.options.json:
                        break  # the rest would only say so again
        finally:
            self.summary()
        return 1 if self.broken or self.journal.failures else 0

    def take(self, report: Report, bar=None) -> None:
        """Print a report, and count it."""
        if report.broken:
            self.broken = report.error
        elif report.error:
            self.journal.add(report.job.name, report.error)
        else:
            self.coloured += 1
        if report.note:
            print(f"note: {report.note}", file=sys.stderr)
        _print(report, self.seeds, self.options.json, self.out)
        if bar is not None:
            bar.set_postfix(failed=len(self.journal.failures), refresh=False)
            bar.update()
        if report.job.shard is not None and not report.broken:
            self.left[report.job.shard] -= 1
            if self.left[report.job.shard] == 0:
                self.pack(report.job.shard)

    def pack(self, number: int) -> None:
        """Pack a shard whose pictures are done."""
        shard = self.plan.shards[number]
        try:
            shard.pack()
        except OSError as error:
            self.broken = f"cannot write {shard.target}: {error.strerror}; its pictures stay in {shard.work}"

    def summary(self) -> None:
        """Failures with their reasons, then what was done in all."""
        self.journal.write()
        failures, journal = self.journal.failures, self.journal.path
        journal = journal if journal is not None and journal.is_file() else None
        shown = failures if journal is None else failures[:LISTED]
        for error in shown:
            print(f"error: {error}", file=sys.stderr)
        if len(shown) < len(failures):
            print(f"error: {len(failures) - len(shown)} more are in {journal}", file=sys.stderr)
        if self.broken:
            print(f"error: {self.broken}", file=sys.stderr)
        if self.plan.todo + self.plan.done + len(self.plan.refused) > 1:
            seconds = time.perf_counter() - self.start
            there = f", {self.plan.done} there already" if self.plan.done else ""
            failed = f", {len(failures)} failed" if failures else ""
            listed = f" (listed in {journal})" if journal else ""
            speed = f" in {seconds:.1f} s, {self.coloured / seconds:.2f} pictures/s" if self.coloured else ""
            print(f"{self.coloured} coloured{there}{failed}{listed}{speed}", file=sys.stderr)


def _plain(options: RunOptions, plan: Plan) -> Iterator[Report]:
    """One process, picture by picture or `--batch` at a time."""
    from .worker import Worker

    worker = Worker(options.work)
    for number, jobs in enumerate(chunks(plan.jobs(), options.work.batch), 1):
        name = jobs[0].member or jobs[0].source.name
        with _steps(f"{number}/{plan.todo} {name}", options.work.variants, plan.todo == 1) as callback:
            yield from worker(jobs, callback)


def _ray(options: RunOptions, plan: Plan) -> Iterator[Report]:
    from . import ray_engine

    return ray_engine.run(options, plan.jobs())


def _bar(total: int):
    """A bar of pictures on standard error, where that is a terminal and there are several."""
    hidden = total < 2 or not sys.stderr.isatty()
    return tqdm(total=total, unit="picture", smoothing=0.1, disable=hidden)


@contextlib.contextmanager
def _steps(name: str, variants: int, shown: bool) -> Iterator[Callable[[int, int], None]]:
    """A callback that moves a bar of steps on standard error, where that is a terminal."""
    with tqdm(desc=name, unit="step", leave=False, disable=not (shown and sys.stderr.isatty())) as bar:

        def callback(done: int, steps: int) -> None:
            bar.total = steps * variants
            bar.update()

        yield callback


def _print(report: Report, seeds: Sequence[int], as_json: bool, out: TextIO) -> None:
    job, error = report.job, report.error
    if as_json:
        record = {
            "input": job.name,
            "output": None if error else str(job.target),
            "seed": seeds[0],
            "prompt": report.prompt,
            "scheme": report.scheme,
            "seconds": round(report.seconds, 3),
            "error": error,
        }
        if len(seeds) > 1:
            record["variants"] = [] if error else [str(variant(job.target, seed)) for seed in seeds]
        line = json.dumps(record)
    elif error:
        return
    else:
        seed = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]}"
        colors = f", {report.scheme}" if report.scheme else ""
        line = f'{job.name} -> {job.target} ({seed}, {report.seconds:.1f} s, "{report.prompt}"{colors})'
    with tqdm.external_write_mode(out):
        print(line, file=out, flush=True)
