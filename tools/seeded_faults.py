"""Do the tests notice? `python -m tools.seeded_faults [--only NAME ...] [--list]`.

Each fault of seeded_faults.toml is a text of one of the project's files and what takes its place. It is put into a copy
of the files that git knows, as they are in the working tree, and the tests named beside it have to fail there, having
passed without it. A test that hangs has noticed only where the fault says that it may (`hangs = true`). Where a test is
skipped (no ComfyUI, no browser), its faults are not tried.

Prints a line a fault, and sums; exit status 1 where one went unnoticed, 2 where the list or the tests are broken.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIST = Path(__file__).with_suffix(".toml")
BULLETS = ("files", "weights", "workflows and the page", "offline", "load", "training", "numbers", "supply")
# what most tests import, and no part of the project
LARGE = ("torch", "torchvision", "diffusers.training_utils", "transformers", "accelerate", "safetensors.torch", "scipy")
NOTICED, UNNOTICED, NOT_TRIED, BROKEN = "noticed", "UNNOTICED", "not tried", "BROKEN"


class FaultError(Exception):
    """A fault that cannot be put in, or tests that say nothing; the message names it and the reason."""


@dataclass(frozen=True)
class Fault:
    """`before`, which occurs once in `file`, becomes `after`; one of `tests` (pytest's node ids) has to fail."""

    name: str
    bullet: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]
    hangs: bool = False  # whether a test that does not end counts as one that fails

    def changed(self, tree: Path) -> str:
        """The file with the fault in it. Raises FaultError where `before` does not occur exactly once."""
        path = tree / self.file
        text = path.read_text("utf-8") if path.is_file() else ""
        if text.count(self.before) != 1:
            raise FaultError(
                f"{self.name}: its text occurs {text.count(self.before)} times in {self.file}, expected once; "
                f"bring it up to date: {self.before!r}"
            )
        return text.replace(self.before, self.after)


@dataclass(frozen=True)
class Outcome:
    """What the tests came to: pytest's exit status (None: they took too long), and node ids in order."""

    status: int | None
    passed: tuple[str, ...]
    failed: tuple[str, ...]
    output: str


def read_list(path: Path = LIST) -> list[Fault]:
    """The faults, of different names, each of a bullet and with tests. Raises FaultError for others."""
    try:
        import tomllib
    except ImportError:  # Python 3.10, where pytest brings it along
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
        raise FaultError(f"{path.name} has two faults of one name")
    return faults


@contextmanager
def copied(root: Path) -> Iterator[Path]:
    """A temporary copy of the files that git knows; beside it a link to the test data that lie beside the original."""
    try:
        known = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise FaultError(f"the files to copy are those that git knows, and git does not answer: {error}") from None
    with tempfile.TemporaryDirectory(prefix="seeded-") as folder:
        tree = Path(folder) / "tree"
        for name in filter(None, known.split("\0")):
            if (root / name).is_file():
                (tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(root / name, tree / name)
        if (root.parent / "shared").is_dir():
            (tree.parent / "shared").symlink_to((root.parent / "shared").resolve())
        yield tree


class Pytest:
    """Runs tests in processes of their own, which have some modules from the start: see seeded_faults_pytest.py."""

    def __init__(self, modules: Iterable[str] = ()):
        self.process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("seeded_faults_pytest.py"), *modules],
            # compiled files are told apart by their second and size: those of before the fault could be taken for it;
            # and no plugins but the project's own, which are most of a start
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()

    def run(self, tree: Path, tests: Iterable[str], seconds: float) -> Outcome:
        """Run tests by node id, slow ones too; after the first failure the rest is left out."""
        log = tree.with_name("pytest.log")
        options = ["-q", "-x", "-rpfE", "--tb=short", "-p", "no:cacheprovider", "-o", "addopts="]
        self.process.stdin.write(json.dumps([str(tree), str(log), [*options, *tests]]).encode() + b"\n")
        leader = int(self.process.stdout.readline())
        ended = False
        try:
            ended = bool(select.select([self.process.stdout], [], [], seconds)[0])
        finally:
            if not ended:  # the servers and workers of the tests too
                os.killpg(leader, signal.SIGKILL)
            status = int(self.process.stdout.readline())
        output = log.read_text("utf-8", "replace") if log.is_file() else ""
        lines = [line.split(" ", 1) for line in output.splitlines() if line.startswith(("PASSED ", "FAILED "))]
        names = {kind: tuple(text.split(" - ")[0] for k, text in lines if k == kind) for kind in ("PASSED", "FAILED")}
        return Outcome(status if ended else None, names["PASSED"], names["FAILED"], output)


