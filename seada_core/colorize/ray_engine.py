"""`--engine ray`: a worker for each GPU, or for some CPUs, of a machine or a cluster, by Ray Data.

Workers read photos and write results themselves, so all of a cluster's machines must see both at the same paths; only
jobs and reports are sent over the network. A worker that dies is started again and goes on with its pictures; a ledger
finds pictures that kill workers, and they are reported.
"""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..errors import CommandError
from .options import RunOptions, WorkOptions
from .plan import Job, Report, chunks
from .worker import Worker

WINDOW = 50_000  # pictures planned at once; each window loads the model again
CHUNK = 8  # pictures that a worker takes at a time, at least
CPUS_PER_WORKER = 4  # where there is no GPU
ATTEMPTS = 3  # deaths of workers after which a picture is not tried again


class Ledger:
    """What workers have begun and ended, kept outside them since a worker may die."""

    def __init__(self) -> None:
        self.begun: dict[str, int] = {}
        self.ended: dict[str, bytes] = {}

    def look(self, names: list[str]) -> list[tuple[int, bytes | None]]:
        """How often each picture has been begun, and its pickled report if it is done."""
        return [(self.begun.get(name, 0), self.ended.get(name)) for name in names]

    def begin(self, names: list[str]) -> None:
        for name in names:
            self.begun[name] = self.begun.get(name, 0) + 1

    def end(self, reports: dict[str, bytes]) -> None:
        self.ended |= reports


class RayWorker:
    """A `worker.Worker` as Ray Data calls it: a batch of pickled lists of jobs to one of pickled lists of reports."""

    def __init__(self, options: WorkOptions, ledger: Any, folder: str, threads: int | None):
        import ray

        os.chdir(folder)
        if threads is not None:
            torch.set_num_threads(threads)
        self.worker, self.ledger, self.get = Worker(options), ledger, ray.get

    def __call__(self, batch: dict) -> dict:
        return {"reports": [pickle.dumps(self.reports(pickle.loads(jobs))) for jobs in batch["jobs"]]}

    def reports(self, jobs: list[Job]) -> list[Report]:
        """The report of each job; for jobs that were done before a worker died, the report from then."""
        found: dict[str, Report] = {}
        fresh: list[Job] = []
        groups: list[list[Job]] = []
        for job, (begun, report) in zip(jobs, self.get(self.ledger.look.remote([job.name for job in jobs]))):
            if report is not None:
                found[job.name] = pickle.loads(report)
            elif begun >= ATTEMPTS:
                found[job.name] = Report(job, error=f"{job.name}: workers died {begun} times with it (out of memory?)")
            elif begun:
                groups.append([job])  # alone, to find the one that kills workers
            else:
                fresh.append(job)
        for group in [*chunks(fresh, self.worker.options.batch), *groups]:
            self.get(self.ledger.begin.remote([job.name for job in group]))
            reports = {report.job.name: report for report in self.worker(group)}
            self.ledger.end.remote({name: pickle.dumps(report) for name, report in reports.items()})
            found |= reports
        return [found[job.name] for job in jobs]


def run(options: RunOptions, jobs: Iterable[Job]) -> Generator[Report, None, None]:
    """Colour pictures with Ray Data; reports come in the order in which pictures are done.

    Starts Ray on this machine, or joins the cluster that RAY_ADDRESS names.

    Raises:
        CommandError: Ray is missing, has too few CPUs for a worker, or gives up.
    """
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # errors come back as exceptions
    try:
        import ray
        import ray.data
    except ImportError as error:
        text = f"--engine ray needs Ray: pip install 'ray[data]', or use --engine plain ({error})"
        raise CommandError(text, 2) from None
    device = options.work.model.device
    if device not in (None, "cpu"):
        raise CommandError(f"--engine ray gives every worker a GPU of its own; run without --device {device}", 2)
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    ours = not ray.is_initialized()
    if ours:
        ray.init(logging_level=logging.ERROR, log_to_driver=False, include_dashboard=False)
    try:
        share = _share(options, ray.cluster_resources())
        for window in chunks(jobs, WINDOW):
            yield from _window(options.work, window, share)
    finally:
        if ours:
            ray.shutdown()


class _Share(NamedTuple):
    """How many workers there are, and what Ray reserves for each."""

    workers: int
    cpus: float
    gpus: float | None


def _share(options: RunOptions, cluster: dict[str, float]) -> _Share:
    """How a cluster's resources are shared."""
    gpus, cpus = int(cluster.get("GPU", 0)), int(cluster.get("CPU", 0))
    if gpus and options.work.model.device is None:
        workers = options.workers or gpus
        return _Share(workers, min(1.0, cpus / workers), min(1.0, gpus / workers))
    workers = options.workers or max(1, cpus // CPUS_PER_WORKER)
    if workers > cpus:
        raise CommandError(f"--workers {workers}: Ray has {cpus} CPUs, and a worker needs one", 2)
    return _Share(workers, cpus // workers, None)


def _window(options: WorkOptions, jobs: list[Job], share: _Share) -> Iterator[Report]:
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # workers do not look where this package is, unless it is installed
    path = os.pathsep.join([str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")])
    environment = {"env_vars": {"PYTHONPATH": path}}
    ledger = ray.remote(num_cpus=0, runtime_env=environment)(Ledger).remote()
    threads = int(share.cpus) if share.gpus is None else None
    rows = [{"jobs": pickle.dumps(chunk)} for chunk in chunks(jobs, max(CHUNK, options.batch))]
    data = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        RayWorker,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(share.workers, len(rows))),
        fn_constructor_args=(options, ledger, os.getcwd(), threads),
        runtime_env=environment,
        num_cpus=share.cpus,
        num_gpus=share.gpus,
    )
    try:
        for row in data.iter_rows():
            yield from pickle.loads(row["reports"])
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[-1]
        raise CommandError(f"Ray gave up: {reason}; what was coloured stays: run this again to go on") from error
