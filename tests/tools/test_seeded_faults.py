"""The runner of seeded faults on a project of three lines; the real list is up to date."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tools import seeded_faults

ROOT = Path(__file__).resolve().parents[2]
TESTS = """
import pytest
from double import double

def test_two():
    assert double(2) == 4

@pytest.mark.skip
def test_elsewhere():
    assert double(1) == 2

def test_never():
    assert double(1) == 3
"""
FAULT = {"bullet": "numbers", "file": "double.py", "before": "2 * n", "after": "3 * n"}


@pytest.fixture
def run(tmp_path, capsys):
    """Runs the command on faults of a small project; (status, lines on standard output, standard error)."""
    if shutil.which("git") is None:
        pytest.skip("faults are put into a git worktree")
    project = tmp_path / "project"
    project.mkdir()
    (project / "double.py").write_text("def double(n):\n    return 2 * n\n")
    (project / "test_double.py").write_text(TESTS)
    subprocess.run(["git", "init", "-q"], cwd=project, check=True)
    subprocess.run(["git", "add", "."], cwd=project, check=True)
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    subprocess.run(["git", *identity, "commit", "-q", "-m", "start"], cwd=project, check=True)
    (project / "double.py").write_text("def double(n):\n    return 2 * n  # not committed yet\n")

    def start(*faults: dict, arguments: tuple[str, ...] = ("--seconds", "60")) -> tuple[int, list[str], str]:
        lines = []
        for number, changes in enumerate(faults):
            fault = FAULT | {"name": f"fault {number}"} | changes
            fault["tests"] = [f"test_double.py::{name}" for name in fault["tests"]]
            lines += ["[[fault]]", *(f"{key} = {json.dumps(value)}" for key, value in fault.items())]
        path = tmp_path / "list.toml"
        path.write_text("\n".join(lines))
        status = seeded_faults.main(list(arguments), project, path)
        assert (project / "double.py").read_text() == "def double(n):\n    return 2 * n  # not committed yet\n"
        worktrees = subprocess.run(["git", "worktree", "list"], cwd=project, capture_output=True, text=True).stdout
        assert len(worktrees.splitlines()) == 1
        out, err = capsys.readouterr()
        return status, out.splitlines(), err

    return start


@pytest.mark.slow
def test_a_fault_is_noticed_or_the_status_is_1(run):
    status, lines, _ = run(
        {"tests": ["test_two"]},
        {"tests": ["test_two"], "after": "n * 2"},
        {"tests": ["test_elsewhere"]},
    )
    assert status == 1
    assert lines[0].startswith("noticed") and lines[0].endswith("test_double.py::test_two")
    assert lines[1].startswith("UNNOTICED") and "fault 1" in lines[1]
    assert lines[2].startswith("not tried") and "fault 2" in lines[2]
    assert lines[-1].split() == ["all", "1", "of", "3", "noticed,", "1", "UNNOTICED,", "1", "not", "tried"]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"tests": ["test_two"], "before": "4 * n"}, "fault 0: its text occurs 0 times in double.py, expected once"),
        ({"tests": ["test_two"], "before": "n"}, "its text occurs 4 times in double.py"),
        ({"tests": ["test_two"], "file": "nowhere.py"}, "its text occurs 0 times in nowhere.py"),
        ({"tests": []}, "fault 0: expected a bullet of .*, tests, and a change"),
        ({"tests": ["test_two"], "bullet": "luck"}, "expected a bullet of files, weights"),
        ({"tests": ["test_two"], "reason": "none"}, "fault 0: .*unexpected keyword argument 'reason'"),
    ],
)
def test_a_list_that_does_not_fit_is_an_error(run, fault, message):
    status, lines, err = run(fault)
    assert status == 2 and lines == []
    with pytest.raises(seeded_faults.FaultError, match=message):
        raise seeded_faults.FaultError(err)


@pytest.mark.slow
def test_inconclusive_tests_are_reported(run):
    status, lines, _ = run(
        {"tests": ["test_two"], "after": "2 * ("},  # it cannot even be imported
        {"tests": ["test_never"]},  # fails without
        {"tests": ["test_gone"]},
    )
    assert status == 2
    text = "\n".join(lines)
    assert "fault 0: its tests stopped without failing" in text
    assert "test_double.py::test_never do not pass without a fault" in text
    assert "test_double.py::test_gone do not pass without a fault" in text


@pytest.mark.slow
@pytest.mark.parametrize("hangs", [False, True])
def test_a_hang_counts_only_if_allowed(run, hangs):
    fault = {"tests": ["test_two"], "after": "2 * n if not __import__('time').sleep(600) else 0", "hangs": hangs}
    status, lines, _ = run(fault, arguments=("--seconds", "10"))
    assert status == (not hangs) and lines[0].startswith("noticed" if hangs else "UNNOTICED")
    assert "more than 10 s" in lines[0]


def test_the_list_fits_the_project(capsys):
    assert seeded_faults.main(["--list"]) == 0, capsys.readouterr().err
    faults = seeded_faults.read_list()
    assert {fault.bullet for fault in faults} == set(seeded_faults.BULLETS)
    for fault in faults:
        for test in fault.tests:
            path, name = test.split("[")[0].split("::")
            assert f"def {name}(" in (ROOT / path).read_text(), test
