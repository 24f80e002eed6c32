"""The benchmark for GPUs, tiny and on the CPU; and that a part which fails costs no other part's rows."""

import json
import time
from pathlib import Path

import pytest
import torch

from benchmarks import Table
from benchmarks.speed import gpu
from benchmarks.speed.on_gpu import agreement, run
from seada_core.pipeline import Colorizer
from seada_core.weights import part_files

torch.set_num_threads(1)


@pytest.mark.slow  # it has a time limit, which a busy machine exceeds
def test_all_parts_run_on_a_cpu(tmp_path, capsys):
    """Every row has a figure, none failed, and all of them are in the file."""
    arguments = ["--device", "cpu", "--tiny", "--one-process", "--out", str(tmp_path)]
    assert gpu.main(arguments) == 0
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    failed = {name: remark for name, (value, _, _, remark) in rows.items() if value is None or remark}
    assert not failed
    printed = capsys.readouterr().out
    assert all(f"| {name} |" in printed for name in rows)
    for row in (
        "one step, ours, 12 sites",
        "sd15, 20 unipc steps and decoding, compiled",
        "training stage3, micro-batch 2",
    ):
        assert rows[row][0] > 0 and rows[row][2] > 0, row  # seconds, and a ratio to the peer's
    differences = [value for name, (value, *_) in rows.items() if "beside the CPU's fp32" in name and " in " in name]
    assert len(differences) == 3 * len(part_files.SECTIONS) and all("within" in value for value in differences)


def is_running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.is_file() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_part_that_fails_costs_no_other_part_its_rows(tmp_path):
    names = ("fails", "crashes", "hangs", "works")
    parts = {name: run.Part("benchmark_parts", name, 1 if name == "hangs" else 60, early=4) for name in names}
    table = Table("gpu", "parts that fail", run.COLUMNS, "cpu", tmp_path)
    run.in_processes(parts, "cpu", True, run.Results(lambda: table), 120)
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert rows["wrong"] == [None, "s", None, "ValueError: one row fails"]
    assert rows["quarter"][:3] == [0.25, "s", 0.5]
    assert rows["fails: the rest"][3] == "RuntimeError: so does the part"
    assert rows["before the crash"][0] == 1.0 and rows["crashes: the rest"][3] == "the process ended, status 7"
    assert rows["before it hangs"][0] == 2.0 and rows["hangs: the rest"][3] == "stopped after 1 s"
    assert not is_running(int(rows["its child"][0]))
    assert rows["early"][0] == "yes" and rows["device"] == ["cpu", "", None, ""]
    assert rows["warned"] == ["eager", "", None, "no CUDA graph of it"]


@pytest.mark.slow
def test_a_part_s_time_begins_with_its_turn(tmp_path):
    """It has waited for longer than it may take."""
    parts = {"takes_long": run.Part("benchmark_parts", "takes_long"), "works": run.Part("benchmark_parts", "works", 3)}
    table = Table("gpu", "a part that waits", run.COLUMNS, "cpu", tmp_path)
    run.in_processes(parts, "cpu", True, run.Results(lambda: table), 120)
    assert {name: row[0] for name, row in table.content["rows"].items()} == {
        "early": "yes",
        "long": "done",
        "device": "cpu",
        "warned": "eager",
    }


def test_what_does_not_fit_into_the_time_is_skipped(tmp_path):
    parts = {name: run.Part("benchmark_parts", name) for name in ("fails", "works")}
    table = Table("gpu", "no time", run.COLUMNS, "cpu", tmp_path)
    started = time.monotonic()
    run.in_processes(parts, "cpu", True, run.Results(lambda: table), 0)
    run.in_this_process({"once": parts["works"]}, "cpu", True, run.Results(lambda: table), 0)
    assert time.monotonic() - started < 2
    assert {name: row[3] for name, row in table.content["rows"].items()} == dict.fromkeys(
        ("fails", "works", "once"), run.NO_TIME
    )


SOME_TESTS = """
import time, pytest

def test_a_gpu_passes(): pass
def test_b_gpu_fails(): assert False
def test_other(): assert False
@pytest.mark.parametrize("name", ["a b"])
def test_c_gpu_hangs(name): time.sleep(60)
"""


@pytest.mark.slow
def test_tests_are_counted_and_stopped_in_time(tmp_path):
    file = tmp_path / "test_some.py"
    file.write_text(SOME_TESTS)
    started = time.monotonic()
    found = agreement.run_tests([str(file)], "gpu", 6)
    assert time.monotonic() - started < 20
    assert found == "1 passed, 1 failed, test_b_gpu_fails; stopped after 6 s"
    assert agreement.run_tests([str(file)], "a_gpu or other", 60) == "1 passed, 1 failed, test_other"
    assert agreement.run_tests([str(file)], "nothing", 60).startswith("none ended; 4 deselected in")


@pytest.mark.slow
def test_the_gpu_s_tests_are_found():
    """On a CPU they are skipped, eight of captured functions and three of devices; one has a part without a GPU."""
    found = agreement.run_tests(agreement.TESTS, agreement.ON_GPU, 120)
    assert found == ("12 passed" if torch.cuda.is_available() else "11 skipped, 1 passed")


def test_what_compiles_comes_last_and_starts_when_only_more_training_is_left():
    names = list(gpu.PARTS)
    compiling = [name for name in names if gpu.PARTS[name].compiles]
    assert names[-len(compiling) :] == compiling and names[-len(compiling) - 1] == "training-more"
    first = min(names.index(name) - gpu.PARTS[name].early for name in compiling)
    assert names[first] == "training-more"


# --- every part on a GPU, where there is one; on a CPU in other precisions -------------------------------------------


@pytest.fixture(scope="module")
def reference():
    cpu = Colorizer.from_pretrained("mini", "cpu")
    given = agreement.inputs(cpu)
    with torch.no_grad():
        return given, {part: agreement.output(part, cpu, given) for part in part_files.SECTIONS}


@pytest.mark.parametrize("dtype", agreement.TOLERANCES, ids=str)
def test_parts_agree_with_fp32_on_the_cpu(reference, dtype):
    given, outputs = reference
    colorizer = Colorizer.from_pretrained("mini", "cuda" if torch.cuda.is_available() else "cpu", dtype)
    for part, wanted in outputs.items():
        assert len(wanted) > 500 and wanted.std() > 1e-3, part
        found = agreement.difference(part, colorizer, wanted, given, dtype)
        assert found <= agreement.TOLERANCES[dtype], part
        if dtype != torch.float32:
            assert found > 0, part  # it did compute in half precision
