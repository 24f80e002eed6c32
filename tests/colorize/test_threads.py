"""Several photos at a time on the CPU."""

import threading

import pytest
import torch
from command import album

from seada_core.colorize import threads
from seada_core.colorize.worker import Worker


def results(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.png"))}


def test_results_and_reports_do_not_depend_on_the_number_of_threads(run, tmp_path):
    photos, told = album(tmp_path / "photos", 5, bad=1), []
    for count in (1, 3):
        status, out, err = run(photos, "-o", tmp_path / f"of{count}", "--workers", count)
        assert status == 1 and any("01.png" in line for line in err)
        told.append([line.split(" -> ")[0] for line in out])
    assert told[0] == told[1] == [str(photos / f"{k:02}.png") for k in (0, 2, 3, 4)]  # in order
    assert results(tmp_path / "of1") == results(tmp_path / "of3") and len(results(tmp_path / "of3")) == 4


def test_photos_are_coloured_at_once_by_one_thread_each(run, tmp_path, monkeypatch):
    both, counts, original = threading.Barrier(2, timeout=20), [], Worker.__call__

    def waiting(self, jobs, callback=None):
        counts.append(torch.get_num_threads())
        both.wait()  # fails unless two photos are at work together
        return original(self, jobs, callback)

    monkeypatch.setattr(Worker, "__call__", waiting)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert run(album(tmp_path / "photos", 4), "-o", tmp_path / "out", "--workers", 2)[0] == 0
        assert counts == [1] * 4 and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_model_is_loaded_once(run, tmp_path, monkeypatch):
    from seada_core.colorize import worker

    loads, original = [], worker.load_model
    monkeypatch.setattr(worker, "load_model", lambda options: loads.append(1) or original(options))
    assert run(album(tmp_path / "photos", 4), "-o", tmp_path / "out", "--workers", 3)[0] == 0
    assert loads == [1]


def test_pictures_that_wait_are_dropped_once_the_reports_are_closed():
    begun = []

    def work(group):
        begun.append(group)
        return list(group)

    found = threads.run(work, ([k] for k in range(1000)), 2)
    assert next(found) == 0
    found.close()
    assert len(begun) <= 2 * threads.AHEAD + 2


@pytest.mark.parametrize(("device", "compile", "expected"), [("cuda", False, 0), ("cpu", True, 0), ("cpu", False, 3)])
def test_a_gpu_and_a_compiled_model_take_photos_one_by_one(device, compile, expected):
    from dataclasses import replace
    from pathlib import Path

    from seada_core.colorize.arguments import parse

    options = parse([str(Path(__file__)), "--workers", "3"])
    model = replace(options.work.model, device=device, compile=compile)
    assert threads.count(replace(options, work=replace(options.work, model=model))) == expected
