"""Archives with Ray: the same as in one process, workers that die, and going on after a kill."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from command import ROOT, album, encoded, one_step, scene
from tars import write_tar

from seada_core.colorize.__main__ import main
from seada_core.colorize.plan import JOURNAL


@pytest.fixture
def run(tiny_model, capfd):
    return one_step(tiny_model, capfd)


def test_without_ray_it_is_said_what_to_install(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    status, _, err = run(album(tmp_path / "in", 2), "-o", tmp_path / "out", "--engine", "ray")
    assert status == 2
    assert "pip install 'ray[data]'" in err[-1]


@pytest.fixture(scope="module")
def ray():
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, logging_level="ERROR", log_to_driver=False, include_dashboard=False)
    yield ray
    ray.shutdown()


@pytest.mark.slow
def test_two_ray_workers_do_what_one_process_does(run, tmp_path, ray):
    """Files and a shard, a corrupt picture among them, the model's own failure for one more."""
    folder = album(tmp_path / "in", 12, bad=5)
    scene(1, 1).save(folder / "12.png")
    path = write_tar(tmp_path / "s.tar", {f"{k}.png": encoded(40, 20 + k) for k in range(4)} | {"4.png": b"bad"})
    results = {}
    for engine in ("plain", "ray"):
        out = tmp_path / engine
        status, lines, err = run(
            folder, path, "-o", out, "--engine", engine, "--hint", "0,15,#ff0000", "--json",
            *(["--workers", 2] if engine == "ray" else []),
        )  # fmt: skip
        assert status == 1
        reports = {record["input"]: record["error"] for record in map(json.loads, lines)}
        files = {p.name: p.read_bytes() for p in out.iterdir() if p.name != JOURNAL}
        failures = sorted((out / JOURNAL).read_text().splitlines())
        results[engine] = (reports, files, failures, sorted(line for line in err if line.startswith("error: ")))
        assert err[-1].startswith("15 coloured, 3 failed (listed in ")
    assert results["plain"] == results["ray"]


@pytest.mark.slow
def test_files_of_archives_become_the_same(run, data_dir, tmp_path, ray):
    """Every kind of file: results byte for byte, notices, and what is refused or skipped."""
    folder = data_dir / "test" / "files"
    if not folder.is_dir():
        pytest.skip("no test files of archives")
    results = {}
    for engine in ("plain", "ray"):
        out, workers = tmp_path / engine, ["--workers", 2] if engine == "ray" else []
        status, lines, err = run(folder, "-o", out, "--engine", engine, *workers)
        files = {p.name: p.read_bytes() for p in out.iterdir() if p.name != JOURNAL}
        said = sorted(line for line in err if line.startswith(("note: ", "error: ")))
        results[engine] = status, len(lines), files, [line.replace(str(out), "out") for line in said]
        assert f"{len(files)} coloured, " in err[-1]
    assert results["plain"] == results["ray"]
    assert len(results["ray"][2]) >= 19 and any("4 photos on a page" in line for line in results["ray"][3])


@pytest.mark.slow
def test_a_model_that_cannot_be_used_ends_ray(tmp_path, ray, capfd):
    assert main([str(album(tmp_path / "some", 2)), "--engine", "ray", "--device", "cuda:1"]) == 2
    assert "run without --device cuda:1" in capfd.readouterr().err
    argv = [str(album(tmp_path / "in", 3)), "-o", str(tmp_path / "out"), "--engine", "ray", "--model", str(tmp_path)]
    assert main([*argv, "--workers", "1"]) == 1
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "no unet file" in errors[0]


@pytest.mark.slow
def test_a_worker_that_dies_is_started_again_and_its_killer_named(run, tmp_path, ray, monkeypatch):
    from seada_core.colorize import ray_engine

    class Mortal(ray_engine.RayWorker):
        """Dies of a picture of 13 rows, every time; and once of the one named 03."""

        def __init__(self, *arguments):
            super().__init__(*arguments)
            colour, once = self.worker, tmp_path / "died"

            def dying(jobs):
                for job in jobs:
                    if job.read().size[1] == 13 or (job.source.name == "03.png" and not once.exists()):
                        once.touch()
                        os._exit(1)
                return colour(jobs)

            dying.options = colour.options
            self.worker = dying

    monkeypatch.setattr(ray_engine, "RayWorker", Mortal)
    folder = album(tmp_path / "in", 10)
    scene(40, 13).save(folder / "05.png")
    status, lines, err = run(folder, "-o", tmp_path / "out", "--engine", "ray", "--workers", 2)
    assert (status, len(lines)) == (1, 9)
    [error] = [line for line in err if line.startswith("error: ")]
    assert "05.png: workers died 3 times with it" in error
    assert sorted(p.name for p in (tmp_path / "out").glob("*.png")) == [f"{k:02}.png" for k in range(10) if k != 5]


@pytest.mark.slow
def test_ray_killed_and_gone_on_with(tiny_model, tmp_path):
    folder = album(tmp_path / "in", 40)
    argv = [sys.executable, "-m", "seada_core.colorize", str(folder), "--model", str(tiny_model), "--prompt", "x"]
    argv += ["-o", str(tmp_path / "out"), "--engine", "ray", "--workers", "2", "--json"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        process.stdout.readline()
        os.killpg(process.pid, signal.SIGKILL)
    time.sleep(2)  # for Ray's own processes to notice
    found = len(list((tmp_path / "out").glob("[!.]*.png")))
    assert 1 <= found < 40
    done = subprocess.run(argv, env=environment, capture_output=True, text=True)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 40 - found
    assert len(list((tmp_path / "out").glob("[!.]*.png"))) == 40