class Trial:
    """Puts faults into copies of `root`. Tests that some faults share are run without them once."""

    def __init__(self, root: Path, seconds: float, modules: Iterable[str] = ()):
        self.root, self.seconds, self.pytest = root, seconds, Pytest(modules)
        self.passing: dict[tuple[str, ...], list[str]] = {}

    def without(self, tests: tuple[str, ...]) -> list[str]:
        """Those of the tests that pass where no fault is put in; the others are skipped.

        Raises:
            FaultError: one fails, takes too long, or does not exist.
        """
        if tests not in self.passing:
            with copied(self.root) as tree:
                outcome = self.pytest.run(tree, tests, self.seconds)
            if outcome.status != 0:
                why = "take too long" if outcome.status is None else "do not pass"
                raise FaultError(f"{', '.join(tests)} {why} without a fault:\n{outcome.output[-3000:]}")
            names = {name.split("[")[0] for name in outcome.passed} | set(outcome.passed)
            self.passing[tests] = [test for test in tests if test in names]
        return self.passing[tests]

    def check(self, fault: Fault) -> tuple[str, str]:
        """(what came of it, the test that failed first, or why not).

        Raises:
            FaultError: the fault cannot be put in, or its tests break off, with it or without.
        """
        tests = self.without(fault.tests)
        if not tests:
            return NOT_TRIED, f"skipped here: {fault.tests[0]}"
        with copied(self.root) as tree:
            (tree / fault.file).write_text(fault.changed(tree), "utf-8")
            outcome = self.pytest.run(tree, tests, self.seconds)
        if outcome.status is None:
            return NOTICED if fault.hangs else UNNOTICED, f"more than {self.seconds:g} s: {tests[0]}"
        if outcome.status == 0:
            return UNNOTICED, ", ".join(tests)
        if outcome.status != 1 or not outcome.failed:
            raise FaultError(f"{fault.name}: its tests broke off instead of failing:\n{outcome.output[-3000:]}")
        return NOTICED, outcome.failed[0]


def main(arguments: list[str] | None = None, root: Path = ROOT, path: Path = LIST) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these faults, or those of these bullets, alone")
    parser.add_argument("--list", action="store_true", help="name the faults, put none in")
    parser.add_argument("--seconds", type=float, default=300, help="that the tests of a fault may take")
    options = parser.parse_args(arguments)
    try:
        faults = read_list(path)
        wanted = set(options.only or ())
        unknown = wanted - {fault.name for fault in faults} - {fault.bullet for fault in faults}
        if unknown:
            raise FaultError(f"no fault is called {sorted(unknown)[0]!r}; --list names them")
        faults = [fault for fault in faults if not wanted or {fault.name, fault.bullet} & wanted]
        for fault in faults:  # all of the list fits before any of it is tried
            fault.changed(root)
        if options.list:
            for fault in faults:
                print(f"{fault.bullet:22}  {fault.name:40}  {fault.file}: {', '.join(fault.tests)}")
            return 0
        trial = Trial(root, options.seconds, LARGE if root == ROOT else ())
        try:
            return _try_all(trial, faults)
        finally:
            trial.pytest.close()
    except FaultError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _try_all(trial: Trial, faults: list[Fault]) -> int:
    sums: Counter[tuple[str, str]] = Counter()
    for fault in faults:
        begun = time.monotonic()
        try:
            came_to, where = trial.check(fault)
        except FaultError as error:
            came_to, where = BROKEN, str(error)
        sums[fault.bullet, came_to] += 1
        print(f"{came_to:9}  {time.monotonic() - begun:4.0f} s  {fault.name:40}  {where}", flush=True)
    print()
    totals = Counter()
    for (bullet, came_to), count in sums.items():
        totals[bullet] += count
        totals[came_to] += count
    for bullet in dict.fromkeys(fault.bullet for fault in faults):
        print(f"{bullet:22}  {sums[bullet, NOTICED]:3} of {totals[bullet]} noticed")
    rest = "".join(f", {totals[name]} {name}" for name in (UNNOTICED, NOT_TRIED, BROKEN) if totals[name])
    print(f"{'all':22}  {totals[NOTICED]:3} of {len(faults)} noticed{rest}")
    return 2 if totals[BROKEN] else 1 if totals[UNNOTICED] else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # by way of every `finally`
    sys.exit(main())
