"""Mutation testing with chosen faults: `python -m tools.seeded_faults [--only NAME ...] [--list]`.

Each fault of seeded_faults.toml replaces a text in one of the project's files. It is applied in a git worktree with the
current state of the working tree, where its tests must pass without it and fail with it. A test that hangs counts as
failed only if the fault says so (`hangs = true`). If a test is skipped (no ComfyUI, no browser), its faults are not
tried.

Prints one line per fault, then totals. Exit status: 1 if a fault went unnoticed, 2 if the list or the tests are broken.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIST = Path(__file__).with_suffix(".toml")
BULLETS = ("files", "weights", "workflows and the page", "offline", "load", "training", "numbers", "supply", "films")
NOTICED, UNNOTICED, NOT_TRIED, BROKEN = "noticed", "UNNOTICED", "not tried", "BROKEN"


class FaultError(Exception):
    """A fault that cannot be applied, or inconclusive tests; the message names it and the reason."""


@dataclass(frozen=True)
class Fault:
    """Replaces `before`, which occurs once in `file`, by `after`; one of `tests` (pytest's node ids) must fail."""

    name: str
    bullet: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]
    hangs: bool = False  # whether a test that times out counts as failed

    def changed(self, tree: Path) -> str:
        """The file's text with the fault. Raises FaultError unless `before` occurs exactly once."""
        path = tree / self.file
        text = path.read_text("utf-8") if path.is_file() else ""
        if text.count(self.before) != 1:
            raise FaultError(
                f"{self.name}: its text occurs {text.count(self.before)} times in {self.file}, expected once; "
                f"update it: {self.before!r}"
            )
        return text.replace(self.before, self.after)


@dataclass(frozen=True)
class Outcome:
    """The result of tests: pytest's exit status (None: timeout), and node ids in order."""

    status: int | None
    passed: tuple[str, ...]
    failed: tuple[str, ...]
    output: str


def read_list(path: Path = LIST) -> list[Fault]:
    """The faults of the list. Raises FaultError for duplicate names, unknown bullets, and faults without tests."""
    try:
        import tomllib
    except ImportError:  # Python 3.10; a dependency of pytest
        import tomli as tomllib

    faults = []
    for entry in tomllib.loads(path.read_text("utf-8"))["fault"]:
        try:
            fault = Fault(**{**entry, "tests": tuple(entry["tests"])})
        except (TypeError, KeyError) as error:
            raise FaultError(f"{entry.get('name')}: {error}") from None
        if fault.bullet not in BULLETS or not fault.tests or fault.before == fault.after:
            raise FaultError(f"{fault.name}: expected a bullet of {', '.join(BULLETS)}, tests, and a change")
        faults.append(fault)
    if len({fault.name for fault in faults}) < len(faults):
        raise FaultError(f"{path.name} has two faults with the same name")
    return faults


def _git(folder: Path, *arguments: str | Path) -> str:
    identity = ("-c", "user.name=seeded faults", "-c", "user.email=tests@localhost")
    try:
        done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise FaultError(f"git is needed, and failed: {getattr(error, 'stderr', None) or error}") from None
    return done.stdout.strip()


@contextmanager
def worktree(root: Path) -> Iterator[Path]:
    """A temporary worktree of the tracked files in their current state, with a link to the test data of `root`."""
    with tempfile.TemporaryDirectory(prefix="seeded-") as folder:
        tree = Path(folder) / "tree"
        _git(root, "worktree", "add", "--detach", tree, _git(root, "stash", "create") or "HEAD")
        try:
            if (root.parent / "shared").is_dir():
                (tree.parent / "shared").symlink_to((root.parent / "shared").resolve())
            yield tree
        finally:
            _git(root, "worktree", "remove", "--force", tree)


def run_tests(tree: Path, tests: Sequence[str], seconds: float) -> Outcome:
    """Run tests by node id, slow ones included, up to the first failure."""
    options = ["-q", "-x", "-rpfE", "--tb=short", "-p", "no:cacheprovider", "-o", "addopts="]
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *options, *tests],
        cwd=tree,
        # compiled files are matched by time (in seconds) and size, so stale ones could be used for the changed file
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, status = process.communicate(timeout=seconds)[0], process.returncode
    except subprocess.TimeoutExpired:
        output, status = b"", None
    finally:
        if process.returncode is None:  # also end servers and workers of the tests
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    text = output.decode("utf-8", "replace")
    lines = [line.split(" ", 1) for line in text.splitlines() if line.startswith(("PASSED ", "FAILED "))]
    names = {kind: tuple(name.split(" - ")[0] for k, name in lines if k == kind) for kind in ("PASSED", "FAILED")}
    return Outcome(status, names["PASSED"], names["FAILED"], text)


