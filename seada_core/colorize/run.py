"""One run of the command: plan, colour, report."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from ..files.folders import counted
from .options import RunOptions
from .plan import Journal, Plan, Refused, Report, chunks, variant
from .plan import plan as plan_run

# the engines, which import torch, are imported once there is something to colour

LISTED = 50  # failures listed at the end, if a journal has them all


class Run:
    """One run of the command: the plan, and what has been done of it."""

    def __init__(self, options: RunOptions):
        self.options, self.out = options, sys.stdout
        self.seeds = options.work.seeds
        self.plan = plan_run(
            options.inputs,
            options.output,
            self.seeds,
            options.overwrite,
            options.recursive,
            options.unpack,
            options.pages,
        )
        self.journal = Journal(self.plan.folder)
        self.broken: str | None = None
        self.coloured, self.start = 0, time.perf_counter()
        self.left = [shard.todo for shard in self.plan.shards]

    def __call__(self) -> int:
        """Colour what is to be coloured. Returns the exit status."""
        engine = _plain if self.options.engine == "plain" else _ray
        try:
            for refused in self.plan.refused:
                self.refuse(refused)
            self.tell_skipped()
            for number, left in enumerate(self.left):
                if left == 0:
                    self.pack(number)
            # standard output is for reports: Ray's messages about workers that died go to standard error
            with (
                contextlib.redirect_stdout(sys.stderr),
                _bar(self.plan.todo) as bar,
                contextlib.closing(engine(self.options, self.plan)) as reports,
            ):
                for report in reports:
                    self.take(report, bar)
                    if self.broken and not self.options.json:
                        break  # the others would have the same error
        finally:
            self.summary()
        return 1 if self.broken or self.journal.failures else 0

    def refuse(self, refused: Refused) -> None:
        """Count and print an input that cannot be coloured."""
        name, error = str(refused.source), refused.error
        error = error if name in error else f"{name}: {error}"
        self.journal.add(name, error)
        if self.options.json:
            self.print(_json(name, self.options.work.prompt, self.seeds, error=error))

    def tell_skipped(self) -> None:
        """Print why entries of folders are skipped, and the way out; files that are not pictures are only counted."""
        kinds = dict.fromkeys(one.kind for one in self.plan.skipped if one.help)
        for kind in kinds:
            same = [one for one in self.plan.skipped if one.kind == kind]
            print(f"note: skipped {counted(same)}, such as {same[0].path}: {same[0].help}", file=sys.stderr)

    def take(self, report: Report, bar: tqdm) -> None:
        """Print a report, and count it."""
        if report.broken:
            self.broken = report.error
        elif report.error:
            self.journal.add(report.job.name, report.error)
        else:
            self.coloured += 1
        for note in report.notes:
            print(f"note: {report.job.name}: {note}", file=sys.stderr)
        if self.options.json:
            job, target = report.job, None if report.error else report.job.target
            self.print(
                _json(
                    *(job.name, report.prompt, self.seeds, target, report.scheme),
                    *(report.seconds, report.error, report.notes),
                )
            )
        elif not report.error:
            self.print(_line(report, self.seeds))
        bar.set_postfix(failed=len(self.journal.failures), refresh=False)
        bar.update()
        if report.job.shard is not None and not report.broken:
            self.left[report.job.shard] -= 1
            if self.left[report.job.shard] == 0:
                self.pack(report.job.shard)

    def print(self, line: str) -> None:
        """Print a line on standard output without breaking the bars."""
        with tqdm.external_write_mode(self.out):
            print(line, file=self.out, flush=True)

    def pack(self, number: int) -> None:
        """Pack a shard whose pictures are done."""
        shard = self.plan.shards[number]
        try:
            shard.pack()
        except OSError as error:
            self.broken = f"cannot write {shard.target}: {error.strerror}; its pictures stay in {shard.work}"

    def summary(self) -> None:
        """Print the failures with their reasons, then the totals."""
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
        skipped = self.plan.skipped
        if self.plan.todo + self.plan.done + len(self.plan.refused) + len(skipped) > 1:
            seconds = time.perf_counter() - self.start
            there = f", {self.plan.done} there already" if self.plan.done else ""
            left = f", {len(skipped)} skipped ({counted(skipped)})" if skipped else ""
            failed = f", {len(failures)} failed" if failures else ""
            listed = f" (listed in {journal})" if journal else ""
            speed = f" in {seconds:.1f} s, {self.coloured / seconds:.2f} pictures/s" if self.coloured else ""
            print(f"{self.coloured} coloured{there}{left}{failed}{listed}{speed}", file=sys.stderr)


def _plain(options: RunOptions, plan: Plan) -> Generator[Report, None, None]:
    """One process; on the CPU several photos at a time, see `threads`, else one by one, `--batch` at a time."""
    from . import threads
    from .worker import Worker

    worker = Worker(options.work)
    groups = chunks(plan.jobs(), options.work.batch)
    count = threads.count(options) if plan.todo > 1 else 0
    if count:
        yield from threads.run(worker, groups, count)
        return
    for number, jobs in enumerate(groups, 1):
        name = jobs[0].member or jobs[0].source.name
        with _steps(f"{number}/{plan.todo} {name}", options.work.variants, plan.todo == 1) as callback:
            yield from worker(jobs, callback)


def _ray(options: RunOptions, plan: Plan) -> Generator[Report, None, None]:
    from . import ray_engine

    return ray_engine.run(options, plan.jobs())


def _bar(total: int) -> tqdm:
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


def _json(
    name: str,
    prompt: str | None,
    seeds: Sequence[int],
    target: Path | None = None,
    scheme: str | None = None,
    seconds: float = 0.0,
    error: str | None = None,
    notes: Sequence[str] = (),
) -> str:
    """The JSON line of an input; `target` is None where it has no result."""
    record: dict[str, object] = {
        "input": name,
        "output": None if target is None else str(target),
        "seed": seeds[0],
        "prompt": prompt,
        "scheme": scheme,
        "seconds": round(seconds, 3),
        "error": error,
        "notes": list(notes),
    }
    if len(seeds) > 1:
        record["variants"] = [] if target is None else [str(variant(target, seed)) for seed in seeds]
    return json.dumps(record)


def _line(report: Report, seeds: Sequence[int]) -> str:
    """The line of a picture that was coloured."""
    seed = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]}"
    colors = f", {report.scheme}" if report.scheme else ""
    return f'{report.job.name} -> {report.job.target} ({seed}, {report.seconds:.1f} s, "{report.prompt}"{colors})'