class Trial:
    """Applies faults in a worktree. Tests that several faults share are run without a fault only once."""

    def __init__(self, tree: Path, seconds: float):
        self.tree, self.seconds = tree, seconds
        self.passing: dict[tuple[str, ...], list[str]] = {}

    def passing_without(self, tests: tuple[str, ...]) -> list[str]:
        """The tests that pass without a fault; the others are skipped.

        Raises:
            FaultError: one fails, takes too long, or does not exist.
        """
        if tests not in self.passing:
            outcome = run_tests(self.tree, tests, self.seconds)
            if outcome.status != 0:
                why = "take too long" if outcome.status is None else "do not pass"
                raise FaultError(f"{', '.join(tests)} {why} without a fault:\n{outcome.output[-3000:]}")
            names = {name.split("[")[0] for name in outcome.passed} | set(outcome.passed)
            self.passing[tests] = [test for test in tests if test in names]
        return self.passing[tests]

    def check(self, fault: Fault) -> tuple[str, str]:
        """(the outcome, the first test that failed or the reason why none did).

        Raises:
            FaultError: the fault cannot be applied, or its tests stop without failing.
        """
        tests = self.passing_without(fault.tests)
        if not tests:
            return NOT_TRIED, f"skipped here: {fault.tests[0]}"
        path = self.tree / fault.file
        text = path.read_text("utf-8")
        path.write_text(fault.changed(self.tree), "utf-8")
        try:
            outcome = run_tests(self.tree, tests, self.seconds)
        finally:
            path.write_text(text, "utf-8")
        if outcome.status is None:
            return NOTICED if fault.hangs else UNNOTICED, f"more than {self.seconds:g} s: {tests[0]}"
        if outcome.status == 0:
            return UNNOTICED, ", ".join(tests)
        if outcome.status != 1 or not outcome.failed:
            raise FaultError(f"{fault.name}: its tests stopped without failing:\n{outcome.output[-3000:]}")
        return NOTICED, outcome.failed[0]


def main(arguments: list[str] | None = None, root: Path = ROOT, path: Path = LIST) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these faults, or those of these bullets")
    parser.add_argument("--list", action="store_true", help="only list the faults")
    parser.add_argument("--seconds", type=float, default=300, help="time limit for the tests of a fault")
    options = parser.parse_args(arguments)
    try:
        faults = read_list(path)
        wanted = set(options.only or ())
        unknown = wanted - {fault.name for fault in faults} - {fault.bullet for fault in faults}
        if unknown:
            raise FaultError(f"no fault is called {sorted(unknown)[0]!r}; --list names them")
        faults = [fault for fault in faults if not wanted or {fault.name, fault.bullet} & wanted]
        for fault in faults:  # check the whole list before running anything
            fault.changed(root)
        if options.list:
            for fault in faults:
                print(f"{fault.bullet:22}  {fault.name:40}  {fault.file}: {', '.join(fault.tests)}")
            return 0
        with worktree(root) as tree:
            return _try_all(Trial(tree, options.seconds), faults)
    except FaultError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _try_all(trial: Trial, faults: list[Fault]) -> int:
    sums: Counter[tuple[str, str]] = Counter()
    for fault in faults:
        begun = time.monotonic()
        try:
            outcome, where = trial.check(fault)
        except FaultError as error:
            outcome, where = BROKEN, str(error)
        sums[fault.bullet, outcome] += 1
        print(f"{outcome:9}  {time.monotonic() - begun:4.0f} s  {fault.name:40}  {where}", flush=True)
    print()
    totals = Counter()
    for (bullet, outcome), count in sums.items():
        totals[bullet] += count
        totals[outcome] += count
    for bullet in dict.fromkeys(fault.bullet for fault in faults):
        print(f"{bullet:22}  {sums[bullet, NOTICED]:3} of {totals[bullet]} noticed")
    rest = "".join(f", {totals[name]} {name}" for name in (UNNOTICED, NOT_TRIED, BROKEN) if totals[name])
    print(f"{'all':22}  {totals[NOTICED]:3} of {len(faults)} noticed{rest}")
    return 2 if totals[BROKEN] else 1 if totals[UNNOTICED] else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that every `finally` runs
    sys.exit(main())
